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
	m := &module{rt: rt, compiled: compiled, iface: iface, exports: make(map[string]engines.ExternType, len(iface.Exports))}
	for _, ex := range iface.Exports {
		m.exports[ex.Name] = ex.Type
	}
	return m
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
	resolve := experimental.WithImportResolver(ctx, func(name string) api.Module { return linked[name] })
	// Anonymous, so that instances of one module do not collide, and without
	// start functions by name: _start and _initialize are the binding's affair.
	mod, err := m.rt.InstantiateModule(resolve, m.compiled, upstream.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, m.instantiateError(ctx, err)
	}
	return newInstance(m, mod, imports), nil
}

// link finds what each import of m resolves to. It checks what wazero reports
// too loosely for a *engines.LinkError, and leaves the limits of tables and
// memories to wazero.
func (m *module) link(ctx context.Context, imports engines.Imports) (map[string]api.Module, error) {
	linked := make(map[string]api.Module)
	for i := range m.iface.Imports {
		im := &m.iface.Imports[i]
		fail := func(format string, args ...any) error {
			return &engines.LinkError{Module: im.Module, Name: im.Name, Reason: fmt.Sprintf(format, args...)}
		}
		host, isHost := imports.Host[im.Module]
		lender, isLent := imports.Instances[im.Module]
		switch {
		case isHost && isLent:
			return nil, fail("the module is given both as host functions and as an instance")
		case isHost:
			fn := findFunction(host, im.Name)
			if fn == nil {
				return nil, fail("the host offers no such function")
			}
			if im.Type.Kind != engines.KindFunc {
				return nil, fail("the guest wants a %s, the host offers a func", im.Type.Kind)
			}
			if !fn.Type.Equal(im.Type.Func) {
				return nil, fail("the guest wants %s, the host offers %s", im.Type.Func, fn.Type)
			}
			if linked[im.Module] == nil {
				mod, err := m.rt.hosts.get(ctx, m.rt, im.Module, host)
				if err != nil {
					return nil, fail("%v", err)
				}
				linked[im.Module] = mod
			}
		case isLent:
			inst, ok := lender.(*instance)
			if !ok {
				return nil, fail("the lending instance is of another engine than %s", name)
			}
			if inst.module.rt != m.rt {
				return nil, fail("the lending instance was compiled with other options; compile both with the same")
			}
			if inst.mod.IsClosed() {
				return nil, fail("the lending instance is closed")
			}
			t, ok := inst.module.exports[im.Name]
			if !ok {
				return nil, fail("the lending instance has no such export")
			}
			if t.Kind != im.Type.Kind {
				return nil, fail("the guest wants a %s, the lending instance exports a %s", im.Type.Kind, t.Kind)
			}
			linked[im.Module] = inst.mod
		default:
			return nil, fail("nothing is given for the module")
		}
	}
	return linked, nil
}

func findFunction(hm *engines.HostModule, name string) *engines.HostFunction {
	if hm == nil {
		return nil
	}
	for i := range hm.Functions {
		if hm.Functions[i].Name == name {
			return &hm.Functions[i]
		}
	}
	return nil
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
