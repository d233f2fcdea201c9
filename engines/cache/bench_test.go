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
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-w", "-o", path, "./testdata/guest")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	wasm, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	compile := func(b *testing.B, newKernel func() (engines.WasmEngine, error)) {
		for b.Loop() {
			b.StopTimer()
			e, err := newKernel()
			if err != nil {
				b.Fatal(err)
			}
			e = meter.Wrap(e, meter.Limits{})
			b.StartTimer()
			if _, err := e.Compile(b.Context(), wasm, engines.CompileOptions{Interruptible: true}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := e.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(float64(len(wasm)), "module-bytes")
	}
	b.Run("in-place", func(b *testing.B) { compile(b, newEngine) })
	b.Run("process", func(b *testing.B) {
		compile(b, func() (engines.WasmEngine, error) { return wrapped(newEngine, cache.Config{}, "compile") })
	})
	b.Run("kept", func(b *testing.B) {
		cfg := config(b.TempDir())
		compile(b, func() (engines.WasmEngine, error) { return wrapped(newEngine, cfg, "compile") })
	})
}
