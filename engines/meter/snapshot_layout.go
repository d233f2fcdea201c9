package meter

import (
	"fmt"
	"strconv"

	"forgeone.dev/forgeone/engines"
)

// layout is what the host must know of a module to capture its instances. What
// it does not list cannot have changed since instantiation, unless the instance
// says so by the global exportChanged.
type layout struct {
	refusal string   // why instances cannot be captured; then the rest is zero
	memory  *string  // what it is exported by, nil if there is none
	globals []string // what those are exported by that numbers are assigned to
	changes bool     // there is code that changes what cannot be captured
	size    uint64   // of the memory to begin with
	data    []run    // of the active segments, which the host writes
	beyond  bool     // of them, the one that comes next is out of bounds
}

// layout decides whether the module can be captured, and what of it.
func (m *module) layout() *layout {
	if m.foreign != "" {
		return &layout{refusal: fmt.Sprintf("the module imports the %s, which others see too; only functions of the host may be imported", m.foreign)}
	}
	for i, d := range m.data {
		if d.active && (!d.placed || m.memories == 0) {
			return &layout{refusal: fmt.Sprintf("data segment %d of the module is placed by something else than a constant", i)}
		}
	}
	l := &layout{size: uint64(m.pages) * engines.PageSize, memory: m.memory}
	if m.memories > 0 && m.memory == nil {
		name := exportMemory
		l.memory = &name
	}
	for i, g := range m.globals {
		if !g.captured() {
			continue
		}
		name := globalName(i)
		if g.export != nil {
			name = *g.export
		}
		l.globals = append(l.globals, name)
	}
	runs, ok := m.runs(l.size)
	l.data, l.beyond = runs, !ok
	return l
}

// captured reports whether numbers are assigned to the global.
func (g *global) captured() bool { return g.Mutable && numeric(g.Value) }

// numeric reports whether values of the type cross the host boundary as one
// word, on any engine and for any length of time.
func numeric(t engines.ValueType) bool {
	switch t {
	case engines.I32, engines.I64, engines.F32, engines.F64:
		return true
	}
	return false
}

// globalName is what a global is exported by if the module does not.
func globalName(index int) string { return exportGlobal + strconv.Itoa(index) }

// plain appends an instruction that is as it was, but for where functions are.
func (w *rewriter) plain(dst []byte, in *instr) []byte {
	return w.module.plain(w.changed(dst, in), in)
}

// changed appends, before an instruction that changes what cannot be captured,
// code that tells the host.
func (w *rewriter) changed(dst code, in *instr) code {
	if !w.captured() || !w.uncaptured(in) {
		return dst
	}
	w.layout.changes = true
	return dst.i32(1).globalSet(w.change())
}

// uncaptured reports whether an instruction changes a table, a segment, or a
// global that holds no number.
func (w *rewriter) uncaptured(in *instr) bool {
	switch in.op {
	case opTableSet, opTableInit, opElemDrop, opTableCopy, opTableGrow, opTableFill:
		return true
	case opDataDrop:
		return in.imm[0] != w.segments.empty
	case opGlobalSet:
		return !numeric(w.globals[in.imm[0]].Value)
	}
	return false
}
