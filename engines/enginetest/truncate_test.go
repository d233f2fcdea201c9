package enginetest_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

// The programs of this repository do not compile when they are cut: small ones
// at any byte, and one that Go makes at the bytes where it is likeliest to pass,
// and some between. What is cut where a section ends may be a module.
func TestProgramsCutShort(t *testing.T) {
	inner, err := wazero.New()
	if err != nil {
		t.Fatal(err)
	}
	e := meter.Wrap(inner, meter.Limits{})
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	small, err := filepath.Glob("../bench/programs/*.wasm")
	if err != nil || len(small) == 0 {
		t.Fatalf("the programs of the benchmark: %d, %v", len(small), err)
	}
	for _, file := range small {
		wasm := read(t, file)
		ends := sectionEnds(wasm)
		for n := range wasm {
			cut(t, e, wasm, n, ends)
		}
	}
	if testing.Short() {
		t.Skip("a Go program takes seconds to build")
	}
	wasm := read(t, goProgram(t))
	ends := sectionEnds(wasm)
	places := map[int]bool{}
	for n := range 2048 {
		places[n] = true // the sections before the code
	}
	for end := range ends {
		for n := end - 4; n <= end+12; n++ {
			places[n] = true
		}
	}
	for i := range 1000 {
		places[i*len(wasm)/1000] = true
	}
	for n := range places {
		// Where it is a module, compiling a prefix that long is nothing new.
		if n < len(wasm) && !(ends[n] && n > 1<<20) {
			cut(t, e, wasm, n, ends)
		}
	}
	t.Logf("a program of %d bytes, cut at %d places", len(wasm), len(places))
}

func cut(t *testing.T, e engines.WasmEngine, wasm []byte, n int, ends map[int]bool) {
	t.Helper()
	mod, err := e.Compile(t.Context(), wasm[:n], engines.CompileOptions{Fuel: 1})
	if err != nil {
		if _, ok := err.(*engines.CompileError); !ok {
			t.Errorf("the first %d bytes: %v (%T)", n, err, err)
		}
		return
	}
	if err := mod.Close(); err != nil {
		t.Error(err)
	}
	if !ends[n] {
		t.Errorf("the first %d of %d bytes compile", n, len(wasm))
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	wasm, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

// goProgram builds an example.
func goProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "summarise.wasm")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildmode=c-shared", "-o", path, "forgeone.dev/forgeone/plugins/examples/summarise-wasm")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// sectionEnds are the offsets at which a section of a valid module ends.
func sectionEnds(wasm []byte) map[int]bool {
	ends := map[int]bool{}
	for i := 8; ; {
		ends[i] = true
		if i >= len(wasm) {
			return ends
		}
		size, n := binary.Uvarint(wasm[i+1:])
		i += 1 + n + int(size)
	}
}
