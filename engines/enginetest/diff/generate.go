package diff

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"forgeone.dev/forgeone/engines"
)

// What the generated modules have. Tables and memories stay small, so that
// nothing is held back by a limit that is not the module's own.
const (
	maxParams    = 3
	maxResults   = 3
	maxNodes     = 32 // of a function, about
	manyNodes    = 80 // of one in a few modules
	maxDepth     = 4  // of expressions
	maxBlocks    = 4  // nested
	maxLoops     = 2  // nested
	maxTurns     = 6  // of a loop
	memoryPages  = 3
	tableEntries = 12
	gasGlobal    = 0   // how many more functions that call others may begin
	gas          = 150 // at the start of each call
	addressMask  = 0xffff
)

var (
	numbers = []engines.ValueType{engines.I32, engines.I64, engines.F32, engines.F64}
	// scalars are the types within a module, beside vectors; those that can
	// cross its boundary on every engine are numbers.
	scalars = []engines.ValueType{engines.I32, engines.I64, engines.F32, engines.F64, engines.FuncRef, engines.ExternRef}
)

// Generate makes a module of what is drawn from r: valid, and one whose calls
// end, unless it is Endless, if gasGlobal is set to gas before each.
func Generate(r *rand.Rand) *Module {
	g := &generator{r: r}
	endless, vectors := g.chance(8), g.chance(3)
	var lender *Module
	if g.chance(4) {
		lender = generate(r, endless, vectors, nil)
	}
	return generate(r, endless, vectors, lender)
}

func generate(r *rand.Rand, endless, vectors bool, lending *Module) *Module {
	g := &generator{r: r, m: &Module{Start: -1, Endless: endless, Vectors: vectors, Lender: lending}, all: scalars}
	g.m.nodes = maxNodes
	if g.chance(4) {
		g.m.nodes = manyNodes
	}
	if vectors {
		g.all = append(slices.Clone(scalars), engines.V128)
	}
	for i := range g.n(4) {
		g.m.Imports = append(g.m.Imports, imported{host, fmt.Sprint(i), g.m.typeIndex(g.funcType(numbers))})
	}
	g.m.Memory = limits{min: uint32(g.n(2)), max: memoryPages, hasMax: true}
	if !g.chance(8) {
		g.m.Memory.min = 1
	}
	for range 1 + g.n(2) {
		g.m.Tables = append(g.m.Tables, limits{min: uint32(4 + g.n(5)), max: tableEntries, hasMax: true})
	}
	if lending != nil {
		g.borrow()
	}
	defined := 2 + g.n(4)
	for i := range defined {
		f := &Func{Export: i == defined-1 || g.chance(2)}
		types := g.all
		if f.Export {
			types = numbers
		}
		f.Type = g.m.typeIndex(g.funcType(types))
		g.m.Funcs = append(g.m.Funcs, f)
	}
	if g.chance(4) {
		start := g.m.Funcs[g.n(defined)]
		start.Type = g.m.typeIndex(engines.FuncType{})
		g.m.Start = len(g.m.Imports) + slices.Index(g.m.Funcs, start)
	}
	g.globals()
	g.segments()
	for i, f := range g.m.Funcs {
		g.function(f, i)
	}
	return g.m
}

// borrow imports from the lender.
func (g *generator) borrow() {
	l := g.m.Lender
	for i, f := range l.Funcs {
		if f.Export {
			t := g.m.typeIndex(l.Types[f.Type])
			g.m.Imports = append(g.m.Imports, imported{lender, fmt.Sprint("f", len(l.Imports)+i), t})
		}
	}
	if g.m.SharedMemory = g.chance(2); g.m.SharedMemory {
		g.m.Memory = l.Memory
	}
	if g.m.SharedTable = g.chance(2); g.m.SharedTable {
		g.m.Tables[0] = l.Tables[0]
	}
}

type generator struct {
	r   *rand.Rand
	m   *Module
	all []engines.ValueType // the types of its values

	// of the function that is being made
	fn     *Func
	params int
	locals []engines.ValueType // parameters first
	vars   int                 // how many of the locals any statement may set
	labels []label             // innermost last
	nodes  int                 // how many more it may have
	leaf   bool                // it calls no function of the module
	loops  int                 // around
}

// label is what a branch may go to, and the operands it takes along.
type label struct{ types []engines.ValueType }

func (g *generator) n(limit int) int       { return g.r.IntN(limit) }
func (g *generator) chance(oneIn int) bool { return g.r.IntN(oneIn) == 0 }

func pick[T any](g *generator, list []T) T { return list[g.n(len(list))] }

func (g *generator) types(from []engines.ValueType, limit int) []engines.ValueType {
	ts := make([]engines.ValueType, g.n(limit+1))
	for i := range ts {
		ts[i] = pick(g, from)
	}
	return ts
}

func (g *generator) funcType(from []engines.ValueType) engines.FuncType {
	return engines.FuncType{Params: g.types(from, maxParams), Results: g.types(from, maxResults)}
}

func (g *generator) globals() {
	add := func(t engines.GlobalType, init *node, export bool) {
		g.m.Globals = append(g.m.Globals, global{t, init, export})
	}
	add(engines.GlobalType{Value: engines.I32, Mutable: true}, i32Const(gas), true)
	for range 2 + g.n(5) {
		t := engines.GlobalType{Value: pick(g, g.all), Mutable: !g.chance(4)}
		init := g.constant(t.Value)
		add(t, init, slices.Contains(numbers, t.Value))
	}
}

func (g *generator) segments() {
	total := len(g.m.Imports) + len(g.m.Funcs)
	for i := range 2 + g.n(2) {
		e := segment{passive: i > 0, offset: int32(g.n(3))}
		for range 2 + g.n(3) {
			e.funcs = append(e.funcs, uint32(g.n(total)))
		}
		if i == 0 { // every function may be referred to, as it is in an element segment
			e.offset = 0
			e.funcs = e.funcs[:min(len(e.funcs), int(g.m.Tables[0].min))]
		}
		g.m.Elems = append(g.m.Elems, e)
	}
	every := segment{passive: true}
	for f := range total {
		every.funcs = append(every.funcs, uint32(f))
	}
	g.m.Elems = append(g.m.Elems, every)
	for range 1 + g.n(3) {
		d := segment{passive: g.chance(2), offset: int32(g.n(0x1000)), bytes: make([]byte, g.n(40))}
		for i := range d.bytes {
			d.bytes[i] = byte(g.n(256))
		}
		if g.chance(40) {
			d.offset = int32(g.n(math.MaxInt32)) // out of bounds: there is no instance
		}
		g.m.Data = append(g.m.Data, d)
	}
}

func (g *generator) function(f *Func, index int) {
	t := g.m.Types[f.Type]
	f.Locals = g.types(g.all, 6)
	*g = generator{r: g.r, m: g.m, all: g.all, fn: f, params: len(t.Params), nodes: 10 + g.n(g.m.nodes), leaf: index == 0 || g.chance(4)}
	g.locals = slices.Concat(t.Params, f.Locals)
	g.vars = len(g.locals)
	g.labels = []label{{t.Results}}
	if !g.leaf {
		f.Body = append(f.Body, g.checkGas(t.Results))
	}
	f.Body = append(f.Body, g.statements(3+g.n(8))...)
	f.Body = append(f.Body, g.values(t.Results)...)
}

// local adds a local that nothing else sets.
func (g *generator) local(t engines.ValueType) uint32 {
	g.fn.Locals = append(g.fn.Locals, t)
	g.locals = append(g.locals, t)
	return uint32(len(g.locals) - 1)
}

// checkGas returns from a function that calls others when gas is spent: in
// modules that are to end, nothing recurs for ever.
func (g *generator) checkGas(results []engines.ValueType) *node {
	var zeros []*node
	for _, t := range results {
		zeros = append(zeros, zero(t))
	}
	check := &node{
		keep: true, text: "if", code: []byte{0x04, 0x40}, block: true,
		args: []*node{unary(0x45, globalGet(gasGlobal, engines.I32))},
		body: []*node{{text: "return", code: []byte{0x0f}, args: zeros}},
	}
	if g.m.Endless {
		return check
	}
	spend := globalSet(gasGlobal, binary2(0x6b, globalGet(gasGlobal, engines.I32), i32Const(1)))
	spend.keep = true
	return &node{keep: true, body: []*node{check, spend}}
}

func (g *generator) values(ts []engines.ValueType) []*node {
	var list []*node
	for _, t := range ts {
		list = append(list, g.value(t, maxDepth-1))
	}
	return list
}

// value makes one value of a type.
func (g *generator) value(t engines.ValueType, depth int) *node {
	g.nodes--
	if depth <= 0 || g.nodes <= 0 || g.chance(5) {
		return g.simple(t)
	}
	switch g.n(12) {
	case 0:
		// wazero may select the wrong one of two floats or vectors on amd64
		// (https://github.com/wazero/wazero/issues/2534, still in 1.12.0).
		if t != engines.F32 && t != engines.F64 && t != engines.V128 {
			return g.selection(t, depth)
		}
	case 1:
		if v := g.blockWith(nil, []engines.ValueType{t}); v != nil {
			return v
		}
	case 2:
		if v := g.callFor([]engines.ValueType{t}, depth); v != nil {
			return v
		}
	case 3:
		if i, ok := g.variable(t); ok {
			return localTee(i, g.value(t, depth-1))
		}
	case 4, 5:
		if list := loads[t]; list != nil {
			return g.load(pick(g, list), depth)
		}
	case 6:
		if v := g.state(t, depth); v != nil {
			return v
		}
	}
	if t == engines.FuncRef || t == engines.ExternRef {
		return g.simple(t)
	}
	return g.operation(t, depth)
}

// simple makes a value of a constant or a variable.
func (g *generator) simple(t engines.ValueType) *node {
	switch g.n(5) {
	case 0:
		var have []int
		for i, gl := range g.m.Globals {
			if gl.Value == t {
				have = append(have, i)
			}
		}
		if len(have) > 0 {
			return globalGet(uint32(pick(g, have)), t)
		}
	case 1, 2, 3:
		var have []int
		for i, l := range g.locals {
			if l == t {
				have = append(have, i)
			}
		}
		if len(have) > 0 {
			return localGet(uint32(pick(g, have)), t)
		}
	}
	if t == engines.FuncRef && !g.chance(4) {
		f := uint32(g.n(len(g.m.Imports) + len(g.m.Funcs)))
		return &node{text: fmt.Sprint("ref.func ", f), code: uleb([]byte{0xd2}, f), results: one(t)}
	}
	return g.constant(t)
}

// corners are bits that arithmetic is known to go wrong with.
var corners = []uint64{
	0, 1, 2, math.MaxUint64, 1 << 31, 1<<31 - 1, 1 << 63, 1<<63 - 1, 31, 32, 63, 64, math.MaxUint32,
	0x3f800000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x00000001, 0x4f000000, 0xcf000000, 0x5f000000, 0x7f7fffff,
	0x3ff0000000000000, 0x8000000000000000, 0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0x0000000000000001,
	0x41e0000000000000, 0xc1e0000000000000, 0x43e0000000000000, 0xc3e0000000000000, 0x7fefffffffffffff,
}

// bits are those of some value of a type; a NaN has any.
func (g *generator) bits(t engines.ValueType) uint64 {
	var v uint64
	switch g.n(6) {
	case 0, 1:
		v = pick(g, corners)
	case 2, 3:
		small := g.n(64) - 16
		switch t {
		case engines.F32:
			return uint64(math.Float32bits(float32(small) / 4))
		case engines.F64:
			return math.Float64bits(float64(small) / 4)
		}
		v = uint64(small)
	default:
		v = g.r.Uint64()
	}
	if t == engines.I32 || t == engines.F32 {
		v = uint64(uint32(v))
	}
	return v
}

func (g *generator) constant(t engines.ValueType) *node {
	switch t {
	case engines.V128:
		bytes := make([]byte, 0, 16)
		for range 2 {
			bytes = binary.LittleEndian.AppendUint64(bytes, g.bits(engines.I64))
		}
		return &node{text: fmt.Sprintf("v128.const %x", bytes), code: append([]byte{0xfd, 12}, bytes...), results: one(t)}
	case engines.FuncRef, engines.ExternRef:
		return zero(t)
	}
	return constant(t, g.bits(t))
}

func (g *generator) operation(t engines.ValueType, depth int) *node {
	o := pick(g, opsByResult[t])
	for o.traps && !g.chance(6) || !g.m.Vectors && o.vector() {
		o = pick(g, opsByResult[t])
	}
	if t == engines.V128 && g.chance(20) {
		return g.shuffle(depth)
	}
	v := &node{text: o.text, code: o.code, results: one(t)}
	if o.lanes > 0 {
		lane := byte(g.n(int(o.lanes)))
		v.code, v.text = append(slices.Clone(v.code), lane), fmt.Sprint(v.text, " ", lane)
	}
	for _, p := range o.params {
		v.args = append(v.args, g.value(p, depth-1))
	}
	if ordering(v.code) && masks(v.args[1].code) {
		// wazero 1.12.0 takes the wrong branch on amd64 after 0 < x&y, and the like.
		v.args[0], v.args[1] = v.args[1], v.args[0]
	}
	return g.canonical(v, o.nan)
}

// ordering reports whether code compares integers by which is less.
func ordering(code []byte) bool {
	op := code[0]
	return len(code) == 1 && (0x48 <= op && op <= 0x4f || 0x53 <= op && op <= 0x5a)
}

// masks reports whether code is an and of integers.
func masks(code []byte) bool { return len(code) == 1 && (code[0] == 0x71 || code[0] == 0x83) }

func (g *generator) shuffle(depth int) *node {
	v := &node{text: "i8x16.shuffle", code: []byte{0xfd, 13}, results: one(engines.V128)}
	for range 16 {
		v.code = append(v.code, byte(g.n(32)))
	}
	v.args = []*node{g.value(engines.V128, depth-1), g.value(engines.V128, depth-1)}
	return v
}

// canonical puts one NaN in the place of any that v makes, also in the local
// variable that it needs, since others may read it.
func (g *generator) canonical(v *node, kind nanKind) *node {
	if kind == noNaN {
		return v
	}
	t := v.results[0]
	tmp := g.local(t)
	get := func() *node { return localGet(tmp, t) }
	tee := localTee(tmp, v)
	if t == engines.V128 {
		nan, eq := splat(19, constant(engines.F32, 0x7fc00000)), []byte{0xfd, 65} // f32x4.eq
		if kind != f32x4NaN {
			nan, eq = splat(20, constant(engines.F64, 0x7ff8000000000000)), []byte{0xfd, 71} // f64x2.eq
		}
		same := &node{text: "eq", code: eq, results: one(t), args: []*node{get(), get()}}
		return localTee(tmp, &node{text: "v128.bitselect", code: []byte{0xfd, 82}, results: one(t), args: []*node{tee, nan, same}})
	}
	nan, eq := constant(t, 0x7fc00000), []byte{0x5b} // f32.eq
	if t == engines.F64 {
		nan, eq = constant(t, 0x7ff8000000000000), []byte{0x61} // f64.eq
	}
	// Not by select, which wazero gets wrong: see value.
	same := &node{text: "eq", code: eq, results: one(engines.I32), args: []*node{tee, get()}}
	return &node{
		text: "if", code: []byte{0x04, byte(t)}, block: true, results: one(t), args: []*node{same},
		body: []*node{get()}, orElse: []*node{localTee(tmp, nan)},
	}
}

func (g *generator) selection(t engines.ValueType, depth int) *node {
	v := &node{text: "select", code: []byte{0x1b}, results: one(t)}
	if t == engines.FuncRef || t == engines.ExternRef || g.chance(4) {
		v.text, v.code = fmt.Sprint("select ", t), []byte{0x1c, 1, byte(t)}
	}
	v.args = []*node{g.value(t, depth-1), g.value(t, depth-1), g.value(engines.I32, depth-1)}
	return v
}

// state makes a value of the state of the module.
func (g *generator) state(t engines.ValueType, depth int) *node {
	table := uint32(g.n(len(g.m.Tables)))
	switch {
	case t == engines.I32 && g.chance(5):
		return &node{text: "memory.size", code: []byte{0x3f, 0}, results: one(t)}
	case t == engines.I32 && g.chance(5):
		return &node{text: "memory.grow", code: []byte{0x40, 0}, results: one(t), args: []*node{g.small(depth, 3)}}
	case t == engines.I32 && g.chance(4):
		return &node{text: fmt.Sprint("table.size ", table), code: uleb([]byte{0xfc, 16}, table), results: one(t)}
	case t == engines.I32 && g.chance(3):
		return &node{
			text: fmt.Sprint("table.grow ", table), code: uleb([]byte{0xfc, 15}, table), results: one(t),
			args: []*node{g.value(engines.FuncRef, depth-1), g.small(depth, 3)},
		}
	case t == engines.I32:
		ref := pick(g, []engines.ValueType{engines.FuncRef, engines.ExternRef})
		return &node{text: "ref.is_null", code: []byte{0xd1}, results: one(t), args: []*node{g.value(ref, depth-1)}}
	case t == engines.FuncRef:
		return &node{text: fmt.Sprint("table.get ", table), code: uleb([]byte{0x25}, table), results: one(t), args: []*node{g.small(depth, 7)}}
	}
	return nil
}

// small makes an i32 from 0 to mask, or rarely any.
func (g *generator) small(depth int, mask int32) *node {
	switch {
	case g.chance(30):
		return g.value(engines.I32, depth-1)
	case g.chance(2):
		return i32Const(int32(g.n(int(mask) + 1)))
	}
	return binary2(0x71, g.value(engines.I32, depth-1), i32Const(mask))
}

// address makes one that is in the first page, or rarely any.
func (g *generator) address(depth int) *node {
	if g.chance(40) {
		return g.value(engines.I32, depth-1)
	}
	return binary2(0x71, g.value(engines.I32, depth-1), i32Const(addressMask>>g.n(8)))
}

// memArg is the immediate of an access.
func (g *generator) memArg(a access) (code []byte, text string) {
	align, offset := uint32(g.n(int(a.align)+1)), uint32(g.n(64))
	if g.chance(60) {
		offset = g.r.Uint32()
	}
	code = uleb(uleb(slices.Clone(a.code), align), offset)
	if a.lanes > 0 {
		code = append(code, byte(g.n(int(a.lanes))))
	}
	return code, fmt.Sprintf("%x offset=%d", a.code, offset)
}

func (g *generator) load(a access, depth int) *node {
	v := &node{results: one(a.typ), args: []*node{g.address(depth)}}
	v.code, v.text = g.memArg(a)
	v.text = fmt.Sprint(a.typ, ".load ", v.text)
	if a.lanes > 0 {
		v.args = append(v.args, g.value(a.typ, depth-1))
	}
	return v
}

// variable is a local of a type that a statement may set.
func (g *generator) variable(t engines.ValueType) (uint32, bool) {
	var have []int
	for i, l := range g.locals[:g.vars] {
		if l == t {
			have = append(have, i)
		}
	}
	if len(have) == 0 {
		return 0, false
	}
	return uint32(pick(g, have)), true
}

// callFor calls a function with those results, if there is one.
func (g *generator) callFor(results []engines.ValueType, depth int) *node {
	var have []int
	for f := range len(g.m.Imports) + len(g.m.Funcs) {
		if slices.Equal(g.m.typeOf(f).Results, results) && g.mayCall(f) {
			have = append(have, f)
		}
	}
	if len(have) == 0 {
		return nil
	}
	return g.call(pick(g, have), depth)
}

// mayCall reports whether the function may call that one without end being in
// doubt: host functions always, those of the module if gas is checked here.
func (g *generator) mayCall(fn int) bool { return fn < len(g.m.Imports) || !g.leaf }

func (g *generator) call(fn, depth int) *node {
	t := g.m.typeOf(fn)
	return &node{text: fmt.Sprint("call ", fn), code: uleb([]byte{0x10}, uint32(fn)), results: t.Results, args: g.operands(t.Params, depth)}
}

func (g *generator) operands(ts []engines.ValueType, depth int) (args []*node) {
	for _, t := range ts {
		args = append(args, g.value(t, depth-1))
	}
	return args
}

func (g *generator) callIndirect(depth int) *node {
	t := uint32(g.n(len(g.m.Types)))
	if !g.chance(8) {
		f := pick(g, g.m.Elems[0].funcs)
		t = g.m.typeIndex(g.m.typeOf(int(f)))
	}
	table := uint32(0)
	if g.chance(6) {
		table = uint32(g.n(len(g.m.Tables)))
	}
	return &node{
		text: fmt.Sprintf("call_indirect %d type %d", table, t), code: uleb(uleb([]byte{0x11}, t), table), results: g.m.Types[t].Results,
		args: append(g.operands(g.m.Types[t].Params, depth), g.small(depth, 3)),
	}
}

// blockWith makes a block or an if with those parameters and results; nil if
// there are enough around.
func (g *generator) blockWith(params, results []engines.ValueType) *node {
	if len(g.labels) > maxBlocks {
		return nil
	}
	t := g.blockType(params, results)
	b := &node{text: "block", code: append([]byte{0x02}, t...), block: true, results: results, args: g.values(params)}
	if g.chance(2) {
		b.text, b.code = "if", append([]byte{0x04}, t...)
		b.args = append(b.args, g.value(engines.I32, maxDepth-1))
		b.body = g.blockBody(label{results}, params, results)
		if g.chance(3) && slices.Equal(params, results) && len(params) == 0 {
			return b
		}
		b.orElse = g.blockBody(label{results}, params, results)
		if b.orElse == nil {
			b.orElse = []*node{}
		}
		return b
	}
	b.body = g.blockBody(label{results}, params, results)
	return b
}

func (g *generator) blockType(params, results []engines.ValueType) []byte {
	switch {
	case len(params) == 0 && len(results) == 0:
		return []byte{0x40}
	case len(params) == 0 && len(results) == 1 && !g.chance(4):
		return []byte{byte(results[0])}
	}
	return sleb(nil, int64(g.m.typeIndex(engines.FuncType{Params: params, Results: results})))
}

// blockBody takes the parameters, which lie beneath some statements first.
func (g *generator) blockBody(l label, params, results []engines.ValueType) (body []*node) {
	g.labels = append(g.labels, l)
	body = g.statements(g.n(3))
	body = append(body, g.take(params))
	body = append(body, g.statements(1+g.n(3))...)
	body = append(body, g.values(results)...)
	g.labels = g.labels[:len(g.labels)-1]
	return body
}

// take takes values from the stack into variables.
func (g *generator) take(ts []engines.ValueType) *node {
	s := sequence()
	for _, t := range slices.Backward(ts) {
		if i, ok := g.variable(t); ok && !g.chance(4) {
			s.body = append(s.body, &node{text: fmt.Sprint("local.set ", i), code: uleb([]byte{0x21}, i)})
		} else {
			s.body = append(s.body, &node{text: "drop", code: []byte{0x1a}})
		}
	}
	return s
}

// loop makes one that a counter of its own ends, if the module is to end.
func (g *generator) loop() *node {
	if g.loops >= maxLoops || len(g.labels)+1 > maxBlocks {
		return nil
	}
	params, results := g.types(g.all, 2), g.types(g.all, 1)
	counter := g.local(engines.I32)
	g.loops++
	g.labels = append(g.labels, label{}) // of the block around
	init := g.values(params)
	l := &node{
		text: fmt.Sprint("loop ", params, results), code: append([]byte{0x03}, g.blockType(params, results)...), block: true,
		args: init, results: results,
	}
	if !g.m.Endless {
		next := binary2(0x6b, localGet(counter, engines.I32), i32Const(1))
		tee := &node{text: fmt.Sprint("local.tee ", counter), code: uleb([]byte{0x22}, counter), results: one(engines.I32), args: []*node{next}}
		l.body = append(l.body, &node{keep: true, text: "br_if 1", code: []byte{0x0d, 1}, args: []*node{unary(0x45, tee)}})
	}
	l.body = append(l.body, g.blockBody(label{params}, params, nil)...)
	g.labels = append(g.labels, label{params})
	again := &node{text: "br 0", code: []byte{0x0c, 0}, args: g.values(params)}
	if g.chance(2) {
		again.text, again.code = "br_if 0", []byte{0x0d, 0}
		again.args = append(again.args, g.value(engines.I32, 2))
		again = sequence(append([]*node{again}, drops(len(params))...)...)
	}
	l.body = append(append(l.body, again), g.values(results)...)
	g.labels = g.labels[:len(g.labels)-2]
	g.loops--
	around := &node{text: "block", code: []byte{0x02, 0x40}, block: true, body: []*node{l, g.take(results)}}
	return sequence(&node{text: fmt.Sprint("local.set ", counter), code: uleb([]byte{0x21}, counter), args: []*node{i32Const(int32(2 + g.n(maxTurns)))}}, around)
}

func (g *generator) statements(n int) (list []*node) {
	for range n {
		if g.nodes <= 0 {
			break
		}
		if s := g.statement(); s != nil {
			list = append(list, s)
		}
	}
	return list
}

// statement makes a node that leaves the stack as it was.
func (g *generator) statement() *node {
	g.nodes--
	switch g.n(24) {
	case 0, 1, 2, 3:
		t := pick(g, g.all)
		if i, ok := g.variable(t); ok {
			return &node{text: fmt.Sprint("local.set ", i), code: uleb([]byte{0x21}, i), args: []*node{g.value(t, maxDepth)}}
		}
	case 4, 5:
		var have []int
		for i, gl := range g.m.Globals {
			if gl.Mutable && i != gasGlobal {
				have = append(have, i)
			}
		}
		if len(have) > 0 {
			i := pick(g, have)
			return globalSet(uint32(i), g.value(g.m.Globals[i].Value, maxDepth))
		}
	case 6, 7, 8, 9:
		a := pick(g, stores)
		if a.typ == engines.V128 && !g.m.Vectors {
			return nil
		}
		s := &node{args: []*node{g.address(maxDepth), g.value(a.typ, maxDepth)}}
		s.code, s.text = g.memArg(a)
		s.text = fmt.Sprint(a.typ, ".store ", s.text)
		return s
	case 10:
		return &node{text: "drop", code: []byte{0x1a}, args: []*node{g.value(pick(g, g.all), maxDepth)}}
	case 11, 12:
		params, results := g.types(g.all, 2), g.types(g.all, 2)
		if b := g.blockWith(params, results); b != nil {
			return sequence(b, g.take(results))
		}
	case 13, 14:
		return g.loop()
	case 15, 16:
		return g.branch()
	case 17, 18:
		fn := g.n(len(g.m.Imports) + len(g.m.Funcs))
		if g.mayCall(fn) {
			return sequence(g.call(fn, maxDepth), g.take(g.m.typeOf(fn).Results))
		}
	case 19:
		if !g.leaf {
			c := g.callIndirect(maxDepth)
			return sequence(c, g.take(c.results))
		}
	case 20, 21:
		return g.bulk()
	case 22:
		table := uint32(g.n(len(g.m.Tables)))
		return &node{
			text: fmt.Sprint("table.set ", table), code: uleb([]byte{0x26}, table),
			args: []*node{g.small(maxDepth, 3), g.value(engines.FuncRef, maxDepth)},
		}
	case 23:
		if g.chance(12) {
			return g.dead(&node{text: "unreachable", code: []byte{0x00}})
		}
		return &node{text: "nop", code: []byte{0x01}}
	}
	return nil
}

// branch makes a branch of some kind, conditional more often than not.
func (g *generator) branch() *node {
	depth := g.n(len(g.labels))
	target := g.labels[len(g.labels)-1-depth].types
	cond := func() *node { return g.value(engines.I32, maxDepth-1) }
	switch g.n(8) {
	case 0:
		return g.dead(&node{text: fmt.Sprint("br ", depth), code: uleb([]byte{0x0c}, uint32(depth)), args: g.values(target)})
	case 1:
		return g.dead(&node{text: "return", code: []byte{0x0f}, args: g.values(g.labels[0].types)})
	case 2, 3:
		var same []uint32
		for i, l := range g.labels {
			if slices.Equal(l.types, target) {
				same = append(same, uint32(len(g.labels)-1-i))
			}
		}
		labels := make([]uint32, g.n(5)+1) // the default last
		for i := range labels {
			labels[i] = pick(g, same)
		}
		code := uleb([]byte{0x0e}, uint32(len(labels)-1))
		for _, l := range labels {
			code = uleb(code, l)
		}
		return g.dead(&node{text: fmt.Sprint("br_table ", labels), code: code, args: append(g.values(target), g.small(maxDepth, 7))})
	}
	b := &node{text: fmt.Sprint("br_if ", depth), code: uleb([]byte{0x0d}, uint32(depth)), args: append(g.values(target), cond())}
	return sequence(append([]*node{b}, drops(len(target))...)...)
}

// dead is n, after which nothing is reached, now and then with such code as is
// valid there only.
func (g *generator) dead(n *node) *node {
	if !g.chance(3) {
		return n
	}
	o := pick(g, opsByResult[pick(g, numbers)])
	if o.lanes > 0 || !g.m.Vectors && o.vector() {
		return n // it has an immediate, or must not be there
	}
	return sequence(n, &node{text: o.text, code: o.code}, &node{text: "drop", code: []byte{0x1a}})
}

// bulk makes an instruction that works on a length.
func (g *generator) bulk() *node {
	table, other := uint32(g.n(len(g.m.Tables))), uint32(g.n(len(g.m.Tables)))
	data, elem := uint32(g.n(len(g.m.Data))), uint32(g.n(len(g.m.Elems)))
	make3 := func(text string, code []byte, args ...*node) *node { return &node{text: text, code: code, args: args} }
	switch g.n(9) {
	case 0:
		return make3("memory.fill", []byte{0xfc, 11, 0}, g.address(3), g.value(engines.I32, 2), g.small(3, 0x1fff))
	case 1:
		return make3("memory.copy", []byte{0xfc, 10, 0, 0}, g.address(3), g.address(3), g.small(3, 0x1fff))
	case 2:
		// An active segment is empty once it was written, but not to wazero.
		if g.m.Data[data].passive {
			return make3(fmt.Sprint("memory.init ", data), append(uleb([]byte{0xfc, 8}, data), 0), g.address(3), g.small(3, 7), g.small(3, 7))
		}
	case 3:
		if g.chance(3) {
			return make3(fmt.Sprint("data.drop ", data), uleb([]byte{0xfc, 9}, data))
		}
	case 4:
		return make3(fmt.Sprint("table.fill ", table), uleb([]byte{0xfc, 17}, table), g.small(3, 3), g.value(engines.FuncRef, 2), g.small(3, 1))
	case 5:
		return make3(fmt.Sprint("table.copy ", table, other), uleb(uleb([]byte{0xfc, 14}, table), other), g.small(3, 1), g.small(3, 1), g.small(3, 1))
	case 6:
		return make3(fmt.Sprint("table.init ", table, elem), uleb(uleb([]byte{0xfc, 12}, elem), table), g.small(3, 1), g.small(3, 1), g.small(3, 1))
	case 7:
		if g.chance(3) {
			return make3(fmt.Sprint("elem.drop ", elem), uleb([]byte{0xfc, 13}, elem))
		}
	case 8:
		return &node{text: "drop", code: []byte{0x1a}, args: []*node{{text: "memory.grow", code: []byte{0x40, 0}, results: one(engines.I32), args: []*node{g.small(3, 1)}}}}
	}
	return nil
}

func one(t engines.ValueType) []engines.ValueType { return []engines.ValueType{t} }

// sequence is nodes that belong together.
func sequence(nodes ...*node) *node { return &node{body: nodes} }

func drops(n int) (list []*node) {
	for range n {
		list = append(list, &node{text: "drop", code: []byte{0x1a}})
	}
	return list
}

func constant(t engines.ValueType, bits uint64) *node {
	n := &node{text: fmt.Sprintf("%s.const %#x", t, bits), results: one(t)}
	switch t {
	case engines.I32:
		n.code = sleb([]byte{0x41}, int64(int32(uint32(bits))))
	case engines.I64:
		n.code = sleb([]byte{0x42}, int64(bits))
	case engines.F32:
		n.code = binary.LittleEndian.AppendUint32([]byte{0x43}, uint32(bits))
	case engines.F64:
		n.code = binary.LittleEndian.AppendUint64([]byte{0x44}, bits)
	}
	return n
}

func i32Const(v int32) *node { return constant(engines.I32, uint64(uint32(v))) }

// zero is the constant of a type whose bits are 0.
func zero(t engines.ValueType) *node {
	switch t {
	case engines.V128:
		return &node{text: "v128.const 0", code: append([]byte{0xfd, 12}, make([]byte, 16)...), results: one(t)}
	case engines.FuncRef, engines.ExternRef:
		return &node{text: fmt.Sprint("ref.null ", t), code: []byte{0xd0, byte(t)}, results: one(t)}
	}
	return constant(t, 0)
}

func splat(code uint32, v *node) *node {
	return &node{text: fmt.Sprint("splat ", code), code: uleb([]byte{0xfd}, code), results: one(engines.V128), args: []*node{v}}
}

// unary and binary2 are operations that make an i32.
func unary(code byte, v *node) *node {
	return &node{text: fmt.Sprintf("i32.op %#x", code), code: []byte{code}, results: one(engines.I32), args: []*node{v}}
}

func binary2(code byte, v, w *node) *node {
	return &node{text: fmt.Sprintf("i32.op %#x", code), code: []byte{code}, results: one(engines.I32), args: []*node{v, w}}
}

func localTee(i uint32, v *node) *node {
	return &node{text: fmt.Sprint("local.tee ", i), code: uleb([]byte{0x22}, i), results: v.results, args: []*node{v}}
}

func localGet(i uint32, t engines.ValueType) *node {
	return &node{text: fmt.Sprint("local.get ", i), code: uleb([]byte{0x20}, i), results: one(t)}
}

func globalGet(i uint32, t engines.ValueType) *node {
	return &node{text: fmt.Sprint("global.get ", i), code: uleb([]byte{0x23}, i), results: one(t)}
}

func globalSet(i uint32, v *node) *node {
	return &node{text: fmt.Sprint("global.set ", i), code: uleb([]byte{0x24}, i), args: []*node{v}}
}
