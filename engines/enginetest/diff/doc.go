// Package diff finds where WebAssembly engines differ. It generates random
// modules, valid and the same for the same seed, runs each on several engines,
// bare and metered, and compares all that can be seen: results, the class of
// traps, memory, globals, the calls of host functions, and the fuel spent, to
// the unit. [Check] does it for one seed, [Minimize] makes what it found smaller.
//
// Modules have what WebAssembly 2.0 has: functions of several results, all
// numeric and vector instructions, references, tables, memory in and out of
// bounds, bulk instructions, blocks and branches of all kinds, loops that a
// counter ends, or fuel, and calls that gas in a global ends, or fuel. Host
// functions answer by their arguments; they read, write and grow the memory,
// fail, and call back. Some modules borrow from another: its functions, its gas,
// and now and then its memory and a table.
//
// What the specification leaves to engines is kept out: the bits of a NaN that
// arithmetic makes (the generator replaces each by one and the same), and the
// depth of the stack. Kept out too is what engines are known to do wrong, where
// the generator says so.
//
// Two engines that need cgo cannot be in one binary. The tests of this package
// run them in workers, or with the tag wasmer or wasmtime, one in process.
package diff
