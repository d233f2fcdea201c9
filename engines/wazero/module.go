package wazero

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	upstream "github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/internal/link"
)

var _ engines.Module = (*module)(nil)

type module struct {
	engine   *engine
	rt       *runtime
	compiled upstream.CompiledModule
	iface    *binfmt.Interface
	exports  map[string]engines.ExternType
	closed   atomic.Bool
}

func newModule(rt *runtime, compiled upstream.CompiledModule, iface *binfmt.Interface) *module {
	return &module{rt: rt, compiled: compiled, iface: iface, exports: link.Exports(iface.Exports)}
}

func (m *module) Imports() []engines.ImportType { return m.iface.Imports }
func (m *module) Exports() []engines.ExportType { return m.iface.Exports }

func (m *module) Close() error {
	if m.closed.Swap(true) {
		return nil
	}
	return errors.Join(m.compiled.Close(context.Background()), m.engine.release(m.rt))
}

func (m *module) isClosed() bool { return m.closed.Load() || m.rt.closed.Load() }

func (m *module) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	if m.isClosed() {
		return nil, engines.ErrClosed
	}
	if m.rt.opts.Interruptible {
		if err := interrupted(ctx); err != nil {
			return nil, err
		}
	}
	linked, err := m.link(ctx, imports)
	if err != nil {
		return nil, err
	}
	if m.iface.ElementsTrap {
		// wazero leaves such a segment out and goes on.
		return nil, &engines.Trap{Class: engines.TrapTableBounds, Detail: "an active element segment is out of bounds"}
	}
	instantiateCtx, mapped, err := m.prepare(ctx, imports)
	if err != nil {
		return nil, err
	}
	resolve := experimental.WithImportResolver(instantiateCtx, func(name string) api.Module { return linked[name] })
	// Anonymous, so that instances of one module do not collide, and without
	// start functions by name: _start and _initialize are the binding's affair.
	mod, err := m.rt.InstantiateModule(resolve, m.compiled, upstream.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		_ = m.rt.leave(mapped) // err is what matters
		return nil, m.instantiateError(ctx, err)
	}
	return newInstance(m, mod, imports, mapped), nil
}

// link finds the wazero module that each import module of m resolves to.
func (m *module) link(ctx context.Context, imports engines.Imports) (map[string]api.Module, error) {
	if err := link.Check(m.iface.Imports, imports, m.lend); err != nil {
		return nil, err
	}
	linked := make(map[string]api.Module)
	for _, im := range m.iface.Imports {
		if linked[im.Module] != nil {
			continue
		}
		if lender, ok := imports.Instances[im.Module]; ok {
			linked[im.Module] = lender.(*instance).mod
			continue
		}
		mod, err := m.rt.hosts.get(ctx, m.rt, im.Module, imports.Host[im.Module])
		if errors.Is(err, engines.ErrClosed) {
			return nil, err
		}
		if err != nil {
			return nil, &engines.LinkError{Module: im.Module, Name: im.Name, Reason: err.Error()}
		}
		linked[im.Module] = mod
	}
	return linked, nil
}

// lend is the [link.Lender] for m.
func (m *module) lend(lender engines.Instance) (map[string]engines.ExternType, string) {
	inst, ok := lender.(*instance)
	switch {
	case !ok:
		return nil, "the lending instance is not of the engine " + name
	case inst.module.rt != m.rt:
		return nil, "the lending instance was compiled by another engine or with other options; compile both with the same"
	case inst.mod.IsClosed():
		return nil, "the lending instance is closed"
	}
	return inst.module.exports, ""
}

// instantiateError types an error of wazero's instantiation: of linking, of an
// active segment, or of the start function.
func (m *module) instantiateError(ctx context.Context, err error) error {
	if m.isClosed() {
		return engines.ErrClosed
	}
	// wazero writes "import kind[module.name]: reason".
	for _, im := range m.iface.Imports {
		prefix := fmt.Sprintf("import %s[%s.%s]: ", im.Type.Kind, im.Module, im.Name)
		if reason, ok := strings.CutPrefix(err.Error(), prefix); ok {
			return &engines.LinkError{Module: im.Module, Name: im.Name, Reason: reason}
		}
	}
	return callError(ctx, err)
}
