package cache_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
	"forgeone.dev/forgeone/engines/meter"
)

// A Go program, from the binary to a module, as a kernel has it: metered.
func BenchmarkGoGuest(b *testing.B) {
	path := filepath.Join(b.TempDir(), "guest.wasm")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./testdata/guest")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	wasm, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	kept := config(b.TempDir())
	for _, bench := range []struct {
		name      string
		newKernel func() (engines.WasmEngine, error)
	}{
		{"in-place", newEngine},
		{"process", func() (engines.WasmEngine, error) { return wrapped(newEngine, cache.Config{}, "compile") }},
		{"kept", func() (engines.WasmEngine, error) { return wrapped(newEngine, kept, "compile") }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			load := func() {
				e, err := bench.newKernel()
				if err != nil {
					b.Fatal(err)
				}
				e = meter.Wrap(e, meter.Limits{})
				if _, err := e.Compile(b.Context(), wasm, engines.CompileOptions{Interruptible: true}); err != nil {
					b.Fatal(err)
				}
				if err := e.Close(); err != nil {
					b.Fatal(err)
				}
			}
			load() // so that code is kept
			for b.Loop() {
				load()
			}
			b.ReportMetric(float64(len(wasm)), "module-bytes")
		})
	}
}
