//go:build wasmer

package wasmer

import (
	"runtime"
	"slices"
	"sync"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/link"
)

// binding is the host functions of one instance. wasmer does not say which
// instance calls, so each has its own; wasmer-go does not free them when told
// to, so they are used again by later instances of the module.
type binding struct {
	hosts    []*engines.HostModule // by import; nil where an instance lends
	funcs    []*upstream.Function
	instance *instance
}

func newBinding(m *module, hosts []*engines.HostModule) *binding {
	b := &binding{hosts: hosts, funcs: make([]*upstream.Function, len(hosts))}
	for i, hm := range hosts {
		if hm == nil {
			continue
		}
		fn := link.Function(hm, m.iface.Imports[i].Name)
		params, results := kinds(fn.Type.Params), kinds(fn.Type.Results)
		typ := upstream.NewFunctionType(params, results)
		b.funcs[i] = upstream.NewFunction(m.engine.store, typ, b.hostFunc(m.iface.Imports[i].Module, fn))
		runtime.KeepAlive(params)
		runtime.KeepAlive(results)
		runtime.KeepAlive(typ)
	}
	return b
}

// hostFunc wraps fn for wasmer-go. An error must not be returned to it as one:
// it makes a trap of it that wasmer frees and a finalizer frees again. Results
// of a wrong number end the guest call as well, and the error itself waits in
// the call.
func (b *binding) hostFunc(module string, fn *engines.HostFunction) func([]upstream.Value) ([]upstream.Value, error) {
	slots := fn.Type.Slots()
	wrong := slices.Repeat([]upstream.Value{upstream.NewI32(0)}, len(fn.Type.Results)+1)
	return func(args []upstream.Value) ([]upstream.Value, error) {
		stack := make([]uint64, slots)
		for i := range args {
			stack[i] = argument(&args[i])
		}
		c := b.instance.underWay()
		if err := link.Call(c.ctx, fn, caller{b.instance}, stack); err != nil {
			c.failure = &engines.HostError{Module: module, Name: fn.Name, Err: err}
			return wrong, nil
		}
		results := make([]upstream.Value, len(fn.Type.Results))
		for i, t := range fn.Type.Results {
			results[i] = upstream.NewValue(fromWord(t, stack[i]), kind(t))
		}
		return results, nil
	}
}

// caller is the instance as its host functions see it.
type caller struct{ instance *instance }

func (c caller) Memory() engines.Memory {
	if c.instance.memory == nil {
		return nil
	}
	return c.instance.memory
}

// idleBindings are those of closed instances.
type idleBindings struct {
	mu     sync.Mutex
	closed bool
	list   []*binding
}

// take returns a binding for m's imports, an idle one if there is one made of
// the same host modules.
func (idle *idleBindings) take(m *module, imports engines.Imports) *binding {
	hosts := make([]*engines.HostModule, len(m.iface.Imports))
	for i, im := range m.iface.Imports {
		hosts[i] = imports.Host[im.Module]
	}
	idle.mu.Lock()
	for n := len(idle.list); n > 0; n = len(idle.list) {
		b := idle.list[n-1]
		idle.list = idle.list[:n-1]
		if slices.Equal(b.hosts, hosts) {
			idle.mu.Unlock()
			return b
		}
		// Of host modules that are used no more: left to the collector.
	}
	idle.mu.Unlock()
	return newBinding(m, hosts)
}

func (idle *idleBindings) give(b *binding) {
	b.instance = nil
	idle.mu.Lock()
	defer idle.mu.Unlock()
	if !idle.closed {
		idle.list = append(idle.list, b)
	}
}

func (idle *idleBindings) clear() {
	idle.mu.Lock()
	defer idle.mu.Unlock()
	idle.closed, idle.list = true, nil
}
