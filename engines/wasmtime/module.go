//go:build wasmtime

package wasmtime

// #include "shim.h"
import "C"

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"unsafe"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/internal/link"
)

var _ engines.Module = (*module)(nil)

// memoryExport is the name by which the adapter exports memory 0 of each
// module: Wasmtime has no other way to the memory of the instance that calls a
// host function. A module with an export of that name keeps it.
const memoryExport = "forgeone:memory"

type module struct {
	engine   *engine
	compiler *compiler
	upstream *C.wasmtime_module_t
	imports  C.wasm_importtype_vec_t // in the order of iface.Imports
	iface    *binfmt.Interface
	exports  map[string]engines.ExternType
	// signatures are those of imported functions, by import.
	signatures []*signature
	// startExport names the start function, which is called as an export so
	// that it runs as any call does.
	startExport string
	closed      atomic.Bool
	mapped      bool // instances are memory mappers
}

func newModule(e *engine, iface *binfmt.Interface) *module {
	m := &module{
		engine:      e,
		iface:       iface,
		exports:     link.Exports(iface.Exports),
		signatures:  make([]*signature, len(iface.Imports)),
		startExport: "forgeone:start",
	}
	for i, im := range iface.Imports {
		if im.Type.Kind == engines.KindFunc {
			m.signatures[i] = newSignature(im.Type.Func)
		}
	}
	for m.has(m.startExport) {
		m.startExport += "'"
	}
	return m
}

func (m *module) has(export string) bool {
	_, ok := m.exports[export]
	return ok
}

// edit is what the adapter changes in the binary.
func (m *module) edit(memoryLimit uint32) binfmt.Edit {
	edit := binfmt.Edit{MemoryLimit: memoryLimit, DropStart: m.iface.HasStart}
	if m.iface.HasMemory && !m.has(memoryExport) {
		edit.Exports = append(edit.Exports, binfmt.Export{Name: memoryExport, Kind: engines.KindMemory})
	}
	if m.iface.HasStart {
		edit.Exports = append(edit.Exports, binfmt.Export{Name: m.startExport, Kind: engines.KindFunc, Index: m.iface.Start})
	}
	return edit
}

// compile compiles the binary, which is not kept.
func (m *module) compile(wasm []byte) error {
	data := (*C.uint8_t)(unsafe.SliceData(wasm))
	if err := errorOf(C.wasmtime_module_new(m.compiler.upstream, data, C.size_t(len(wasm)), &m.upstream)); err != nil {
		return err
	}
	C.wasmtime_module_imports(m.upstream, &m.imports)
	return nil
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

// free is called once, by whoever took m from the engine's modules. Wasmtime
// keeps the code for as long as there are instances of it.
func (m *module) free() {
	m.closed.Store(true)
	C.wasm_importtype_vec_delete(&m.imports)
	C.wasmtime_module_delete(m.upstream)
}

func (m *module) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	if m.compiler.ticker != nil {
		if trap := interrupted(ctx); trap != nil {
			return nil, trap
		}
	}
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
// while the engine is held.
func (m *module) instantiate(imports engines.Imports) (*instance, error) {
	m.engine.use.RLock()
	defer m.engine.use.RUnlock()
	if m.closed.Load() || m.engine.closed {
		return nil, engines.ErrClosed
	}
	if err := link.Check(m.iface.Imports, imports, m.lend); err != nil {
		return nil, err
	}
	st, err := m.store(imports)
	if err != nil {
		return nil, err
	}
	inst := &instance{module: m, store: st, imports: imports}
	st.instances++
	externs := inst.externs()
	out := C.forgeone_instance_new(st.context, m.upstream, unsafe.SliceData(externs), C.size_t(len(externs)), &inst.upstream)
	if failed(out) {
		m.engine.leave(st)
		return nil, m.instantiateError(out)
	}
	inst.memory = inst.lookupMemory(memoryExport)
	m.engine.adopt(inst)
	return inst, nil
}

// store is where an instance of m is to live: with the instances it imports
// from, else with those it is given besides, if they are together, else on its
// own. The caller leaves it.
func (m *module) store(imports engines.Imports) (*store, error) {
	var st *store
	for _, im := range m.iface.Imports {
		lender, ok := imports.Instances[im.Module]
		if !ok {
			continue
		}
		switch of := lender.(*instance).store; {
		case st == nil:
			st = of
		case st != of:
			return nil, &engines.LinkError{
				Module: im.Module, Name: im.Name,
				Reason: "the lending instances are strangers to each other, and Wasmtime links instances of one store only; " +
					"give one of them to the other when it is instantiated, even if it imports nothing of it",
			}
		}
	}
	if st == nil {
		st = m.company(imports)
	}
	return m.engine.enter(st, m.compiler), nil
}

// company is the one store of the instances in imports that m could import
// from, nil if there is none.
func (m *module) company(imports engines.Imports) *store {
	var st *store
	for _, lender := range imports.Instances {
		if _, refusal := m.lend(lender); refusal != "" {
			continue
		}
		of := lender.(*instance).store
		if st != nil && st != of {
			return nil
		}
		st = of
	}
	return st
}

// lend is the [link.Lender] for m.
func (m *module) lend(lender engines.Instance) (map[string]engines.ExternType, string) {
	inst, ok := lender.(*instance)
	switch {
	case !ok:
		return nil, "the lending instance is not of the engine " + name
	case inst.module.compiler != m.compiler:
		return nil, "the lending instance was compiled by another engine or with other options; compile both with the same"
	case inst.closed.Load():
		return nil, "the lending instance is closed"
	}
	return inst.module.exports, ""
}

// instantiateError types the error of an instantiation: of linking or of an
// active segment.
func (m *module) instantiateError(out C.forgeone_outcome) error {
	if out.error == nil {
		return takeError(out)
	}
	message := takeMessage(out.error)
	for _, im := range m.iface.Imports {
		if strings.HasPrefix(message, fmt.Sprintf("incompatible import type for `%s::%s`\n", im.Module, im.Name)) {
			return &engines.LinkError{Module: im.Module, Name: im.Name, Reason: rootCause(message)}
		}
	}
	return &engines.Trap{Detail: message}
}
