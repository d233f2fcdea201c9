//go:build linux || darwin

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/worker"
)

// single is an engine that does as Wasmtime: a call on another thread than the
// one that is inside finds its stack exhausted.
type single struct {
	engines.WasmEngine

	mu     sync.Mutex
	inside []string // goroutines, the innermost call last
}

func (s *single) enter() error {
	buf := make([]byte, 64)
	id, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte(" ["))
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.inside); n > 0 && s.inside[n-1] != string(id) {
		return &engines.Trap{Class: engines.TrapStackExhausted}
	}
	s.inside = append(s.inside, string(id))
	return nil
}

func (s *single) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inside = s.inside[:len(s.inside)-1]
}

func (s *single) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	m, err := s.WasmEngine.Compile(ctx, wasm, opts)
	return singleModule{m, s}, err
}

type singleModule struct {
	engines.Module
	*single
}

func (m singleModule) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	if err := m.enter(); err != nil {
		return nil, err
	}
	defer m.leave()
	imports.Instances = maps.Clone(imports.Instances)
	for name, lender := range imports.Instances {
		imports.Instances[name] = lender.(singleInstance).Instance
	}
	i, err := m.Module.Instantiate(ctx, imports)
	return singleInstance{i, m.single}, err
}

type singleInstance struct {
	engines.Instance
	*single
}

func (i singleInstance) Func(name string) (engines.Func, error) {
	f, err := i.Instance.Func(name)
	return singleFunc{f, i.single}, err
}

type singleFunc struct {
	engines.Func
	*single
}

func (f singleFunc) Call(ctx context.Context, stack []uint64) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.leave()
	return f.Func.Call(ctx, stack)
}

// relatives are a lender and two that borrow its function add, and its memory.
// visit of each calls the host; add adds to what is at 0 in the memory.
type relatives struct {
	user     engines.Module
	lender   engines.Instance
	visit    func(ctx context.Context, c engines.Caller) error // what the host does
	a, b     engines.Instance
	toCaller engines.Imports
}

func newRelatives(t *testing.T, e engines.WasmEngine) *relatives {
	t.Helper()
	r := new(relatives)
	toHost := env(func(ctx context.Context, c engines.Caller) error { return r.visit(ctx, c) })
	lib := new(asm.Module)
	host := lib.ImportFunc("env", "f", toNothing)
	lib.Memory("memory", 1, 3)
	lib.Func("add", asm.Func(asm.Types(i32), asm.Types(i32)), asm.Code{}.
		I32Const(0).I32Const(0).I32Load(0).LocalGet(0).Op(asm.I32Add).I32Store(0).I32Const(0).I32Load(0))
	lib.Func("visit", toNothing, asm.Code{}.Call(host))
	r.lender = load(t, e, lib.Bytes(), toHost)

	user := new(asm.Module)
	host = user.ImportFunc("env", "f", toNothing)
	add := user.ImportFunc("lib", "add", asm.Func(asm.Types(i32), asm.Types(i32)))
	user.ImportMemory("lib", "memory", 1)
	user.Func("add", asm.Func(asm.Types(i32), asm.Types(i32)), asm.Code{}.LocalGet(0).Call(add))
	user.Func("visit", toNothing, asm.Code{}.Call(host))
	user.Export("memory", engines.KindMemory, 0)
	start := user.Func("", toNothing, asm.Code{}.I32Const(1000).Call(add).Op(0x1a)) // drop
	user.Start(start)
	mod, err := e.Compile(t.Context(), user.Bytes(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.user = mod
	r.toCaller = engines.Imports{Host: toHost.Host, Instances: map[string]engines.Instance{"lib": r.lender}}
	r.a, r.b = r.make(t), r.make(t)
	return r
}

func (r *relatives) make(t testing.TB) engines.Instance {
	t.Helper()
	inst, err := r.user.Instantiate(t.Context(), r.toCaller)
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

// callAdd calls add of an instance, and says if the sum is not what it should be.
func callAdd(ctx context.Context, inst engines.Instance, n, want uint64) error {
	f, err := inst.Func("add")
	if err != nil {
		return err
	}
	stack := []uint64{n}
	if err := f.Call(ctx, stack); err != nil {
		return err
	}
	if stack[0] != want {
		return fmt.Errorf("the sum is %d, want %d", stack[0], want)
	}
	return nil
}

// What a host function calls of the kin of its caller is run by the thread that
// waits for it, at any depth; so are start functions.
func TestReentry(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]func(testing.TB) worker.Config{
		engineName: config,
		"single":   func(t testing.TB) worker.Config { return role(t, "single") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelatives(t, newEngine(t, cfg(t)))
			sum, depth := uint64(2000), 0
			others := []engines.Instance{r.b, r.lender, r.a}
			var made []engines.Instance
			r.visit = func(ctx context.Context, c engines.Caller) error {
				for _, inst := range []engines.Instance{r.a, r.b, r.lender} {
					sum++
					if err := callAdd(ctx, inst, 1, sum); err != nil {
						return fmt.Errorf("add at depth %d: %w", depth, err)
					}
				}
				inst, err := r.user.Instantiate(ctx, r.toCaller)
				if err != nil {
					return fmt.Errorf("an instance at depth %d: %w", depth, err)
				}
				made = append(made, inst)
				if sum += 1005; callAdd(ctx, inst, 5, sum) != nil {
					return errors.New("the new instance does not add")
				}
				if depth < len(others) {
					depth++
					if err := fn(t, others[depth-1], "visit").Call(ctx, nil); err != nil {
						return err
					}
					depth--
				}
				got := make([]byte, 4)
				want := []byte{byte(sum), byte(sum >> 8), 0, 0}
				for _, mem := range []engines.Memory{c.Memory(), r.a.Memory("memory"), inst.Memory("memory")} {
					if !mem.Read(0, got) || !bytes.Equal(got, want) {
						return fmt.Errorf("the memory has %v, want %v", got, want)
					}
				}
				return nil
			}
			if err := fn(t, r.a, "visit").Call(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			for i, inst := range append(made, r.b) { // on connections of their own again
				sum++
				if err := callAdd(t.Context(), inst, 1, sum); err != nil {
					t.Errorf("instance %d: %v", i, err)
				}
			}
		})
	}
}

// Errors and ends of nested calls are those of the call that they are of.
func TestReentryErrors(t *testing.T) {
	t.Parallel()
	r := newRelatives(t, newEngine(t, config(t)))
	errDeep := errors.New("deep")
	depth := 0
	r.visit = func(ctx context.Context, _ engines.Caller) error {
		if depth++; depth == 2 {
			return errDeep
		}
		err := fn(t, r.b, "visit").Call(ctx, nil)
		if _, ok := errors.AsType[*engines.HostError](err); !ok || !errors.Is(err, errDeep) {
			t.Errorf("the nested call ended with %v", err)
		}
		return nil
	}
	if err := fn(t, r.a, "visit").Call(t.Context(), nil); err != nil {
		t.Errorf("a call whose host function swallows an error: %v", err)
	}
	r.visit = func(context.Context, engines.Caller) error { return callAdd(t.Context(), r.b, 1, 0) }
	err := fn(t, r.a, "visit").Call(t.Context(), nil)
	if _, ok := errors.AsType[*worker.ReentryError](err); !ok {
		t.Errorf("a nested call with another context ended with %v, want a ReentryError", err)
	}
	var kept context.Context
	r.visit = func(ctx context.Context, _ engines.Caller) error { kept = ctx; return nil }
	if err := fn(t, r.a, "visit").Call(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := callAdd(kept, r.b, 1, 2001); err != nil {
		t.Errorf("a call with the context of a host call that is over: %v", err)
	}
}
