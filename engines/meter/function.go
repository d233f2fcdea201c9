package meter

import (
	"math"

	"forgeone.dev/forgeone/engines"
)

// function rewrites the body of one function.
//
// Instructions are charged by segment. In fuel mode a segment is a straight
// line: what is entered at its beginning runs to its end, or traps. In deadline
// mode it is a function or a loop without the loops inside: no path through it
// is longer than its cost until a loop or function is entered.
//
// A loop becomes two:
//
//	block done
//	  loop               ;; entered again when the slice is spent
//	    refill           ;; if the slice does not cover the segment
//	    block spent
//	      loop           ;; branches go here
//	        head         ;; leave by spent if the slice does not cover the segment, else pay
//	        …
//	      end
//	      br done
//	    end
//	    br 0
//	  end
//	end
//
// so that no call stands in the inner one, round which an engine would have to
// save its registers. That nothing else goes where spent does lets wazero
// compare and branch in one.
type function struct {
	*rewriter
	index  int // in the original
	typ    engines.FuncType
	survey        // zero if nothing is metered
	quiet  bool   // it does not charge itself
	deep   bool   // its calls count towards depth
	own    uint32 // local variables and parameters; those that are added come after
	out    code
	marks  []mark
	costs  []int64 // of each segment
	seg    int     // that is being read
	dead   bool    // what is being read cannot be reached
	frames []frame
	labels uint32 // in the output, all open blocks together
	prev   instr  // the instruction before, in the same segment, if it was an i32.const
}

// frame is an open block of the original.
type frame struct {
	op        opcode
	innermost uint32 // label that branches to it go to, counted from the outermost
	labels    uint32 // that it has in the output
	outer     int    // segment that it began in
	dead      bool   // as it began
	targeted  bool   // there is a branch to it
	// Of a loop:
	turns int    // to be written, this one included
	body  int    // where it is in the function
	same  []byte // the type of a block that keeps its parameters
}

// mark is a place in the output where charging code belongs. The cost of its
// segment is known only at the segment's end.
type mark struct {
	at   int
	seg  int
	kind markKind
}

// markBytes is about how many bytes the code at a mark takes.
const markBytes = 24

type markKind byte

const (
	markPay    markKind = iota // pay, and let a later check find what is owed
	markEntry                  // refill if need be, and pay
	markHead                   // branch to spent if need be, and pay
	markRefill                 // refill
)

// rewrite appends the function's size and code to dst.
func (f *function) rewrite(dst []byte, r *reader) ([]byte, error) {
	f.typ = f.module.types[f.funcs[f.index]]
	groups, locals, declared := f.locals(r)
	f.own = uint32(len(f.typ.Params)) + locals
	if r.err != nil {
		return nil, r.err
	}
	f.open(opBlock, 1)
	f.begin(markEntry)
	f.enter()
	for len(f.frames) > 0 && r.err == nil {
		in := f.instr(r)
		if r.err == nil {
			f.add(r, &in)
			r.limit("bytes of a function after rewriting", int64(len(f.out)+markBytes*len(f.marks)), int64(f.limits.OutputBytes))
		}
	}
	if r.err == nil && r.pos < len(r.data) {
		r.failf("the function goes on after its end")
	}
	if r.err != nil {
		return nil, r.err
	}
	body := make([]byte, 0, len(f.out)+len(declared)+markBytes*len(f.marks))
	added := f.added()
	body = uleb(body, groups+uint32(len(added)))
	body = append(body, declared...)
	for _, g := range added {
		body = append(body, g.n, byte(g.typ))
	}
	return str(dst, append(body, f.spliced()...)), nil
}

// localGroup are local variables of one type.
type localGroup struct {
	n   byte
	typ engines.ValueType
}

// added are the local variables that come after the function's own: operands
// of a copy, then the counter.
func (f *function) added() (groups []localGroup) {
	if f.copies {
		groups = append(groups, localGroup{3, engines.I32})
	}
	if f.cached {
		groups = append(groups, localGroup{1, engines.I64})
	}
	return groups
}

// operand is the local that holds an operand of a copy, and cache the one that
// holds the counter.
func (f *function) operand(i uint32) uint32 { return f.own + i }

func (f *function) cache() uint32 {
	if f.copies {
		return f.own + 3
	}
	return f.own
}

func (f *function) open(op opcode, labels uint32) {
	f.labels += labels
	f.frames = append(f.frames, frame{op: op, innermost: f.labels - 1, labels: labels, outer: f.seg, dead: f.dead})
}

// begin starts a segment, which is charged here.
func (f *function) begin(kind markKind) {
	f.costs = append(f.costs, 0)
	f.seg = len(f.costs) - 1
	f.mark(kind)
	f.prev = instr{}
}

func (f *function) mark(kind markKind) {
	f.marks = append(f.marks, mark{at: len(f.out), seg: f.seg, kind: kind})
}

// line starts a segment in fuel mode; to a deadline it is all the same.
func (f *function) line() {
	f.prev = instr{}
	if f.plan.Fuel {
		f.begin(markPay)
	}
}

// pay charges the segment. What cannot be reached is free.
func (f *function) pay(units int64) {
	if !f.dead {
		f.costs[f.seg] += units
	}
}

// label is the depth at which the block is that the original has depth levels out.
func (f *function) label(r *reader, depth uint32) uint32 {
	if int64(depth) >= int64(len(f.frames)) {
		r.failf("branch %d levels out, and there are %d", depth, len(f.frames))
		return 0
	}
	target := &f.frames[len(f.frames)-1-int(depth)]
	target.targeted = true
	return f.labels - 1 - target.innermost
}

// add writes one instruction.
func (f *function) add(r *reader, in *instr) {
	f.pay(in.cost())
	switch in.op {
	case opBlock:
		f.out = append(f.out, in.raw...)
		f.nest(r, opBlock, 1)
	case opIf:
		f.out = append(f.out, in.raw...)
		f.nest(r, opIf, 1)
		f.line()
	case opLoop:
		f.loop(r, in)
	case opElse:
		f.out = append(f.out, in.raw...)
		top := &f.frames[len(f.frames)-1]
		f.dead = top.dead
		top.targeted = true // by the branch that is not taken
		f.line()
	case opEnd:
		f.close(r)
	case opBr, opBrIf:
		f.out = uleb(append(f.out, byte(in.op)), f.label(r, in.imm[0]))
		f.branched(in.op == opBr)
	case opBrTable:
		f.out = uleb(append(f.out, byte(in.op)), uint32(len(in.labels)-1))
		for _, l := range in.labels {
			f.out = uleb(f.out, f.label(r, l))
		}
		f.branched(true)
	case opReturn:
		f.leave(r)
		f.branched(true)
	case opUnreachable:
		f.out = append(f.out, in.raw...)
		f.branched(true)
	case opCall, opCallIndirect:
		f.call(in)
	case opRefFunc:
		if !f.addressed[in.imm[0]] {
			r.failf("a reference is taken of function %d, which no export, element or global declares", in.imm[0])
		}
		f.out = f.plain(f.out, in)
	case opLocalGet, opLocalSet, opLocalTee:
		if in.imm[0] >= f.own {
			r.failf("local variable %d is named, and there are %d", in.imm[0], f.own)
		}
		f.out = append(f.out, in.raw...)
	default:
		if f.metered && in.op.bulk() {
			f.bulkInstr(in)
		} else {
			f.out = f.plain(f.out, in)
		}
	}
	f.prev = instr{}
	if in.op == opI32Const {
		f.prev = *in
	}
}

// call writes a call. What is called may spend from the counter, unless it is
// known to leave that to its caller.
func (f *function) call(in *instr) {
	if !f.metered {
		f.out = f.plain(f.out, in)
		return
	}
	if in.op == opCall {
		if s := f.surveyOf(in.imm[0]); s != nil && s.cost > 0 {
			f.pay(s.cost)
			f.out = f.plain(f.out, in)
			return
		}
	} else if !f.plan.Fuel {
		f.pay(indirectCost)
	}
	f.out = f.reload(f.plain(f.writeBack(f.out), in))
}

func (f *function) nest(r *reader, op opcode, labels uint32) {
	f.open(op, labels)
	r.limit("nested blocks in one function", int64(len(f.frames)), int64(f.limits.Nesting))
}

func (f *function) loop(r *reader, in *instr) {
	if !f.metered {
		f.out = append(f.out, in.raw...)
		f.nest(r, opLoop, 1)
		return
	}
	typ := in.raw[1:]
	same := f.same(typ)
	f.out = append(append(f.out, byte(opBlock)), typ...)
	f.out = append(append(f.out, byte(opLoop)), typ...)
	f.nest(r, opLoop, 4)
	f.begin(markRefill)
	f.pay(turnCost)
	f.out = append(append(f.out, byte(opBlock)), same...)
	f.out = append(append(f.out, byte(opLoop)), typ...)
	f.mark(markHead)
	top := &f.frames[len(f.frames)-1]
	top.turns, top.body, top.same = f.turns[0], r.pos, same
	f.turns = f.turns[1:]
	f.turn(top)
}

// turn begins a turn of a loop that is written out. All but the last are in a
// block, and what branches to the loop there goes on with the next:
//
//	loop
//	  head
//	  block
//	    …
//	    br done
//	  end
//	  …          ;; the last
//	end
func (f *function) turn(top *frame) {
	if top.turns == 1 {
		return
	}
	f.out = append(append(f.out, byte(opBlock)), top.same...)
	top.labels++
	top.innermost++
	f.labels++
}

// turned ends a turn but the last, and goes back in the original for the next.
func (f *function) turned(r *reader, top *frame) {
	f.out = f.out.br(4).end()
	top.labels--
	top.innermost--
	f.labels--
	top.turns--
	r.pos = top.body
	f.dead = top.dead
	f.line()
	f.pay(turnCost)
	f.turn(top)
}

// same is the type of a block that has the parameters of one of type typ, and
// the same as results.
func (f *function) same(typ []byte) []byte {
	id := (&reader{data: typ}).signed(33)
	if id < 0 || len(f.module.types[id].Params) == 0 {
		return []byte{emptyBlock}
	}
	params := f.module.types[id].Params
	return sleb(nil, int64(f.typeID(engines.FuncType{Params: params, Results: params})))
}

// close ends the innermost block.
func (f *function) close(r *reader) {
	if top := &f.frames[len(f.frames)-1]; top.turns > 1 {
		f.turned(r, top)
		return
	}
	top := f.frames[len(f.frames)-1]
	f.frames = f.frames[:len(f.frames)-1]
	if len(f.frames) == 0 {
		f.exit()
		return
	}
	f.out = f.out.end()
	if top.op == opLoop && f.metered {
		f.out = f.out.br(2).end().br(0).end().end()
	}
	f.labels -= top.labels
	// Nothing comes out of a block that ends in a branch elsewhere, unless there
	// is a branch to its end.
	f.dead = top.dead || f.dead && (top.op == opLoop || top.op == opBlock && !top.targeted)
	if f.plan.Fuel {
		if top.targeted || top.op != opBlock {
			f.line()
		}
	} else if top.op == opLoop {
		f.seg = top.outer
	}
}

// branched comes after an instruction that may go elsewhere, or always does.
func (f *function) branched(always bool) {
	if f.dead = f.dead || always; !f.dead {
		f.line()
	}
}

// spliced is the output with the charging code in its places.
func (f *function) spliced() []byte {
	out := make(code, 0, len(f.out)+markBytes*len(f.marks))
	from := 0
	for _, m := range f.marks {
		out = append(out, f.out[from:m.at]...)
		from = m.at
		if f.metered && !f.quiet {
			out = f.charged(out, m.kind, f.costs[m.seg])
		}
	}
	return append(out, f.out[from:]...)
}

// charged appends what charges a segment.
func (f *function) charged(c code, kind markKind, cost int64) code {
	if kind == markEntry && f.cached {
		c = c.globalGet(f.counter()).set(f.cache())
	}
	if cost == 0 {
		return c
	}
	if kind == markHead {
		c = f.left(c).i64(cost).op(i64LtS).brIf(1)
	} else if kind != markPay {
		c = f.left(c).i64(cost).op(i64LtS).block(opIf)
		c = f.setLeft(f.left(c.globalGet(f.id())).i64(cost).call(f.grant())).end()
	}
	if kind != markRefill {
		c = f.setLeft(f.left(c).i64(cost).op(i64Sub))
	}
	return c
}

// left and setLeft append what gets and sets the counter.
func (f *function) left(c code) code {
	if f.cached {
		return c.get(f.cache())
	}
	return c.globalGet(f.counter())
}

func (f *function) setLeft(c code) code {
	if f.cached {
		return c.set(f.cache())
	}
	return c.globalSet(f.counter())
}

// writeBack and reload stand before and after code that uses the counter.
func (f *function) writeBack(c code) code {
	if f.cached {
		c = c.get(f.cache()).globalSet(f.counter())
	}
	return c
}

func (f *function) reload(c code) code {
	if f.cached {
		c = c.globalGet(f.counter()).set(f.cache())
	}
	return c
}

// framed reports whether the body becomes a block, which all ways out of the
// function leave by its end, where there is something to do.
func (f *function) framed() bool { return f.cached || f.deep }

// enter writes what comes before the body.
func (f *function) enter() {
	if f.deep {
		d := f.depth()
		f.out = f.out.globalGet(d).i32(int32(min(f.plan.CallDepth, math.MaxInt32))).op(i32GeU).block(opIf).i64(depthSpent).call(f.refill()).end()
		f.out = f.out.globalGet(d).i32(1).op(i32Add).globalSet(d)
	}
	if f.framed() {
		f.out = append(append(f.out, byte(opBlock)), f.resultBlock()...)
		f.frames[0].labels++
		f.frames[0].innermost++
		f.labels++
	}
}

// leave writes a return.
func (f *function) leave(r *reader) {
	if f.framed() {
		f.out = f.out.br(f.label(r, uint32(len(f.frames)-1)))
	} else {
		f.out = append(f.out, byte(opReturn))
	}
}

// exit writes what comes after the body.
func (f *function) exit() {
	if f.framed() {
		f.out = f.writeBack(f.out.end())
	}
	if f.deep {
		d := f.depth()
		f.out = f.out.globalGet(d).i32(1).op(i32Sub).globalSet(d)
	}
	f.out = f.out.end()
}

// resultBlock is the type of a block without parameters and with the function's results.
func (f *function) resultBlock() []byte {
	switch results := f.typ.Results; len(results) {
	case 0:
		return []byte{emptyBlock}
	case 1:
		return []byte{byte(results[0])}
	default:
		return sleb(nil, int64(f.typeID(engines.FuncType{Results: results})))
	}
}
