// Package bench compares WebAssembly engines: the same modules on each, in the
// process that calls them and in one of their own, bare and metered.
//
// A [Program] is what is measured, a [Job] a program under one [Mode], and a
// [Runner] gets jobs ready: an [Engine] in this process, or a [Process] that
// serves one in its own ([Serve]), where it can be killed if a guest does not
// end. [Suite.Run] has every job done on every [Target] and makes a [Report],
// which says for each what was measured or why it could not be.
//
// How a figure comes about: the program is compiled and called once, and the
// answer is checked; it is called until a fifth of its time is over, to warm up
// and to learn how many calls make a sample; then samples are taken, in rounds
// that go through all engines, places and modes, so that what else the machine
// does falls on all alike. What is reported is the median, the quartiles, all
// samples, and the ratios of samples of the same rounds. An answer that is
// wrong, at first or after any sample, is a [Failure], never a figure.
package bench
