package meter

import (
	"errors"
	"fmt"
	"strings"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
)

// Section ids of the binary format.
const (
	sectionCustom    = 0
	sectionType      = 1
	sectionImport    = 2
	sectionFunction  = 3
	sectionTable     = 4
	sectionMemory    = 5
	sectionGlobal    = 6
	sectionExport    = 7
	sectionStart     = 8
	sectionElement   = 9
	sectionCode      = 10
	sectionData      = 11
	sectionDataCount = 12
)

const header = "\x00asm\x01\x00\x00\x00"

// module is a decoded binary: its index spaces, and its sections as they were
// written.
type module struct {
	limits   Limits
	sections [sectionDataCount + 1]section
	names    section // the custom section that names functions

	types     []engines.FuncType
	funcs     []uint32 // type of each; the imported come first
	imported  int      // functions
	tables    []table
	memories  int
	pages     uint32  // of the memory defined, to begin with
	memory    *string // a name that it is exported by, nil if it is not
	globals   []global
	foreign   string // what is imported and not a function, "" if nothing is
	exports   int
	start     uint32 // function index
	hasStart  bool
	elems     []uint32 // length of each segment
	data      []dataSegment
	dataRead  int // segments, of those announced
	segments  segments
	addressed []bool // functions that are exported, or that a reference can be taken of

	hasDataCount bool
	metered      bool      // an import and globals are added, see moved
	bodies       []section // functions defined
}

type section struct {
	id   byte
	base int // offset of body in the module
	body []byte
}

func (s section) reader() *reader { return &reader{data: s.body, base: s.base} }

type table struct {
	elem     byte // value type
	limits   limits
	imported bool
}

type global struct {
	engines.GlobalType
	export *string // a name that it is exported by, nil if it is not
}

// reserved begins the names by which host and rewritten module know each other.
const reserved = "forgeone:meter"

// decode reads a module. It checks what rewriting relies on, and leaves the
// rest of validation to the engine.
func decode(wasm []byte, lim Limits) (*module, error) {
	if len(wasm) > lim.ModuleBytes {
		return nil, &LimitError{What: "bytes", Got: int64(len(wasm)), Limit: int64(lim.ModuleBytes)}
	}
	if !strings.HasPrefix(string(wasm[:min(len(wasm), len(header))]), header) {
		return nil, errors.New("this is not a WebAssembly module of version 1")
	}
	m := &module{limits: lim}
	r := &reader{data: wasm, pos: len(header)}
	for last := 0; r.more(); {
		id := r.byte()
		size := r.u32()
		base := r.pos
		s := section{id: id, base: base, body: r.bytes(size)}
		if id != sectionCustom {
			if rank := strings.IndexByte(sectionOrder, id) + 1; rank <= last {
				r.failf("section %d is unknown, or not in its place", id)
			} else {
				last = rank
			}
		}
		if r.err != nil {
			break
		}
		r.err = m.section(s)
	}
	if r.err == nil && len(m.bodies) != len(m.funcs)-m.imported {
		r.failf("%d functions are declared, and %d have a body", len(m.funcs)-m.imported, len(m.bodies))
	}
	if r.err == nil && m.dataRead != len(m.data) {
		r.failf("%d data segments are announced, and there are %d", len(m.data), m.dataRead)
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// sectionOrder is the order of sections: data count comes before code.
const sectionOrder = "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0c\x0a\x0b"

func (m *module) section(s section) error {
	r := s.reader()
	if s.id != sectionCustom {
		m.sections[s.id] = s
	}
	switch s.id {
	case sectionCustom:
		if r.name() == "name" && len(s.body) <= m.limits.NameBytes {
			m.names = s
		}
		return r.err
	case sectionStart:
		m.start, m.hasStart = r.index(len(m.funcs), "function"), true
	case sectionDataCount:
		n := r.u32()
		r.limit("data segments", int64(n), int64(m.limits.Segments))
		// Code names data segments, and comes before them.
		if m.hasDataCount = true; r.err == nil {
			m.data = make([]dataSegment, n)
		}
	default:
		m.vector(s.id, r)
	}
	if r.err == nil && r.pos < len(r.data) {
		r.failf("section %d goes on after its last item", s.id)
	}
	return r.err
}

// vector reads a section that is a vector.
func (m *module) vector(id byte, r *reader) {
	n := int(r.count())
	kind := &kinds[id]
	if !r.limit(kind.what, int64(n+kind.have(m)), int64(kind.limit(&m.limits))) {
		return
	}
	for i := 0; i < n && r.err == nil; i++ {
		kind.read(m, r, i)
	}
}

// kinds are the sections that are vectors: what their items are called, how
// many may be there and are, and how one is read.
var kinds = [...]struct {
	what  string
	limit func(*Limits) int
	have  func(*module) int
	read  func(*module, *reader, int)
}{
	sectionType:     {"types", func(l *Limits) int { return l.Types }, none, (*module).readType},
	sectionImport:   {"imports", func(l *Limits) int { return l.Imports }, none, (*module).readImport},
	sectionFunction: {"functions", func(l *Limits) int { return l.Functions }, func(m *module) int { return m.imported }, (*module).readFunction},
	sectionTable:    {"tables", func(l *Limits) int { return l.Tables }, func(m *module) int { return len(m.tables) }, (*module).readTable},
	sectionMemory:   {"memories", func(*Limits) int { return 1 }, func(m *module) int { return m.memories }, (*module).readMemory},
	sectionGlobal:   {"globals", func(l *Limits) int { return l.Globals }, func(m *module) int { return len(m.globals) }, (*module).readGlobal},
	sectionExport:   {"exports", func(l *Limits) int { return l.Exports }, none, (*module).readExport},
	sectionElement:  {"element segments", func(l *Limits) int { return l.Segments }, none, (*module).readElement},
	sectionCode:     {"function bodies", func(l *Limits) int { return l.Functions }, none, (*module).readCode},
	sectionData:     {"data segments", func(l *Limits) int { return l.Segments }, none, (*module).readData},
}

func none(*module) int { return 0 }

func (m *module) readType(r *reader, _ int) {
	if form := r.byte(); form != 0x60 {
		r.failf("%s", binfmt.Unknown("type", form))
	}
	m.types = append(m.types, engines.FuncType{Params: m.values(r), Results: m.values(r)})
}

func (m *module) values(r *reader) []engines.ValueType {
	n := r.count()
	if !r.limit("parameters or results of one function type", int64(n), int64(m.limits.Values)) {
		return nil
	}
	ts := make([]engines.ValueType, n)
	for i, b := range r.bytes(n) {
		ts[i] = engines.ValueType(b)
	}
	return ts
}

func (m *module) readImport(r *reader, _ int) {
	from, name := r.name(), r.name()
	if strings.HasPrefix(from, reserved) || strings.HasPrefix(name, reserved) {
		r.failf("the import %s.%s is of a reserved name: what begins with %q is the host's", from, name, reserved)
	}
	kind := engines.ExternKind(r.byte())
	if kind != engines.KindFunc && m.foreign == "" {
		m.foreign = fmt.Sprintf("%s %s.%s", kind, from, name)
	}
	switch kind {
	case engines.KindFunc:
		m.addFunc(r)
		m.imported++
	case engines.KindTable:
		m.tables = append(m.tables, table{elem: r.byte(), limits: r.limits(), imported: true})
	case engines.KindMemory:
		r.limits()
		m.memories++
	case engines.KindGlobal:
		m.globals = append(m.globals, global{GlobalType: globalType(r)})
	default:
		r.failf("import %s.%s is of unknown kind %d", from, name, kind)
	}
}

func (m *module) addFunc(r *reader) {
	m.funcs = append(m.funcs, r.index(len(m.types), "type"))
	m.addressed = append(m.addressed, false)
}

func (m *module) readFunction(r *reader, _ int) { m.addFunc(r) }

func (m *module) readTable(r *reader, _ int) {
	m.tables = append(m.tables, table{elem: r.byte(), limits: r.limits()})
}

func (m *module) readMemory(r *reader, _ int) {
	m.pages = r.limits().min
	m.memories++
}

func (m *module) readGlobal(r *reader, _ int) {
	t := globalType(r)
	m.constExpr(r, nil)
	m.globals = append(m.globals, global{GlobalType: t})
}

// globalType reads the type of a global. The engine refuses what is none.
func globalType(r *reader) engines.GlobalType {
	return engines.GlobalType{Value: engines.ValueType(r.byte()), Mutable: r.byte() != 0}
}

func (m *module) readExport(r *reader, _ int) {
	name := r.name()
	if strings.HasPrefix(name, reserved) {
		r.failf("the export %q is of a reserved name: what begins with %q is the host's", name, reserved)
	}
	kind := engines.ExternKind(r.byte())
	what := kind.String()
	switch kind {
	case engines.KindFunc:
		if fn := r.index(len(m.funcs), what); r.err == nil {
			m.addressed[fn] = true
		}
	case engines.KindTable:
		r.index(len(m.tables), what)
	case engines.KindMemory:
		r.index(m.memories, what)
		m.memory = &name
	case engines.KindGlobal:
		if index := r.index(len(m.globals), what); r.err == nil {
			m.globals[index].export = &name
		}
	default:
		r.failf("export %q is of unknown kind %d", name, kind)
	}
	m.exports++
}

func (m *module) readElement(r *reader, _ int) {
	m.elems = append(m.elems, m.element(r, nil))
}

// element reads an element segment and appends it to w, if any, with its
// functions moved. It returns the number of its items. The flag says, bit by
// bit, whether the segment is not active, whether it names a table (or is
// declarative), and whether its items are expressions
// (https://www.w3.org/TR/wasm-core-2/#element-section).
func (m *module) element(r *reader, w *[]byte) uint32 {
	start := r.pos
	flag := r.u32()
	if flag > 7 {
		r.failf("element segment of unknown form %d", flag)
		return 0
	}
	active, explicit, exprs := flag&1 == 0, flag&2 != 0, flag&4 != 0
	if active && explicit {
		r.index(len(m.tables), "table")
	}
	m.copied(r, w, start)
	if active {
		m.constExpr(r, w)
	}
	start = r.pos
	if !active || explicit {
		r.byte() // element kind or reference type
	}
	n := r.count()
	m.copied(r, w, start)
	for i := n; i > 0 && r.err == nil; i-- {
		if exprs {
			m.constExpr(r, w)
			continue
		}
		fn := r.index(len(m.funcs), "function")
		if m.reference(r, fn); w != nil {
			*w = uleb(*w, m.moved(fn))
		}
	}
	return n
}

// copied appends what r has read since start.
func (m *module) copied(r *reader, w *[]byte, start int) {
	if w != nil && r.err == nil {
		*w = append(*w, r.data[start:r.pos]...)
	}
}

// reference notes that a reference to a function can be taken.
func (m *module) reference(r *reader, fn uint32) {
	if r.err == nil {
		m.addressed[fn] = true
	}
}

// constExpr reads a constant expression
// (https://www.w3.org/TR/wasm-core-2/#constant-expressions) and appends it to
// w, if any, with its functions moved.
func (m *module) constExpr(r *reader, w *[]byte) {
	for r.err == nil {
		in := m.instr(r)
		if in.op == opRefFunc {
			m.reference(r, in.imm[0])
		}
		if w != nil {
			*w = m.plain(*w, &in)
		}
		if in.op == opEnd {
			return
		}
	}
}

// plain appends an instruction that is as it was, but for where functions are.
func (m *module) plain(dst []byte, in *instr) []byte {
	switch in.op {
	case opCall, opRefFunc:
		return uleb(append(dst, byte(in.op)), m.moved(in.imm[0]))
	}
	return append(dst, in.raw...)
}

// moved is where a function of the original is after rewriting: the functions
// defined come after the import that is added.
func (m *module) moved(fn uint32) uint32 {
	if m.metered && int64(fn) >= int64(m.imported) {
		fn++
	}
	return fn
}

func (m *module) readCode(r *reader, i int) {
	n := r.count()
	if !r.limit("bytes in a function", int64(n), int64(m.limits.FunctionBytes)) {
		return
	}
	if i >= len(m.funcs)-m.imported {
		r.failf("a function has a body and no type")
	}
	base := r.base + r.pos
	m.bodies = append(m.bodies, section{id: sectionCode, base: base, body: r.bytes(n)})
}

// clampTables gives each table that can grow an equal part of what all of them
// may have, beside what they begin with.
func (m *module) clampTables() error {
	begin, growable := int64(0), int64(0)
	for _, t := range m.tables {
		if t.imported {
			continue // its limit is the lender's
		}
		begin += int64(t.limits.min)
		if !t.limits.hasMax || t.limits.max > t.limits.min {
			growable++
		}
	}
	room := int64(m.limits.TableEntries) - begin
	if room < 0 {
		return &LimitError{What: "table entries", Got: begin, Limit: int64(m.limits.TableEntries)}
	}
	for i := range m.tables {
		if t := &m.tables[i]; !t.imported && growable > 0 {
			t.limits.clamp(uint32(min(int64(t.limits.min)+room/growable, 1<<32-1)))
		}
	}
	return nil
}

// clampMemory is a memory with its maximum lowered to limit pages.
func clampMemory(l limits, limit uint32) (limits, error) {
	if max(l.min, l.max) > maxPages+1 {
		return l, fmt.Errorf("memory of %d pages, and at most %d are addressable", max(l.min, l.max), maxPages+1)
	}
	if l.min > limit {
		return l, fmt.Errorf("the module's memory begins with %d pages of 64 KiB, above its limit of %d", l.min, limit)
	}
	l.clamp(limit)
	return l, nil
}
