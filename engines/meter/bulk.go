package meter

import "forgeone.dev/forgeone/engines"

// Bulk instructions cost by their length, and run in pieces: a deadline must
// not wait for gigabytes. Each becomes the call of a helper with the same
// operands, unless its length is known and small.
const (
	unitShift    = 3    // of memory: 8 bytes, what one i64.store writes, cost a unit
	inlineBytes  = 64   // a length that is known and no larger is charged like any instruction
	smallBytes   = 4096 // a length that is no larger needs no helper
	pieceBytes   = 64 << 10
	pieceEntries = 8 << 10 // of a table, each a unit
	unitsPerPage = 1 << 10 // of memory.grow: a page that is zero costs less than one that is filled
)

// helper is a function that is added: what an instruction with these immediates
// becomes. The zero helper is refill, which takes what is needed.
type helper struct {
	op  opcode
	imm [2]uint32
}

// helper is the index of a helper, adding it if it is new.
func (w *rewriter) helper(h helper) uint32 {
	id, ok := w.helperIDs[h]
	if !ok {
		w.typeID(w.helperType(h))
		id = w.refill() + uint32(len(w.helpers))
		w.helpers = append(w.helpers, h)
		w.helperIDs[h] = id
	}
	return id
}

func (w *rewriter) helperType(h helper) engines.FuncType {
	i32 := engines.I32
	list := func(ts ...engines.ValueType) []engines.ValueType { return ts }
	switch h.op {
	case 0:
		return engines.FuncType{Params: list(engines.I64)}
	case opMemoryGrow:
		return engines.FuncType{Params: list(i32), Results: list(i32)}
	case opTableGrow:
		return engines.FuncType{Params: list(w.elemType(h.imm[0]), i32), Results: list(i32)}
	case opTableFill:
		return engines.FuncType{Params: list(i32, w.elemType(h.imm[0]), i32)}
	}
	return engines.FuncType{Params: list(i32, i32, i32)}
}

func (w *rewriter) elemType(table uint32) engines.ValueType {
	return engines.ValueType(w.tables[table].elem)
}

// bulk reports whether what the instruction does depends on a length.
func (op opcode) bulk() bool {
	switch op {
	case opMemoryInit, opMemoryCopy, opMemoryFill, opTableInit, opTableCopy, opTableFill, opMemoryGrow, opTableGrow:
		return true
	}
	return false
}

// copies reports whether the instruction is on memory and of some length.
func (op opcode) copies() bool {
	return op == opMemoryInit || op == opMemoryCopy || op == opMemoryFill
}

// bulkInstr writes a bulk instruction. On memory, a small length is paid here,
// where the slice covers the largest that is small.
func (f *function) bulkInstr(in *instr) {
	h := helper{in.op, in.imm}
	if !in.op.copies() {
		f.watch()
		f.out = f.reload(f.writeBack(f.changed(f.out, in)).call(f.helper(h)))
		return
	}
	if f.prev.op == opI32Const && f.prev.imm[0] <= inlineBytes {
		f.pay(int64(f.prev.imm[0] >> unitShift))
		f.out = append(f.out, in.raw...)
		return
	}
	f.watch()
	d, s, n := f.operand(dst), f.operand(src), f.operand(count)
	c := f.out.set(n).set(s).set(d).get(n).i32(smallBytes).op(i32LeU)
	c = f.left(c).i64(smallBytes>>unitShift).op(i64GeS, i32And).block(opIf)
	c = f.setLeft(f.left(c).get(n).op(i64ExtendI32).i64(unitShift).op(i64ShrU, i64Sub))
	c = append(c.get(d).get(s).get(n), in.raw...).op(byte(opElse))
	f.out = f.reload(f.writeBack(c).get(d).get(s).get(n).call(f.helper(h))).end()
}

// piece is how much a bulk instruction does at once, and by how many bits more
// that is than what it costs.
func (h helper) piece() (piece uint32, shift int) {
	switch h.op {
	case opMemoryInit, opMemoryCopy, opMemoryFill:
		return pieceBytes, unitShift
	case opTableInit, opTableCopy, opTableFill:
		return pieceEntries, 0
	}
	return 0, 0 // growing goes by a rule of its own
}

// Locals of a bulk helper: its parameters, then its own.
const (
	dst   uint32 = iota
	src          // or the value of a fill
	count        // left to do
	piece        // of that, now
	units        // i64: what the piece costs
)

// helperBody is the code of a helper, with its locals.
func (w *rewriter) helperBody(h helper) []byte {
	none := code{0}
	switch h.op {
	case 0:
		c := w.counter()
		return none.globalGet(w.id()).globalGet(c).get(0).call(w.grant()).globalSet(c).end()
	case opMemoryGrow:
		// What cannot succeed costs nothing; a grant need not cover it.
		c := code{1, 1, byte(engines.I64)}
		c = c.get(0).op(i64ExtendI32).i64(unitsPerPage).op(i64Mul).i64(0).
			get(0).i32(int32(w.plan.MemoryPages)).op(i32LeU, selectOp).set(1)
		return h.encode(w.charge(c, 1).get(0)).end()
	case opTableGrow:
		c := code{1, 1, byte(engines.I64)}
		c = c.get(1).op(i64ExtendI32).i64(0).
			get(1).i32(int32(w.limits.TableEntries)).op(i32LeU, selectOp).set(2)
		return h.encode(w.charge(c, 2).get(0).get(1)).end()
	}
	return w.bulk(h)
}

// charge appends code that pays what is in an i64 local.
func (w *rewriter) charge(c code, units uint32) code {
	counter := w.counter()
	return c.globalGet(counter).get(units).op(i64LtS).block(opIf).get(units).call(w.refill()).end().
		globalGet(counter).get(units).op(i64Sub).globalSet(counter)
}

// bulk is the body of a helper that fills, copies or initialises. It first
// checks the bounds of the whole; where they are violated, the instruction
// itself traps, before anything is written. That a segment was dropped shows in
// the first piece, likewise.
func (w *rewriter) bulk(h helper) []byte {
	size, shift := h.piece()
	instr := func(c code) code { return h.encode(c.get(dst).get(src).get(piece)) }
	advance := func(c code, local uint32) code { return c.get(local).get(piece).op(i32Add).set(local) }

	c := code{2, 1, byte(engines.I32), 1, byte(engines.I64)}
	to, from := w.spaces(h)
	c = c.beyond(dst, to)
	if from != nil {
		c = c.beyond(src, from).op(i32Or)
	}
	c = h.encode(c.block(opIf).get(dst).get(src).get(count)).op(byte(opReturn)).end()
	c = c.block(opLoop)
	c = c.get(count).i32(int32(size)).get(count).i32(int32(size)).op(i32LtU, selectOp).set(piece)
	c = w.charge(c.get(piece).op(i64ExtendI32).i64(int64(shift)).op(i64ShrU).set(units), units)
	switch h.op {
	case opMemoryFill, opTableFill:
		c = advance(instr(c), dst)
	case opMemoryCopy, opTableCopy:
		// To a higher place, the last piece goes first: it may lie where the
		// first is to go.
		last := func(c code, local uint32) code { return c.get(local).get(count).op(i32Add).get(piece).op(i32Sub) }
		c = c.get(dst).get(src).op(i32GtU).block(opIf)
		c = h.encode(last(last(c, dst), src).get(piece))
		c = advance(advance(instr(c.op(byte(opElse))), dst), src).end()
	default:
		c = advance(advance(instr(c), dst), src)
	}
	return c.get(count).get(piece).op(i32Sub).tee(count).brIf(0).end().end()
}

// spaces push the size of what a bulk instruction writes to, and of what it
// reads from, if it does.
func (w *rewriter) spaces(h helper) (to, from code) {
	memory := code{memorySize, 0, i64ExtendI32}.i64(16).op(i64Shl)
	table := func(i uint32) code { return code(uleb(opTableSize.encode(nil), i)).op(i64ExtendI32) }
	switch h.op {
	case opMemoryCopy:
		return memory, memory
	case opMemoryInit:
		return memory, code{}.i64(int64(w.segments.lengths[h.imm[0]]))
	case opTableFill:
		return table(h.imm[0]), nil
	case opTableCopy:
		return table(h.imm[0]), table(h.imm[1])
	case opTableInit:
		return table(h.imm[1]), code{}.i64(int64(w.elems[h.imm[0]]))
	}
	return memory, nil
}

// beyond pushes whether count items from a local on reach beyond a size.
func (c code) beyond(start uint32, size code) code {
	c = c.get(start).op(i64ExtendI32).get(count).op(i64ExtendI32, i64Add)
	return append(c, size...).op(i64GtU)
}

// encode appends the instruction.
func (h helper) encode(c code) code {
	c = h.op.encode(c)
	for i := range h.op.shape().immediates {
		c = uleb(c, h.imm[i])
	}
	return c
}
