package meter

import "forgeone.dev/forgeone/engines"

// A call in a short loop costs more than the same call in a loop that nobody
// meters: around it an engine keeps in memory what it had in registers, and the
// more so the more there is to keep. So a short function without branches is
// written in the place of its calls in loops.
const (
	inlineCost   = 24  // of a function that is inlined, at most
	inlineLocals = 8   // of it, with parameters
	maxSites     = 256 // in one function
	maxVariables = 64  // that are added to it
)

// inlined is what has been written in the place of calls in a function.
type inlined struct {
	sites     int
	variables []engines.ValueType // that are added for the locals of others
	first     map[uint32]int      // of them, by function
}

// inlines reports whether the locals of a function can be variables of another.
func (w *rewriter) inlines(fn, locals uint32, declared []byte) bool {
	params := w.module.types[w.funcs[fn]].Params
	if len(params)+int(locals) > inlineLocals {
		return false
	}
	for _, t := range w.localTypes(params, declared) {
		if !numeric(t) {
			return false
		}
	}
	return true
}

// localTypes are those of the parameters and of the locals declared.
func (w *rewriter) localTypes(params []engines.ValueType, declared []byte) []engines.ValueType {
	types := append([]engines.ValueType(nil), params...)
	for r := (&reader{data: declared}); r.more(); {
		n, t := r.u32(), engines.ValueType(r.byte())
		for range n {
			types = append(types, t)
		}
	}
	return types
}

// inlineCall writes the body of a function, whose survey says so, in the place of
// a call.
func (f *function) inlineCall(fn uint32) {
	r := f.bodies[fn-uint32(f.imported)].reader()
	_, _, declared := f.locals(r)
	params := f.module.types[f.funcs[fn]].Params
	types := f.localTypes(params, declared)
	first, ok := f.first[fn]
	if !ok {
		first = len(f.variables)
		if first+len(types) > maxVariables || int(f.own)+maxVariables > f.limits.Locals {
			f.out = f.plain(f.out, &instr{op: opCall, imm: [2]uint32{fn}})
			return
		}
		if f.first == nil {
			f.first = make(map[uint32]int)
		}
		f.first[fn] = first
		f.variables = append(f.variables, types...)
	}
	f.sites++
	for i := len(params) - 1; i >= 0; i-- {
		f.out = f.out.set(f.variable(first + i))
	}
	for i := len(params); i < len(types); i++ {
		f.out = f.out.zero(types[i]).set(f.variable(first + i))
	}
	for r.more() {
		switch in := f.instr(r); in.op {
		case opLocalGet, opLocalSet, opLocalTee:
			f.out = uleb(append(f.out, byte(in.op)), f.variable(first+int(in.imm[0])))
		case opEnd:
			return
		default:
			f.out = f.plain(f.out, &in)
		}
	}
}
