//go:build linux || darwin

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/engines/worker"
)

func TestConformance(t *testing.T) {
	enginetest.Test(t, func(t testing.TB) engines.WasmEngine { return newEngine(t, config(t)) })
}

// lieEnv names the lie of a worker in the role "liar".
// knowsMemory says whether the resident memory of a worker is known.
const knowsMemory = runtime.GOOS == "linux"

const lieEnv = "WORKER_TEST_LIE"

// roles are what this program may be as a worker.
var roles = map[string]func() error{
	"bare":    func() error { return worker.Serve(newInProcess, engineName != "wazero") },
	"metered": func() error { return worker.Serve(newMetered, engineName != "wazero") },
	"wazero":  func() error { return worker.Serve(wazero.New, false) },
	// An engine that cannot interrupt.
	"stubborn": func() error {
		return worker.Serve(func() (engines.WasmEngine, error) {
			e, err := wazero.New()
			return stubborn{e}, err
		}, false)
	},
	// An engine that ends the process in ways that a program chooses.
	"mortal": func() error {
		return worker.Serve(func() (engines.WasmEngine, error) {
			e, err := wazero.New()
			return mortal{e}, err
		}, true)
	},
	// An engine that one thread at a time runs code of.
	"single": func() error {
		return worker.Serve(func() (engines.WasmEngine, error) {
			e, err := wazero.New()
			return &single{WasmEngine: e}, err
		}, true)
	},
	"liar": func() error { return worker.ServeLies(newMetered, lies[os.Getenv(lieEnv)].lie) },
	"mute": func() error { return nil },
}

// newMetered is the engine as cmd/forgeone-engine serves it.
func newMetered() (engines.WasmEngine, error) {
	e, err := newInProcess()
	if err != nil {
		return nil, err
	}
	return meter.Wrap(e, meter.Limits{}), nil
}

type stubborn struct{ engines.WasmEngine }

func (s stubborn) Info() engines.Info {
	info := s.WasmEngine.Info()
	info.Interrupt = false
	return info
}

func (s stubborn) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	if opts.Interruptible {
		return nil, &engines.UnsupportedError{Engine: "wazero", Feature: "interruption", Reason: "it is stubborn"}
	}
	return s.WasmEngine.Compile(ctx, wasm, opts)
}

// mortal dies while it compiles a module with a custom section that says how.
type mortal struct{ engines.WasmEngine }

func (m mortal) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	for name, die := range deaths {
		if bytes.Contains(wasm, []byte("die by "+name)) {
			fmt.Fprintln(stderr, "now I die by", name)
			die()
		}
	}
	return m.WasmEngine.Compile(ctx, wasm, opts)
}

var deaths = map[string]func(){
	"abort": func() { raise(syscall.SIGABRT) },
	"segv":  func() { raise(syscall.SIGSEGV) },
	"hoarding": func() { // but not at once
		for range 300 {
			hoard = append(hoard, bytes.Repeat([]byte{1}, 1<<20))
		}
	},
	"kill":  func() { raise(syscall.SIGKILL) },
	"exit":  func() { os.Exit(3) },
	"panic": func() { go panic("no way out"); select {} },
	"out of memory": func() {
		limit := syscall.Rlimit{Cur: 8 << 30, Max: 8 << 30}
		if err := syscall.Setrlimit(syscall.RLIMIT_AS, &limit); err != nil {
			os.Exit(1)
		}
		for {
			hoard = append(hoard, make([]byte, 1<<30))
		}
	},
}

var hoard [][]byte

// stderr is the process's own, in whose place go-plugin puts a pipe.
var stderr = os.Stderr

// raise has a signal end the process at once, whatever Go thinks of it.
func raise(s syscall.Signal) {
	_ = syscall.Kill(os.Getpid(), s)
	select {}
}

// dying is a module that ends a mortal worker when it is compiled.
func dying(name string) []byte {
	m := new(asm.Module)
	m.Func("die by "+name, toNothing, nil)
	return m.Bytes()
}

func spinning() []byte {
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", toNothing)
	m.Func("spin", toNothing, asm.Code{}.Loop().Br(0).End())
	m.Func("call", toNothing, asm.Code{}.Call(host))
	m.Func("chat", toNothing, asm.Code{}.Loop().Call(host).Br(0).End())
	m.Memory("memory", 1)
	m.Global("g", engines.GlobalType{Value: i32, Mutable: true}, asm.Code{}.I32Const(0))
	return m.Bytes()
}

func env(f func(context.Context, engines.Caller) error) engines.Imports {
	return engines.Imports{Host: map[string]*engines.HostModule{"env": {Functions: []engines.HostFunction{{
		Name: "f", Type: toNothing,
		Call: func(ctx context.Context, c engines.Caller, _ []uint64) error { return f(ctx, c) },
	}}}}}
}

func noop(context.Context, engines.Caller) error { return nil }

func fn(t testing.TB, inst engines.Instance, name string) engines.Func {
	t.Helper()
	f, err := inst.Func(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func wantCrash(t testing.TB, err error) *worker.CrashError {
	t.Helper()
	crash, ok := errors.AsType[*worker.CrashError](err)
	if !ok {
		t.Fatalf("the error is %v (%T), want a CrashError", err, err)
	}
	return crash
}

// wantWorks fails the test unless the engine makes instances that work.
func wantWorks(t testing.TB, mod engines.Module) {
	t.Helper()
	inst, err := mod.Instantiate(t.Context(), env(noop))
	if err != nil {
		t.Fatalf("an instance after a crash: %v", err)
	}
	if err := fn(t, inst, "call").Call(t.Context(), nil); err != nil {
		t.Errorf("a call after a crash: %v", err)
	}
	if err := inst.Close(); err != nil {
		t.Error(err)
	}
}

func kill(t testing.TB, e engines.WasmEngine, s syscall.Signal) {
	t.Helper()
	for _, pid := range worker.PIDs(e) {
		if err := syscall.Kill(pid, s); err != nil {
			t.Error(err)
		}
	}
}

// A crash ends the calls under way, and all that the worker held answers with
// it; the next instance is of a new worker.
func TestKilled(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"spin", "call"} {
		t.Run(name, func(t *testing.T) {
			first := worker.PIDs(e)
			var idle engines.Instance
			spinner, err := mod.Instantiate(t.Context(), env(func(_ context.Context, c engines.Caller) error {
				// In the middle of a host call, and before the memory is asked.
				kill(t, e, syscall.SIGKILL)
				if c.Memory().Read(0, make([]byte, 1)) {
					return errors.New("the memory outlived its worker")
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			idle, err = mod.Instantiate(t.Context(), env(noop))
			if err != nil {
				t.Fatal(err)
			}
			mem, global := idle.Memory("memory"), idle.Global("g")
			if name == "spin" {
				defer time.AfterFunc(20*time.Millisecond, func() { kill(t, e, syscall.SIGKILL) }).Stop()
			}
			crash := wantCrash(t, fn(t, spinner, name).Call(t.Context(), nil))
			if crash.Engine != engineName || !slices.Contains(first, crash.PID) || crash.Killed != "" || !strings.Contains(crash.How, "killed") {
				t.Errorf("the crash is %+v", *crash)
			}
			_, err = idle.Func("call")
			wantCrash(t, err)
			if idle.Memory("memory") != nil || idle.Global("g") != nil {
				t.Error("an instance has a memory or a global after its worker's end")
			}
			if mem.Size() != 0 || mem.Write(0, []byte{1}) || global.Get() != 0 {
				t.Error("a memory or a global can be used after its worker's end")
			}
			wantCrash(t, global.Set(1))
			if err := errors.Join(idle.Close(), spinner.Close()); err != nil {
				t.Errorf("Close after a crash: %v", err)
			}
			wantWorks(t, mod)
			if now := worker.PIDs(e); len(now) != 1 || now[0] == crash.PID {
				t.Errorf("the workers are %v, were %v", now, first)
			}
		})
	}
}

// A worker that was killed by others is not said to hang, although it was asked
// whether it serves just then.
func TestKilledWhenAsked(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.HealthEvery = time.Microsecond
	e := newEngine(t, cfg)
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		inst, err := mod.Instantiate(t.Context(), env(noop))
		if err != nil {
			t.Fatal(err)
		}
		f := fn(t, inst, "call")
		kill(t, e, syscall.SIGKILL)
		for err == nil { // the signal takes its time
			err = f.Call(t.Context(), nil)
		}
		if crash := wantCrash(t, err); crash.Killed != "" {
			t.Errorf("it was killed because %q", crash.Killed)
		}
	}
}

// What ends the compiler ends the worker, and says how and with which words.
func TestDeaths(t *testing.T) {
	t.Parallel()
	e := newEngine(t, role(t, "mortal"))
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"abort": "SIGABRT", "segv": "SIGSEGV", "kill": "killed", "exit": "exit status 3", "panic": "no way out", "out of memory": "out of memory",
	} {
		_, err := e.Compile(t.Context(), dying(name), engines.CompileOptions{})
		if _, ok := errors.AsType[*engines.CompileError](err); !ok {
			t.Errorf("%s: %v, want a CompileError", name, err)
		}
		crash := wantCrash(t, err)
		if !strings.Contains(crash.How, want) {
			t.Errorf("%s: %q does not say %q", name, crash.How, want)
		}
		if long := name == "panic" || name == "out of memory"; !long && !strings.Contains(crash.How, "now I die by "+name) {
			t.Errorf("%s: %q does not have the worker's last words", name, crash.How)
		}
		wantWorks(t, mod)
	}
}

// A worker that does not answer at all is found, and killed.
func TestHang(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.HealthEvery, cfg.HangTimeout = 50*time.Millisecond, 200*time.Millisecond
	e := newEngine(t, cfg)
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), env(noop))
	if err != nil {
		t.Fatal(err)
	}
	f := fn(t, inst, "call")
	kill(t, e, syscall.SIGSTOP)
	err = nil
	for err == nil { // the signal takes its time
		err = f.Call(t.Context(), nil)
	}
	if crash := wantCrash(t, err); !strings.Contains(crash.Killed, "did not say") {
		t.Errorf("it was killed because %q", crash.Killed)
	}
	wantWorks(t, mod)
}

// A cancelled call of a worker that hangs need not wait for that to be found.
func TestHangCancelled(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Grace = 50 * time.Millisecond
	e := newEngine(t, cfg)
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), env(noop))
	if err != nil {
		t.Fatal(err)
	}
	f := fn(t, inst, "call")
	kill(t, e, syscall.SIGSTOP)
	err = nil
	for err == nil { // the signal takes its time
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		err = f.Call(ctx, nil)
	}
	wantCrash(t, err)
	wantInterrupted(t, err, context.DeadlineExceeded)
	wantWorks(t, mod)
}

func wantInterrupted(t testing.TB, err, cause error) {
	t.Helper()
	trap, ok := errors.AsType[*engines.Trap](err)
	if !ok || trap.Class != engines.TrapInterrupted || !errors.Is(err, cause) {
		t.Fatalf("the call ended with %v, want an interruption for %v", err, cause)
	}
}

// An engine that cannot interrupt has its worker killed.
func TestCancelStubborn(t *testing.T) {
	t.Parallel()
	cfg := role(t, "stubborn")
	cfg.Grace = 50 * time.Millisecond
	e := newEngine(t, cfg)
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"spin", "chat"} {
		inst, err := mod.Instantiate(t.Context(), env(noop))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		err = fn(t, inst, name).Call(ctx, nil)
		wantInterrupted(t, err, context.DeadlineExceeded)
		if crash := wantCrash(t, err); !strings.Contains(crash.Killed, "cancelled") {
			t.Errorf("%s: it was killed because %q", name, crash.Killed)
		}
		wantWorks(t, mod)
	}
	_, err = e.Compile(t.Context(), spinning(), engines.CompileOptions{Interruptible: true})
	if _, ok := errors.AsType[*engines.UnsupportedError](err); !ok || e.Info().Interrupt {
		t.Errorf("%v; Features.Interrupt is %v, and the engine lacks it", err, e.Info().Interrupt)
	}
}

// Time that a host function takes is not the worker's.
func TestCancelInHost(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Grace = 50 * time.Millisecond
	e := newEngine(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	inst := load(t, e, spinning(), env(func(ctx context.Context, _ engines.Caller) error {
		cancel()
		time.Sleep(5 * cfg.Grace)
		return ctx.Err()
	}))
	err := fn(t, inst, "call").Call(ctx, nil)
	if host, ok := errors.AsType[*engines.HostError](err); !ok || !errors.Is(host, context.Canceled) {
		t.Errorf("the call ended with %v, want the host function's error", err)
	}
	if err := fn(t, inst, "call").Call(t.Context(), nil); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// A host error, a nested call and memory of callers keep apart at each depth.
func TestNesting(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", toNothing)
	m.Memory("memory", 1, 4)
	m.Func("f", toNothing, asm.Code{}.Call(host))
	m.Func("load", asm.Func(asm.Types(i32), asm.Types(i32)), asm.Code{}.LocalGet(0).I32Load(0))
	m.Func("grow", asm.Func(nil, asm.Types(i32)), asm.Code{}.I32Const(1).MemoryGrow())
	var inst engines.Instance
	depth := 0
	errDeep := errors.New("deep")
	inst = load(t, e, m.Bytes(), env(func(ctx context.Context, c engines.Caller) error {
		at := uint64(64 * depth)
		mem := c.Memory()
		size := mem.Size()
		if !mem.Write(at, []byte{byte(depth), 0, 0, 0}) {
			return errors.New("write")
		}
		if mem.Write(size-1, []byte{1, 2}) || mem.Read(size, make([]byte, 1)) {
			return errors.New("out of bounds")
		}
		stack := []uint64{at}
		if err := fn(t, inst, "load").Call(ctx, stack); err != nil || stack[0] != uint64(depth) {
			return fmt.Errorf("the guest sees %d at depth %d: %w", stack[0], depth, err)
		}
		if depth < 3 { // the memory has grown by then to its maximum
			if err := fn(t, inst, "grow").Call(ctx, stack); err != nil || mem.Size() != size+engines.PageSize {
				return fmt.Errorf("the size is %d after the guest grew it from %d: %w", mem.Size(), size, err)
			}
			if !mem.Write(size, []byte{1}) {
				return errors.New("what was grown cannot be written")
			}
		}
		if depth == 5 {
			return errDeep
		}
		depth++
		err := fn(t, inst, "f").Call(ctx, nil)
		depth--
		b := []byte{0xff}
		if !mem.Read(at, b) || b[0] != byte(depth) {
			return fmt.Errorf("the memory has %d at depth %d", b[0], depth)
		}
		if !errors.Is(err, errDeep) {
			return fmt.Errorf("the nested call: %w", err)
		}
		if depth == 2 {
			return nil // which ends it here
		}
		return err
	}))
	// Depth 2 swallowed the error; 1 and 0 report that.
	if err := fn(t, inst, "f").Call(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "the nested call: ") {
		t.Errorf("the call ended with %v", err)
	}
}

// What is known of a global is never what it was before the guest ran.
func TestGlobals(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", toNothing)
	m.Global("g", engines.GlobalType{Value: i32, Mutable: true}, asm.Code{}.I32Const(1))
	inc := asm.Code{}.GlobalGet(0).I32Const(1).Op(asm.I32Add).GlobalSet(0)
	m.Func("inc", toNothing, inc)
	m.Func("trap", toNothing, slices.Concat(inc, asm.Code{}.Op(asm.Unreachable)))
	m.Func("twice", toNothing, slices.Concat(inc, asm.Code{}.Call(host), inc, asm.Code{}.Call(host)))
	var g engines.Global
	var inst engines.Instance
	want := uint64(1)
	check := func() error {
		if got := g.Get(); got != want {
			return fmt.Errorf("the global is %d, want %d", got, want)
		}
		return nil
	}
	inst = load(t, e, m.Bytes(), env(func(ctx context.Context, _ engines.Caller) error {
		want++
		if err := check(); err != nil {
			return err
		}
		if err := fn(t, inst, "inc").Call(ctx, nil); err != nil {
			return err
		}
		want++
		if err := check(); err != nil {
			return err
		}
		want += 10
		return g.Set(want)
	}))
	g = inst.Global("g")
	for range 3 {
		if err := errors.Join(check(), check(), g.Set(0xdeadbeef_00000007)); err != nil {
			t.Fatal(err)
		}
		want = 7
		err := errors.Join(check(), fn(t, inst, "twice").Call(t.Context(), nil), check())
		if err != nil {
			t.Fatal(err)
		}
		want++
		if err := fn(t, inst, "trap").Call(t.Context(), nil); err == nil {
			t.Error("the trap does not end the call")
		}
		for range 10_000 { // more than is put off
			want++
			if err := g.Set(want); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(check(), fn(t, inst, "inc").Call(t.Context(), nil)); err != nil {
			t.Fatal(err)
		}
		want++
		if err := check(); err != nil {
			t.Fatal(err)
		}
	}
}

// What came with a host call is read as it is when it is read.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", i32x2)
	m.Memory("memory", 1)
	m.Func("f", i32x2, asm.Code{}.LocalGet(0).LocalGet(1).Call(host))
	m.Func("store", i32x2, asm.Code{}.LocalGet(0).LocalGet(1).I32Store(0))
	var inst engines.Instance
	inst = load(t, e, m.Bytes(), engines.Imports{Host: map[string]*engines.HostModule{"env": {Functions: []engines.HostFunction{{
		Name: "f", Type: i32x2,
		Call: func(ctx context.Context, c engines.Caller, stack []uint64) error {
			offset, mem := stack[0], c.Memory()
			got := make([]byte, stack[1])
			if !mem.Read(offset, got) {
				return errors.New("out of bounds")
			}
			read := func(want byte) error {
				if !mem.Read(offset, got) || got[0] != want {
					return fmt.Errorf("read %d, want %d", got[0], want)
				}
				return nil
			}
			first := got[0]
			mem.Write(offset, []byte{first + 1})
			if err := read(first + 1); err != nil {
				return err
			}
			inst.Memory("memory").Write(offset, []byte{first + 2})
			if err := read(first + 2); err != nil {
				return err
			}
			if err := fn(t, inst, "store").Call(ctx, []uint64{offset, uint64(first) + 3}); err != nil {
				return err
			}
			return read(first + 3)
		},
	}}}}})
	f := fn(t, inst, "f")
	for i := range uint64(20) {
		for _, at := range [][2]uint64{{16, 8}, {1000, 4096}, {engines.PageSize - 5000, 5000}} {
			if err := f.Call(t.Context(), []uint64{at[0], at[1]}); err != nil {
				t.Fatalf("call %d of %d: %v", i, at, err)
			}
		}
		if err := f.Call(t.Context(), []uint64{engines.PageSize - 4, 5}); err == nil || !strings.Contains(err.Error(), "out of bounds") {
			t.Fatalf("call %d out of bounds: %v", i, err)
		}
	}
}

// Memory larger than a frame passes whole or not at all.
func TestLargeMemory(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	m := new(asm.Module)
	m.Memory("memory", 64)
	mem := load(t, e, m.Bytes(), engines.Imports{}).Memory("memory")
	data := make([]byte, 3<<20+17)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	got := make([]byte, len(data))
	const end = 64 * engines.PageSize
	for _, offset := range []uint64{0, 5, end - uint64(len(data))} {
		if !mem.Write(offset, data) || !mem.Read(offset, got) || !bytes.Equal(data, got) {
			t.Fatalf("%d bytes at %d did not come back", len(data), offset)
		}
	}
	clear(got)
	for _, offset := range []uint64{end - uint64(len(data)) + 1, end, math.MaxUint64 - 5} {
		if mem.Write(offset, got) || mem.Read(offset, got) || !bytes.Equal(got, make([]byte, len(got))) {
			t.Errorf("%d bytes at %d are within a memory of %d", len(got), offset, end)
		}
	}
	if mem.Read(end-uint64(len(data)), got); !bytes.Equal(data, got) {
		t.Error("what was refused was written in part")
	}
}

// A worker that has more memory than its instances may have is killed, and marked
// to be the first to end if the system runs out of it before.
func TestHoard(t *testing.T) {
	t.Parallel()
	if !knowsMemory {
		t.Skip("the resident memory of a process is not known on this system")
	}
	cfg := role(t, "mortal")
	cfg.HealthEvery, cfg.MaxRSS = 20*time.Millisecond, 100<<20
	e := newEngine(t, cfg)
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{MemoryLimitPages: 16})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), env(noop))
	if err != nil {
		t.Fatal(err)
	}
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", worker.PIDs(e)[0]))
	if err != nil || strings.TrimSpace(string(score)) != "500" {
		t.Errorf("the worker's score is %q (%v)", score, err)
	}
	f := fn(t, inst, "call")
	_, _ = e.Compile(t.Context(), dying("hoarding"), engines.CompileOptions{}) // the end may come before the answer
	for err = nil; err == nil; {
		err = f.Call(t.Context(), nil)
	}
	if crash := wantCrash(t, err); !strings.Contains(crash.Killed, "it holds") {
		t.Errorf("it was killed because %q", crash.Killed)
	}
	wantWorks(t, mod)
}

func TestRecycling(t *testing.T) {
	for name, limit := range map[string]func(*worker.Config){
		"age":       func(c *worker.Config) { c.MaxAge = time.Nanosecond },
		"memory":    func(c *worker.Config) { c.MaxRSS = 1 },
		"compiles":  func(c *worker.Config) { c.MaxCompiles = 3 },
		"instances": func(c *worker.Config) { c.MaxInstances = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t)
			cfg.HealthEvery = 20 * time.Millisecond
			if limit(&cfg); cfg.MaxRSS == 1 && !knowsMemory {
				t.Skip("the resident memory of a process is not known on this system")
			}
			e := newEngine(t, cfg)
			first := worker.PIDs(e)
			mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			kept, err := mod.Instantiate(t.Context(), env(noop))
			if err != nil {
				t.Fatal(err)
			}
			// An instance keeps its worker, and works, until it is closed.
			for slices.Equal(worker.PIDs(e), first) {
				again, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
				if err != nil {
					t.Fatal(err)
				}
				wantWorks(t, again)
				if err := again.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := fn(t, kept, "call").Call(t.Context(), nil); err != nil {
				t.Errorf("a call in a worker that was replaced: %v", err)
			}
			if err := kept.Close(); err != nil {
				t.Error(err)
			}
			for slices.Contains(worker.PIDs(e), first[0]) {
				time.Sleep(time.Millisecond)
			}
			wantWorks(t, mod)
		})
	}
}

// Instances spread over the workers; those that are linked share one.
func TestWorkers(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Workers = 2
	e := newEngine(t, cfg)
	lib := new(asm.Module)
	lib.Func("one", asm.Func(nil, asm.Types(i32)), asm.Code{}.I32Const(1))
	user := new(asm.Module)
	one := user.ImportFunc("lib", "one", asm.Func(nil, asm.Types(i32)))
	user.Func("two", asm.Func(nil, asm.Types(i32)), asm.Code{}.Call(one).Call(one).Op(asm.I32Add))
	var lenders []engines.Instance
	for len(worker.PIDs(e)) < 2 || len(lenders) < 4 {
		lenders = append(lenders, load(t, e, lib.Bytes(), engines.Imports{}))
	}
	for _, l := range lenders {
		inst := load(t, e, user.Bytes(), engines.Imports{Instances: map[string]engines.Instance{"lib": l}})
		stack := []uint64{0}
		if err := fn(t, inst, "two").Call(t.Context(), stack); err != nil || stack[0] != 2 {
			t.Errorf("two = %d, %v", stack[0], err)
		}
	}
}

// Calls, crashes and closing, all at once.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Workers = 2
	e := newEngine(t, cfg)
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for range 60 {
				inst, err := mod.Instantiate(t.Context(), env(noop))
				if err == nil {
					f, ferr := inst.Func("call")
					if err = ferr; err == nil {
						err = f.Call(t.Context(), nil)
					}
					err = errors.Join(err, inst.Close())
				}
				if _, crash := errors.AsType[*worker.CrashError](err); err != nil && !crash {
					t.Errorf("goroutine %d: %v", g, err)
				}
			}
		})
	}
	for range 3 {
		time.Sleep(10 * time.Millisecond)
		for _, pid := range worker.PIDs(e) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
	wg.Wait()
	wantWorks(t, mod)
}

// Closing the engine ends what is under way.
func TestCloseUnderWay(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	inst := load(t, e, spinning(), env(noop))
	done := make(chan error)
	go func() { done <- fn(t, inst, "spin").Call(t.Context(), nil) }()
	time.Sleep(20 * time.Millisecond)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, engines.ErrClosed) {
		t.Errorf("the call under way ended with %v", err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	other := config(t)
	other.Engine = "v8"
	changed := config(t)
	changed.SHA256 = strings.Repeat("0", 64)
	absent := config(t)
	absent.Binary += ".absent"
	negative := config(t)
	negative.Workers = -1
	for name, c := range map[string]struct {
		cfg  worker.Config
		want string
	}{
		"another engine":    {other, `its engine is "` + engineName + `"`},
		"another checksum":  {changed, "checksum does not match"},
		"no binary":         {absent, "no such file"},
		"a negative limit":  {negative, "negative"},
		"a program of ours": {role(t, "mute"), "not a plugin"},
		"the zero Config":   {worker.Config{}, "path"},
	} {
		e, err := worker.New(c.cfg)
		if err == nil {
			_ = e.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.want)
		}
	}
}

// lies are what a worker in the role "liar" does to its answers.
var lies = map[string]struct {
	op  byte // of the frames it replaces
	lie func(frame []byte) []byte
}{}

func newLiar(t testing.TB, lie string) engines.WasmEngine {
	t.Helper()
	cfg := role(t, "liar")
	cfg.Env[lieEnv] = lie
	cfg.Grace = 50 * time.Millisecond
	return newEngine(t, cfg)
}

func TestLies(t *testing.T) {
	for name := range lies {
		if slices.Contains(snapshotLies, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newLiar(t, name)
			inst := load(t, e, sample(), sampleHost())
			mem := inst.Memory("memory")
			before := worker.PIDs(e)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := fn(t, inst, "copy").Call(ctx, nil)
			if err == nil {
				stack := []uint64{1, 2}
				err = fn(t, inst, "add").Call(ctx, stack)
			}
			crash := wantCrash(t, err)
			if !slices.Contains(before, crash.PID) || crash.Killed == "" {
				t.Errorf("the crash is %+v", *crash)
			}
			if mem.Size() != 0 || mem.Read(0, make([]byte, 1)) {
				t.Error("the memory of a liar can be used")
			}
		})
	}
}
