package bench

import (
	_ "embed"
	"fmt"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
)

// The modules of the programs. kernels.wasm is assembled by this package's
// tests; the others are compiled by programs/generate.sh.
var (
	//go:embed programs/kernels.wasm
	kernelsWasm []byte
	//go:embed programs/sha256.wasm
	sha256Wasm []byte
	//go:embed programs/sort.wasm
	sortWasm []byte
	//go:embed programs/json.wasm
	jsonWasm []byte
)

// Kind is what of a program is measured.
type Kind string

// The kinds of programs.
const (
	Call        Kind = "call"        // a function of one instance, called again and again
	Instantiate Kind = "instantiate" // making an instance and closing it
	Compile     Kind = "compile"     // compiling the module and closing it
)

// Program is one thing that is measured, the same on every engine.
type Program struct {
	Name     string   `json:"name"`
	Work     string   `json:"work"` // what one operation is, for people
	Kind     Kind     `json:"kind"`
	Wasm     []byte   `json:"wasm"`
	Function string   `json:"function"` // is called, and for all kinds gives the answer
	Args     []uint64 `json:"args"`     // words, as package engines encodes them
	// Want is the right answer. Where none is known, it is nil, and all engines
	// must give the same for a new instance's first call.
	Want []uint64 `json:"want"`
	Ops  int      `json:"ops"` // operations in a call, at least 1
}

// Go names the program that [GoProgram] makes.
const Go = "go"

// Programs are those that come with this package.
func Programs() []Program {
	kernel := func(name, work string, ops int, want uint64, args ...uint64) Program {
		return Program{Name: name, Work: work, Kind: Call, Wasm: kernelsWasm, Function: name, Args: args, Want: []uint64{want}, Ops: ops}
	}
	json := Program{Name: "json", Work: "write, read and write again 100 records, 14 KB", Kind: Call, Wasm: jsonWasm, Function: "json", Args: []uint64{100}, Want: []uint64{0x7438cb031e904516}, Ops: 1}
	return []Program{
		kernel("add", "call of a function that adds two numbers", 1, 3, 1, 2),
		kernel("host", "call of a host function by the guest", 1000, 1000, 1000),
		kernel("loop", "10⁶ turns of a loop that multiplies and adds", 1, 0x82f6e3747082ab40, 1_000_000),
		kernel("fib", "fib(25), recursive", 1, 75025, 25),
		kernel("fill", "memory.fill of 1 MiB", 1, 0xa5, 0xa5),
		kernel("copy", "memory.copy of 1 MiB", 1, 0x5a, 0x5a),
		kernel("stride", "16,384 stores, then as many loads, 64 bytes apart", 1, 0xfff9c000, 7),
		{Name: "sha256", Work: "SHA-256 of 64 KiB", Kind: Call, Wasm: sha256Wasm, Function: "sha256", Args: []uint64{65536}, Want: []uint64{0xef4636928161808e}, Ops: 1},
		{Name: "sort", Work: "quicksort of 10,000 numbers", Kind: Call, Wasm: sortWasm, Function: "sort", Args: []uint64{10_000}, Want: []uint64{0x007a25acd66ceaea}, Ops: 1},
		json,
		of(json, Instantiate),
		of(json, Compile),
	}
}

// GoProgram is a program that the Go toolchain made of testdata/program; it is
// too large to come with this package.
func GoProgram(wasm []byte) Program {
	return Program{
		Name: Go, Work: "a Go program: 200 log lines taken apart by a regular expression and summed", Kind: Call,
		Wasm: wasm, Function: "run", Args: []uint64{200}, Want: []uint64{0xc1a9af1697e886e7}, Ops: 1,
	}
}

// of is a program about the module of p.
func of(p Program, k Kind) Program {
	p.Name, p.Kind, p.Ops = string(k), k, 1
	p.Work = fmt.Sprintf("%s a module of %d bytes", k, len(p.Wasm))
	return p
}

// Module makes the programs of somebody's own module: the call of a function of
// it, with what args makes of its type, instantiating it and compiling it.
//
// The module may import what [Imports] says. If it exports a function
// "_initialize", that is called first.
func Module(name string, wasm []byte, function string, args func(engines.FuncType) ([]engines.Value, error)) ([]Program, error) {
	if err := binfmt.Check(wasm); err != nil {
		return nil, err
	}
	iface, err := binfmt.Decode(wasm)
	if err != nil {
		return nil, err
	}
	for _, e := range iface.Exports {
		if e.Name != function || e.Type.Kind != engines.KindFunc {
			continue
		}
		values, err := args(e.Type.Func)
		if err != nil {
			return nil, fmt.Errorf("function %q %w", function, err)
		}
		words := make([]uint64, len(values))
		for i, v := range values {
			words[i] = v.Bits
		}
		p := Program{Name: name, Work: fmt.Sprintf("call of %s%v", function, values), Kind: Call, Wasm: wasm, Function: function, Args: words, Ops: 1}
		return []Program{p, of(p, Instantiate), of(p, Compile)}, nil
	}
	return nil, &engines.ExportError{Name: function, Reason: "the module exports no function of that name"}
}
