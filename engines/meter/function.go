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
//	loop          ;; entered when the slice is spent
//	  check       ;; refill if the slice does not cover the segment
//	  loop        ;; branches go here
//	    head      ;; leave for the outer loop if the slice does not cover it, else pay
//	    …
//	  end
//	end
//
// so that no call stands in the inner one, round which an engine would have to
// save its registers.
type function struct {
	*rewriter
	index  int // in the original
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
}

// mark is a place in the output where charging code belongs. The cost of its
// segment is known only at the segment's end.
type mark struct {
	at   int
	seg  int
	kind markKind
}

type markKind byte

const (
	markPay   markKind = iota // pay, and let a later check find what is owed
	markEntry                 // refill if need be, and pay
	markCheck                 // refill if need be
	markHead                  // leave for the loop around if need be, and pay
)

// rewrite appends the function's size and code to dst.
func (f *function) rewrite(dst []byte, r *reader) ([]byte, error) {
	start := r.pos
	for n, locals := r.count(), int64(0); n > 0 && r.err == nil; n-- {
		locals += int64(r.u32())
		r.bytes(1)
		r.limit("local variables in one function", locals, int64(f.limits.Locals))
	}
	if r.err != nil {
		return nil, r.err
	}
	declared := r.data[start:r.pos]
	f.open(opBlock, 1)
	f.begin(markEntry)
	f.enter()
	for len(f.frames) > 0 && r.err == nil {
		in := f.instr(r)
		if in.op == opRefFunc && r.err == nil && !f.addressed[in.imm[0]] {
			r.failf("a reference is taken of function %d, which no export, element or global declares", in.imm[0])
		}
		if r.err == nil {
			f.add(r, &in)
		}
	}
	if r.err == nil && r.pos < len(r.data) {
		r.failf("the function goes on after its end")
	}
	if r.err != nil {
		return nil, r.err
	}
	body := append(append(make([]byte, 0, len(f.out)+len(declared)+16*len(f.marks)), declared...), f.spliced()...)
	return str(dst, body), nil
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
	switch in.op {
	case opBlock, opLoop, opElse, opEnd:
	default:
		f.pay(1)
	}
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
		f.close()
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
	default:
		f.perform(in)
	}
	f.prev = instr{}
	if in.op == opI32Const {
		f.prev = *in
	}
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
	f.out = append(f.out, in.raw...)
	f.nest(r, opLoop, 2)
	f.begin(markCheck)
	f.out = append(f.out, in.raw...)
	f.mark(markHead)
}

// close ends the innermost block.
func (f *function) close() {
	top := f.frames[len(f.frames)-1]
	f.frames = f.frames[:len(f.frames)-1]
	if len(f.frames) == 0 {
		f.exit()
		return
	}
	for range top.labels {
		f.out = f.out.end()
	}
	f.labels -= top.labels
	f.dead = top.dead
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
	out := make(code, 0, len(f.out)+24*len(f.marks))
	from := 0
	for _, m := range f.marks {
		out = append(out, f.out[from:m.at]...)
		from = m.at
		if cost := f.costs[m.seg]; cost > 0 {
			out = f.charge(out, m.kind, cost)
		}
	}
	return append(out, f.out[from:]...)
}

func (f *function) charge(c code, kind markKind, cost int64) code {
	if !f.metered {
		return c
	}
	counter := f.counter()
	switch kind {
	case markEntry, markCheck:
		c = c.globalGet(counter).i64(cost).op(i64LtS).block(opIf).i64(cost).call(f.refill()).end()
	case markHead:
		c = c.globalGet(counter).i64(cost).op(i64LtS).brIf(1)
	}
	if kind != markCheck {
		c = c.globalGet(counter).i64(cost).op(i64Sub).globalSet(counter)
	}
	return c
}

// enter writes what the function begins with when depth is counted: the body
// becomes a block, which all ways out of the function leave by its end.
func (f *function) enter() {
	if !f.deep() {
		return
	}
	d := f.depth()
	f.out = f.out.globalGet(d).i32(int32(min(f.plan.CallDepth, math.MaxInt32))).op(i32GeU).block(opIf).i64(depthSpent).call(f.refill()).end()
	f.out = f.out.globalGet(d).i32(1).op(i32Add).globalSet(d)
	f.out = append(append(f.out, byte(opBlock)), f.resultBlock()...)
	f.frames[0].labels++
	f.frames[0].innermost++
	f.labels++
}

// leave writes a return.
func (f *function) leave(r *reader) {
	if !f.deep() {
		f.out = append(f.out, byte(opReturn))
		return
	}
	f.out = f.out.br(f.label(r, uint32(len(f.frames)-1)))
}

// exit writes the end of the function.
func (f *function) exit() {
	if f.deep() {
		d := f.depth()
		f.out = f.out.end().globalGet(d).i32(1).op(i32Sub).globalSet(d)
	}
	f.out = f.out.end()
}

// deep reports whether calls of the function count towards depth.
func (f *function) deep() bool { return f.cyclic != nil && f.cyclic[f.index-f.imported] }

// resultBlock is the type of a block without parameters and with the function's results.
func (f *function) resultBlock() []byte {
	results := f.module.types[f.funcs[f.index]].Results
	switch len(results) {
	case 0:
		return []byte{emptyBlock}
	case 1:
		return []byte{byte(results[0])}
	}
	return sleb(nil, int64(f.typeID(engines.FuncType{Results: results})))
}
