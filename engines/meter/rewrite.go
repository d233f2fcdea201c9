package meter

import (
	"fmt"

	"forgeone.dev/forgeone/engines"
)

// maxPages is the largest memory: one page short of the 4 GiB that WebAssembly
// allows, because there are engines that keep a size in 32 bits.
const maxPages = 65535

// plan says what a module is rewritten for.
type plan struct {
	Deadline    bool
	Fuel        bool
	CallDepth   uint32 // with either; 0: the engine's own
	MemoryPages uint32 // limit of each memory defined
	Capture     bool   // instances are to be captured
}

// What is added is known to the host by these names.
const (
	importGrant   = "grant"
	exportCounter = reserved + "/counter"
	exportID      = reserved + "/id"
	exportDepth   = reserved + "/depth"
	exportStart   = reserved + "/start"
	exportMemory  = reserved + "/memory"
	exportChanged = reserved + "/changed"
	exportGlobal  = reserved + "/global/" // and its index
)

// grantType is the type of the import: the instance's id, what is left of its
// slice and what it needs to go on, to what it has then. It ends the call if
// there is nothing to grant.
func grantType() engines.FuncType {
	return engines.FuncType{
		Params:  []engines.ValueType{engines.I32, engines.I64, engines.I64},
		Results: []engines.ValueType{engines.I64},
	}
}

// depthSpent is a need that says that calls are nested too deeply.
const depthSpent = -1

// rewriter writes a module anew.
type rewriter struct {
	*module
	plan    plan
	cyclic  []bool   // functions defined that count call depth; nil if none does
	surveys []survey // of the functions defined
	layout  *layout  // nil unless instances are to be captured

	// What is added to the module, each once.
	types     []engines.FuncType
	typeIDs   map[string]uint32
	helpers   []helper
	helperIDs map[helper]uint32
}

// rewritten is a module that is ready for an engine.
type rewritten struct {
	wasm     []byte
	metered  bool // it imports grant, and exports what the host sets
	hasStart bool // it exports its start function, which does not run by itself
	layout   *layout
}

// rewrite reads a module and writes one that does the same within limits.
func rewrite(wasm []byte, p plan, lim Limits) (*rewritten, error) {
	m, err := decode(wasm, lim)
	if err != nil {
		return nil, err
	}
	if err := m.clampTables(); err != nil {
		return nil, err
	}
	m.metered = p.Deadline || p.Fuel
	w := &rewriter{module: m, plan: p, typeIDs: make(map[string]uint32), helperIDs: make(map[helper]uint32)}
	if p.Capture {
		w.layout = m.layout()
	}
	m.placeSegments(w.captured())
	if p.CallDepth > 0 {
		if w.cyclic, err = m.cycles(); err != nil {
			return nil, err
		}
	}
	if m.metered {
		if err := w.survey(); err != nil {
			return nil, err
		}
	}
	out, err := w.encode(len(wasm))
	if err != nil {
		return nil, err
	}
	return &rewritten{wasm: out, metered: m.metered, hasStart: w.startsLater(), layout: w.layout}, nil
}

// captured reports whether instances can be captured.
func (w *rewriter) captured() bool { return w.layout != nil && w.layout.refusal == "" }

// startsLater reports whether there is a start function that the host calls.
func (w *rewriter) startsLater() bool { return w.hasStart && (w.metered || w.captured()) }

// encode writes all sections. The code comes first: what the others must add
// follows from it.
func (w *rewriter) encode(size int) ([]byte, error) {
	bodies, err := w.code()
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, size+2*len(bodies)), header...)
	for _, id := range []byte(sectionOrder) {
		old := w.sections[id]
		r := old.reader()
		var v vector
		if old.body != nil && id != sectionStart && id != sectionDataCount {
			v.n = r.count()
		}
		switch id {
		case sectionType:
			v.rest(r)
			w.addTypes(&v)
		case sectionImport:
			v.rest(r)
			if w.metered {
				v.add(uleb(append(str(str(nil, reserved), importGrant), byte(engines.KindFunc)), w.typeID(grantType())))
			}
		case sectionFunction:
			v.rest(r)
			w.addFunctions(&v)
		case sectionTable:
			for _, t := range w.tables {
				if !t.imported {
					v.items = t.limits.encode(append(v.items, t.elem))
				}
			}
		case sectionMemory:
			if v.n > 0 {
				l, err := clampMemory(r.limits(), w.plan.MemoryPages)
				if err != nil {
					return nil, err
				}
				v.items = l.encode(nil)
			}
		case sectionGlobal:
			for range v.n {
				start := r.pos
				r.bytes(2)
				w.copied(r, &v.items, start)
				w.constExpr(r, &v.items)
			}
			w.addGlobals(&v)
		case sectionExport:
			for range v.n {
				v.items = str(v.items, r.name())
				kind, index := r.byte(), r.u32()
				if engines.ExternKind(kind) == engines.KindFunc {
					index = w.moved(index)
				}
				v.items = uleb(append(v.items, kind), index)
			}
			w.addExports(&v)
		case sectionStart:
			if old.body != nil && !w.startsLater() {
				out = appendSection(out, id, old.body)
			}
			continue
		case sectionElement:
			for range v.n {
				w.element(r, &v.items)
			}
		case sectionDataCount:
			if old.body != nil {
				out = appendSection(out, id, uleb(nil, w.segments.count()))
			}
			continue
		case sectionCode:
			v = vector{uint32(len(w.bodies) + len(w.helpers)), bodies}
		case sectionData:
			w.dataSection(&v, r, w.captured())
		}
		if v.n > 0 || old.body != nil {
			out = appendSection(out, id, append(uleb(nil, v.n), v.items...))
		}
	}
	out = w.appendNames(out)
	if limit := w.limits.OutputBytes; len(out) > limit {
		return nil, &LimitError{What: "bytes after rewriting", Got: int64(len(out)), Limit: int64(limit)}
	}
	return out, nil
}

// code writes the bodies of the functions and of the helpers they need.
func (w *rewriter) code() ([]byte, error) {
	var out []byte
	if w.metered {
		w.typeID(grantType())
		w.helper(helper{})
	}
	for i, body := range w.bodies {
		f := function{rewriter: w, index: w.imported + i, deep: w.cyclic != nil && w.cyclic[i]}
		if w.metered {
			f.survey, f.quiet = w.surveys[i], w.surveys[i].cost > 0
		}
		var err error
		if out, err = f.rewrite(out, body.reader()); err != nil {
			return nil, fmt.Errorf("function %d: %w", w.imported+i, err)
		}
		if len(out) > w.limits.OutputBytes {
			return nil, &LimitError{What: "bytes of code after rewriting", Got: int64(len(out)), Limit: int64(w.limits.OutputBytes)}
		}
	}
	for _, h := range w.helpers {
		out = str(out, w.helperBody(h))
	}
	return out, nil
}

// Indices of what is added.
func (w *rewriter) grant() uint32   { return uint32(w.imported) }
func (w *rewriter) refill() uint32  { return uint32(len(w.funcs)) + 1 } // the first helper
func (w *rewriter) counter() uint32 { return uint32(len(w.globals)) }
func (w *rewriter) id() uint32      { return uint32(len(w.globals)) + 1 }
func (w *rewriter) depth() uint32   { return uint32(len(w.globals)) + 2 }
func (w *rewriter) change() uint32 {
	if w.metered {
		return w.depth() + 1
	}
	return uint32(len(w.globals))
}

// typeID is the index of a type that is added if it has not been.
func (w *rewriter) typeID(t engines.FuncType) uint32 {
	key := t.String()
	id, ok := w.typeIDs[key]
	if !ok {
		id = uint32(len(w.module.types) + len(w.types))
		w.types = append(w.types, t)
		w.typeIDs[key] = id
	}
	return id
}

func (w *rewriter) addTypes(v *vector) {
	for _, t := range w.types {
		item := []byte{0x60}
		for _, list := range [][]engines.ValueType{t.Params, t.Results} {
			item = uleb(item, uint32(len(list)))
			for _, t := range list {
				item = append(item, byte(t))
			}
		}
		v.add(item)
	}
}

func (w *rewriter) addFunctions(v *vector) {
	for _, h := range w.helpers {
		v.add(uleb(nil, w.typeID(w.helperType(h))))
	}
}

func (w *rewriter) addGlobals(v *vector) {
	zero := func(t engines.ValueType, c code) []byte { return append([]byte{byte(t), 1}, c.end()...) }
	if w.metered {
		v.add(zero(engines.I64, code{}.i64(0)))
		v.add(zero(engines.I32, code{}.i32(0)))
		v.add(zero(engines.I32, code{}.i32(0)))
	}
	if w.captured() && w.layout.changes {
		v.add(zero(engines.I32, code{}.i32(0)))
	}
}

func (w *rewriter) addExports(v *vector) {
	add := func(name string, kind engines.ExternKind, index uint32) {
		v.add(uleb(append(str(nil, name), byte(kind)), index))
	}
	if w.metered {
		add(exportCounter, engines.KindGlobal, w.counter())
		add(exportID, engines.KindGlobal, w.id())
		add(exportDepth, engines.KindGlobal, w.depth())
	}
	if w.startsLater() {
		add(exportStart, engines.KindFunc, w.moved(w.start))
	}
	if !w.captured() {
		return
	}
	if w.memories > 0 && w.memory == nil {
		add(exportMemory, engines.KindMemory, 0)
	}
	for i, g := range w.globals {
		if g.captured() && g.export == nil {
			add(globalName(i), engines.KindGlobal, uint32(i))
		}
	}
	if w.layout.changes {
		add(exportChanged, engines.KindGlobal, w.change())
	}
}

// vector is a section that is a vector.
type vector struct {
	n     uint32
	items []byte
}

func (v *vector) add(item []byte) {
	v.n++
	v.items = append(v.items, item...)
}

func (v *vector) rest(r *reader) { v.items = append(v.items, r.data[r.pos:]...) }
