//go:build wasmtime

package wasmtime

// #include "shim.h"
import "C"

import (
	"context"
	"sync"
	"unsafe"

	// For the static library of Wasmtime, of each system that it has one for,
	// and the linker flags.
	_ "github.com/bytecodealliance/wasmtime-go/v44"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/internal/mapping"
)

const (
	name    = "wasmtime"
	version = "44.0.0"
)

var _ engines.WasmEngine = (*engine)(nil)

// New returns a wasmtime engine. The caller closes it.
func New() (engines.WasmEngine, error) {
	return &engine{
		modules:   make(map[*module]struct{}),
		instances: make(map[*instance]struct{}),
	}, nil
}

// engine owns all that Wasmtime allocates for it. Nothing is freed by a
// finalizer: only Close frees, of the engine or of what it made.
type engine struct {
	// use is held for reading where compilers are used, for writing to close them.
	use    sync.RWMutex
	closed bool // guarded by use

	mu sync.Mutex // guards what follows, and each store's users
	// plain and interruptible are nil until asked for.
	plain, interruptible *compiler
	modules              map[*module]struct{}
	instances            map[*instance]struct{}
}

// compiler is an engine of Wasmtime. Interruptible code differs, so there are
// up to two, and what one compiled does not link with what the other did.
type compiler struct {
	upstream *C.wasm_engine_t
	ticker   *ticker // nil unless interruptible
}

func newCompiler(interruptible bool) *compiler {
	c := &compiler{upstream: C.forgeone_engine_new(C.bool(interruptible))}
	if interruptible {
		c.ticker = startTicker(func() { C.wasmtime_engine_increment_epoch(c.upstream) })
	}
	return c
}

func (c *compiler) validate(wasm []byte) error {
	return errorOf(C.wasmtime_module_validate(c.upstream, (*C.uint8_t)(unsafe.SliceData(wasm)), C.size_t(len(wasm))))
}

func (c *compiler) close() {
	if c.ticker != nil {
		c.ticker.stop()
	}
	C.wasm_engine_delete(c.upstream)
}

// compiler returns the one for opts, making it at first use.
func (e *engine) compiler(opts engines.CompileOptions) *compiler {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &e.plain
	if opts.Interruptible {
		c = &e.interruptible
	}
	if *c == nil {
		*c = newCompiler(opts.Interruptible)
	}
	return *c
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
	return e.load(opts, func() (*module, error) { return e.compile(ctx, wasm, opts) })
}

// load adopts the module that the function makes, unless the engine does not
// hold the options.
func (e *engine) load(opts engines.CompileOptions, newModule func() (*module, error)) (engines.Module, error) {
	if err := opts.RefuseUnmetered(name); err != nil {
		return nil, err
	}
	if err := mapping.Refuse(name, opts); err != nil {
		return nil, err
	}
	e.use.RLock()
	defer e.use.RUnlock()
	if e.closed {
		return nil, engines.ErrClosed
	}
	m, err := newModule()
	if err != nil {
		return nil, &engines.CompileError{Engine: name, Err: err}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.modules[m] = struct{}{}
	return m, nil
}

// prepare is the module of a binary, before there is code for it.
func (e *engine) prepare(ctx context.Context, wasm []byte, opts engines.CompileOptions) (*module, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	iface, err := binfmt.Decode(wasm)
	if err != nil {
		return nil, err
	}
	m := newModule(e, iface)
	m.compiler = e.compiler(opts)
	m.mapped = opts.MappedMemory
	return m, nil
}

func (e *engine) compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (*module, error) {
	m, err := e.prepare(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	if m.iface.HasStart {
		// An export declares a function, so that ref.func may name it: what is
		// valid with the start function exported need not be so without.
		if err := m.compiler.validate(wasm); err != nil {
			return nil, err
		}
	}
	wasm, err = binfmt.Rewrite(wasm, m.edit(opts.MemoryLimitPages))
	if err != nil {
		return nil, err
	}
	if err := m.compile(wasm); err != nil {
		return nil, err
	}
	return m, nil
}

func (e *engine) Close() error {
	e.use.Lock()
	defer e.use.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.mu.Lock()
	instances, modules := e.instances, e.modules
	e.instances, e.modules = nil, nil
	compilers := []*compiler{e.plain, e.interruptible}
	e.mu.Unlock()
	for i := range instances {
		i.closed.Store(true)
		if i.store.release() {
			i.store.free()
		}
		i.overlay.Close()
	}
	for m := range modules {
		m.free()
	}
	for _, c := range compilers {
		if c != nil {
			c.close()
		}
	}
	return nil
}
