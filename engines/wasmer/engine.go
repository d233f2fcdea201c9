//go:build wasmer

package wasmer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/internal/mapping"
)

const (
	name    = "wasmer"
	version = "1.0.4"
)

var _ engines.WasmEngine = (*engine)(nil)

// New returns a wasmer engine. The caller closes it.
func New() (engines.WasmEngine, error) {
	return &engine{
		store:     upstream.NewStore(upstream.NewEngine()),
		modules:   make(map[*module]struct{}),
		instances: make(map[*instance]struct{}),
	}, nil
}

// engine is one wasmer store: only instances of one store can be linked.
//
// wasmer-go frees what its Go values stand for when these are collected, in any
// order. So everything here points at what it needs: function and memory at
// their instance, that at its module, host functions and lenders, the module at
// the engine; and whoever passes a pointer to wasmer keeps its owner alive.
type engine struct {
	store *upstream.Store

	// use is held for reading where the store is used, for writing to close it.
	use    sync.RWMutex
	closed bool // guarded by use

	mu        sync.Mutex // guards what follows, and each instance's dependents
	modules   map[*module]struct{}
	instances map[*instance]struct{}
}

func (e *engine) Info() engines.Info {
	return engines.Info{
		Name:          name,
		Version:       version,
		SafeCallDepth: 10_000,
		Features:      engines.Features{MemoryLimit: true, MappedMemory: mapping.Supported},
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
	if opts.Interruptible {
		return nil, &engines.UnsupportedError{
			Engine:  name,
			Feature: "interruption of a running guest (Interruptible)",
			Reason:  "wasmer-go offers no way to stop one; use the engine wazero, or leave the timeout off",
		}
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
		if _, unsupported := errors.AsType[*engines.UnsupportedError](err); unsupported {
			return nil, err
		}
		return nil, &engines.CompileError{Engine: name, Err: err}
	}
	// Both are filled in at first use, without a lock: fill them in here.
	m.upstream.Imports()
	m.upstream.Exports()
	m.mapped = opts.MappedMemory
	e.mu.Lock()
	defer e.mu.Unlock()
	e.modules[m] = struct{}{}
	return m, nil
}

func (e *engine) compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (*module, error) {
	m, err := e.prepare(ctx, wasm)
	if err != nil {
		return nil, err
	}
	wasm, err = binfmt.Rewrite(wasm, m.edit(opts.MemoryLimitPages))
	if err != nil {
		return nil, err
	}
	m.upstream, err = upstream.NewModule(e.store, wasm)
	if err != nil {
		return nil, compileError(err)
	}
	return m, nil
}

// compileError says what to do about what wasmer lacks of WebAssembly 2.0, which
// it names: vector instructions that came late, and some forms of segments.
func compileError(err error) error {
	if strings.Contains(err.Error(), "Unsupported feature") {
		return fmt.Errorf("%w; wasmer-go %s does not have it: use the engine wazero or wasmtime, or build the module without", err, version)
	}
	return err
}

// refuse returns an error for what would end the process, or worse: a value that
// could cross the host boundary and that wasmer-go cannot carry, and a table
// beside an imported one.
func refuse(iface *binfmt.Interface) error {
	imported := func(im engines.ImportType) bool { return im.Type.Kind == engines.KindTable }
	if iface.HasOwnTable && slices.ContainsFunc(iface.Imports, imported) {
		return &engines.UnsupportedError{
			Engine:  name,
			Feature: "a table beside an imported one",
			Reason:  "its table.set and call_indirect look for the module's own table in the wrong place; use the engine wazero or wasmtime",
		}
	}
	check := func(what string, t engines.ExternType) error {
		types := append(append([]engines.ValueType{}, t.Func.Params...), t.Func.Results...)
		if t.Kind == engines.KindGlobal {
			types = append(types, t.Global.Value)
		}
		for _, v := range types {
			if kind(v) == noKind {
				return &engines.UnsupportedError{
					Engine:  name,
					Feature: fmt.Sprintf("%s in the type of %s", v, what),
					Reason:  "wasmer-go carries i32, i64, f32 and f64 only; use the engine wazero",
				}
			}
		}
		return nil
	}
	for _, im := range iface.Imports {
		if err := check(fmt.Sprintf("import %s.%s", im.Module, im.Name), im.Type); err != nil {
			return err
		}
	}
	for _, ex := range iface.Exports {
		if err := check(fmt.Sprintf("export %q", ex.Name), ex.Type); err != nil {
			return err
		}
	}
	return nil
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
	e.mu.Unlock()
	for i := range instances {
		i.closed.Store(true)
		i.free()
		i.overlay.Close()
	}
	for m := range modules {
		m.free()
	}
	e.store.Close()
	return nil
}
