package cache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// compile has a compiler of that role compile a module, and returns the error.
func compile(ctx context.Context, t *testing.T, cfg cache.Config, role string, wasm []byte) error {
	t.Helper()
	e, err := wrapped(newEngine, cfg, role)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	m, err := e.Compile(ctx, wasm, engines.CompileOptions{})
	if err == nil {
		err = m.Close()
	}
	noChildren(t)
	return err
}

// noChildren fails the test if this process has a child, dead or alive.
func noChildren(t *testing.T) {
	t.Helper()
	tasks, _ := filepath.Glob("/proc/self/task/*/children") // Linux's; nothing elsewhere
	for _, path := range tasks {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			t.Errorf("children are left: %s", b)
		}
	}
}

func TestCompiler(t *testing.T) {
	if err := compile(t.Context(), t, cache.Config{}, "compile", plain(1)); err != nil {
		t.Error(err)
	}
}

// A module that would take too much ends with an error that says so, and costs
// the kernel nothing that lasts.
func TestLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  cache.Config
		role string
		wasm []byte
		want cache.LimitError
	}{
		"time":   {cache.Config{Timeout: 300 * time.Millisecond}, "compile", slow(1000), cache.LimitError{What: "time", Limit: "300ms", Option: "timeout"}},
		"memory": {cache.Config{Memory: 192 << 20}, "compile", large(900_000), cache.LimitError{What: "memory", Limit: "192 MiB", Option: "memory"}},
		"code":   {cache.Config{Memory: 64 << 20}, "flood", plain(1), cache.LimitError{What: "code", Limit: "16 MiB", Option: "memory"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := resident(t)
			err := compile(t.Context(), t, tc.cfg, tc.role, tc.wasm)
			compileError, _ := errors.AsType[*engines.CompileError](err)
			limit, _ := errors.AsType[*cache.LimitError](err)
			if compileError == nil || limit == nil || *limit != tc.want {
				t.Errorf("%v; want %+v", err, tc.want)
			}
			debug.FreeOSMemory()
			if after := resident(t); after > before+64<<20 {
				t.Errorf("the kernel has %d MiB, and had %d MiB before", after>>20, before>>20)
			}
		})
	}
}

// resident is this process's memory in bytes, where the system tells.
func resident(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func TestCompilerFails(t *testing.T) {
	for role, says := range map[string]string{
		"crash": "the register allocator is at its end",
		"lie":   "4294967295 bytes",
		"again": "does not start another",
	} {
		t.Run(role, func(t *testing.T) {
			err := compile(t.Context(), t, cache.Config{}, role, plain(1))
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%v; want it to say %q", err, says)
			}
			if _, ok := errors.AsType[*engines.CompileError](err); !ok {
				t.Errorf("it is a %T", err)
			}
			if err != nil && len(err.Error()) > 8<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

// What the engine says of a module is what its compiler says.
func TestCompilerRefuses(t *testing.T) {
	broken := append(plain(1), 0xff)
	inPlace, err := newEngine()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inPlace.Close() }()
	_, want := inPlace.Compile(t.Context(), broken, engines.CompileOptions{})
	if got := compile(t.Context(), t, cache.Config{}, "compile", broken); want == nil || got == nil || got.Error() != want.Error() {
		t.Errorf("%v; want %v", got, want)
	}
	e, err := wrapped(newEngine, cache.Config{}, "compile")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	_, err = e.Compile(t.Context(), plain(1), engines.CompileOptions{Fuel: 1})
	if u, ok := errors.AsType[*engines.UnsupportedError](err); !ok || u.Engine != inPlace.Info().Name {
		t.Errorf("an option that no engine has: %v", err)
	}
}

// The context's end, and the engine's, is the compiler's.
func TestCompilerEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := compile(ctx, t, cache.Config{}, "compile", slow(1000)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a context that ends: %v", err)
	}

	e, err := wrapped(newEngine, cache.Config{}, "compile")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := e.Compile(context.Background(), slow(1000), engines.CompileOptions{})
		failed <- err
	}()
	time.Sleep(100 * time.Millisecond) // either moment will do
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	noChildren(t)
	if err := <-failed; !errors.Is(err, engines.ErrClosed) {
		t.Errorf("an engine that closes: %v", err)
	}
	if _, err := e.Compile(t.Context(), plain(1), engines.CompileOptions{}); !errors.Is(err, engines.ErrClosed) {
		t.Errorf("an engine that was closed: %v", err)
	}
}

// What a module of the size that compiles in place can cost, and what starting a
// process does.
func BenchmarkHarmless(b *testing.B) {
	inPlace, err := newEngine()
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = inPlace.Close() }()
	compiler, err := wrapped(newEngine, cache.Config{}, "compile")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = compiler.Close() }()
	for name, bench := range map[string]struct {
		e    engines.WasmEngine
		wasm []byte
	}{
		"in-place/slow-512": {inPlace, slow(47)},
		"process/1.5KiB":    {compiler, ordinary(100)},
		"in-place/1.5KiB":   {inPlace, ordinary(100)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				m, err := bench.e.Compile(b.Context(), bench.wasm, engines.CompileOptions{})
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(bench.wasm)), "module-bytes")
		})
	}
}

// ordinary is a module of n small functions.
func ordinary(n int) []byte {
	m := new(asm.Module)
	for i := range n {
		m.Func(fmt.Sprint("f", i), asm.Func(nil, asm.Types(engines.I32)), asm.Code{}.I32Const(int32(i)))
	}
	return m.Bytes()
}

// A compiler whose kernel is gone ends.
func TestCompilerLeftBehind(t *testing.T) {
	kernel := exec.Command(os.Args[0], "orphan")
	out, err := kernel.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := kernel.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Skipf("the children of a process are not known here: %v", err)
	}
	if err := kernel.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = kernel.Wait() // it was killed
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return // gone, or for init to bury
		}
		time.Sleep(10 * time.Millisecond) // the test's own time limit ends it
	}
}
