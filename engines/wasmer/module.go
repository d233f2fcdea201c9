//go:build wasmer

package wasmer

import (
	"context"
	"fmt"
	"runtime"
	"runtime/cgo"
	"strings"
	"sync/atomic"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/internal/link"
)

var _ engines.Module = (*module)(nil)

type module struct {
	engine   *engine
	upstream *upstream.Module
	iface    *binfmt.Interface
	exports  map[string]engines.ExternType
	closed   atomic.Bool
	mapped   bool // instances are memory mappers

	// Exports that the adapter adds. wasmer-go has no other way to memory 0,
	// and the start function is called as an export so that it runs as any
	// call does.
	memoryExport, startExport string

	idle idleBindings
}

func newModule(e *engine, iface *binfmt.Interface) *module {
	m := &module{engine: e, iface: iface, exports: link.Exports(iface.Exports)}
	m.memoryExport, m.startExport = m.unused("memory"), m.unused("start")
	return m
}

// unused is a name that m does not export.
func (m *module) unused(name string) string {
	for {
		if _, taken := m.exports[name]; !taken {
			return name
		}
		name += "'"
	}
}

// edit is what the adapter changes in the binary.
func (m *module) edit(memoryLimit uint32) binfmt.Edit {
	edit := binfmt.Edit{MemoryLimit: memoryLimit, DropStart: m.iface.HasStart}
	if m.iface.HasMemory {
		edit.Exports = append(edit.Exports, binfmt.Export{Name: m.memoryExport, Kind: engines.KindMemory})
	}
	if m.iface.HasStart {
		edit.Exports = append(edit.Exports, binfmt.Export{Name: m.startExport, Kind: engines.KindFunc, Index: m.iface.Start})
	}
	return edit
}

func (m *module) Imports() []engines.ImportType { return m.iface.Imports }
func (m *module) Exports() []engines.ExportType { return m.iface.Exports }

func (m *module) Close() error {
	m.engine.mu.Lock()
	_, open := m.engine.modules[m]
	delete(m.engine.modules, m)
	m.engine.mu.Unlock()
	if open {
		m.free()
	}
	return nil
}

// free is called once, by whoever took m from the engine's modules.
func (m *module) free() {
	m.closed.Store(true)
	m.idle.clear()
	m.upstream.Close()
}

func (m *module) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	inst, err := m.instantiate(imports)
	if err != nil {
		return nil, err
	}
	if m.iface.HasStart {
		if err := inst.start(ctx); err != nil {
			_ = inst.Close() // it has nothing to report
			return nil, err
		}
	}
	return inst, nil
}

// instantiate does all but run the start function, so no guest code runs
// while the store is held.
func (m *module) instantiate(imports engines.Imports) (*instance, error) {
	m.engine.use.RLock()
	defer m.engine.use.RUnlock()
	if m.closed.Load() || m.engine.closed {
		return nil, engines.ErrClosed
	}
	if err := link.Check(m.iface.Imports, imports, m.lend); err != nil {
		return nil, err
	}
	inst := &instance{module: m, imports: imports}
	inst.host = m.idle.take(m, imports)
	inst.host.instance = inst

	var err error
	inst.upstream, err = upstream.NewInstance(m.upstream, inst.importObject())
	runtime.KeepAlive(inst)
	if err != nil {
		m.idle.give(inst.host)
		return nil, m.instantiateError(err)
	}
	if m.iface.HasMemory {
		mem, err := inst.upstream.Exports.GetMemory(m.memoryExport)
		if err != nil {
			return nil, fmt.Errorf("wasmer: the memory that the adapter exports: %w", err)
		}
		inst.memory = &memory{inst, mem}
	}
	inst.handle = cgo.NewHandle(inst)
	m.engine.adopt(inst)
	return inst, nil
}

// lend is the [link.Lender] for m.
func (m *module) lend(lender engines.Instance) (map[string]engines.ExternType, string) {
	inst, ok := lender.(*instance)
	switch {
	case !ok:
		return nil, "the lending instance is not of the engine " + name
	case inst.module.engine != m.engine:
		return nil, "the lending instance is of another wasmer engine; load both with the same"
	case inst.closed.Load():
		return nil, "the lending instance is closed"
	}
	return inst.module.exports, ""
}

// instantiateError types an error of wasmer's instantiation: of linking or of
// an active segment.
func (m *module) instantiateError(err error) error {
	// wasmer writes `Error while importing "module"."name": reason`.
	for _, im := range m.iface.Imports {
		prefix := fmt.Sprintf("Error while importing %q.%q: ", im.Module, im.Name)
		if reason, ok := strings.CutPrefix(err.Error(), prefix); ok {
			return &engines.LinkError{Module: im.Module, Name: im.Name, Reason: reason}
		}
	}
	return trap(err)
}
