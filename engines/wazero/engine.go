// Package wazero adapts github.com/tetratelabs/wazero, a WebAssembly engine in
// pure Go, to the contract in package engines.
//
// wazero fixes the memory limit and interruptibility for a whole runtime, and
// can link instances of one runtime only. So there is one wazero runtime for
// each set of compile options in use, and instances link to each other when
// their modules were compiled with equal options. Nothing is registered by
// name: imports resolve to exactly what Instantiate was given.
//
// With MappedMemory, the memory that a module exports is a reservation of its
// whole maximum, outside of Go's heap: 4 GiB of addresses where nothing limits
// it. It is given back when the instance is closed, and with it those that it
// can exchange references to functions with, as through a table.
package wazero

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	upstream "github.com/tetratelabs/wazero"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/internal/mapping"
)

const (
	name    = "wazero"
	version = "1.12.0"
)

// maxPages is one page short of the 4 GiB that WebAssembly allows: wazero keeps
// a memory's size in 32 bits, where 65,536 pages would read as none.
const maxPages = 65535

var _ engines.WasmEngine = (*engine)(nil)

// New returns a wazero engine. The caller closes it.
func New() (engines.WasmEngine, error) {
	e := &engine{runtimes: make(map[engines.CompileOptions]*runtime)}
	e.cache, e.kept = newCache(&e.code)
	return e, nil
}

type engine struct {
	// cache makes the runtimes share compiled code.
	cache upstream.CompilationCache
	code  codeStore // where the cache looks for code it does not have
	kept  bool      // it does look there

	mu       sync.Mutex
	closed   bool
	runtimes map[engines.CompileOptions]*runtime // those with a module
}

// runtime is a wazero runtime and the modules compiled by it.
type runtime struct {
	upstream.Runtime
	opts      engines.CompileOptions
	closed    atomic.Bool
	hosts     hostModules
	callers   callers
	companies companies
	users     int // modules open; guarded by engine.mu
}

func (e *engine) Info() engines.Info {
	return engines.Info{
		Name:    name,
		Version: version,
		Features: engines.Features{
			Interrupt:   true,
			MemoryLimit: true,
			V128Values:  true,
			RefValues:   true,

			MappedMemory: mapping.Supported,
		},
	}
}

func (e *engine) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	opts, err := accept(ctx, opts)
	if err != nil {
		return nil, err
	}
	e.code.use.RLock()
	defer e.code.use.RUnlock()
	return e.compile(ctx, wasm, opts)
}

// accept is what the engine takes opts for, or why it does not.
func accept(ctx context.Context, opts engines.CompileOptions) (engines.CompileOptions, error) {
	if err := opts.RefuseUnmetered(name); err != nil {
		return opts, err
	}
	if err := mapping.Refuse(name, opts); err != nil {
		return opts, err
	}
	if err := ctx.Err(); err != nil {
		return opts, &engines.CompileError{Engine: name, Err: err}
	}
	if opts.MemoryLimitPages == 0 || opts.MemoryLimitPages > maxPages {
		opts.MemoryLimitPages = maxPages
	}
	return opts, nil
}

func (e *engine) compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	rt, err := e.acquire(ctx, opts)
	if err != nil {
		return nil, err
	}
	m, err := rt.compile(ctx, wasm)
	if err != nil {
		return nil, &engines.CompileError{Engine: name, Err: errors.Join(err, e.release(rt))}
	}
	m.engine = e
	return m, nil
}

// acquire returns the runtime for opts, counting one more user of it.
func (e *engine) acquire(ctx context.Context, opts engines.CompileOptions) (*runtime, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, engines.ErrClosed
	}
	rt, ok := e.runtimes[opts]
	if !ok {
		rt = newRuntime(ctx, opts, e.cache)
		e.runtimes[opts] = rt
	}
	rt.users++
	return rt, nil
}

func newRuntime(ctx context.Context, opts engines.CompileOptions, cache upstream.CompilationCache) *runtime {
	config := upstream.NewRuntimeConfig().
		WithDebugInfoEnabled(false). // a parser of hostile input that nothing needs
		WithCompilationCache(cache).
		WithMemoryLimitPages(opts.MemoryLimitPages).
		WithCloseOnContextDone(opts.Interruptible)
	return &runtime{Runtime: upstream.NewRuntimeWithConfig(ctx, config), opts: opts}
}

// release takes back one use of rt, and closes it with the last.
func (e *engine) release(rt *runtime) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	rt.users--
	if rt.users > 0 || e.closed {
		return nil
	}
	delete(e.runtimes, rt.opts)
	return rt.close()
}

func (e *engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	var errs []error
	for _, rt := range e.runtimes {
		errs = append(errs, rt.close())
	}
	clear(e.runtimes)
	errs = append(errs, e.cache.Close(context.Background()))
	return errors.Join(errs...)
}

func (rt *runtime) close() error {
	rt.closed.Store(true)
	rt.hosts.close()
	return errors.Join(rt.Close(context.Background()), rt.companies.close())
}

// compile turns a panic of the compiler into an error: what it reads is
// hostile, and its bugs must not become the kernel's end.
func (rt *runtime) compile(ctx context.Context, wasm []byte) (_ *module, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the compiler failed on this module; report it to the wazero project: %w", engines.Panicked(r))
		}
	}()
	iface, err := binfmt.Decode(wasm)
	if err != nil {
		return nil, err
	}
	compiled, err := rt.CompileModule(ctx, wasm)
	if err != nil {
		return nil, err
	}
	return newModule(rt, compiled, iface), nil
}
