package meter

import (
	"math"

	"forgeone.dev/forgeone/engines"
)

// function rewrites the body of one function.
//
// Instructions are charged by segment, where it begins. In deadline mode a
// segment is a function or a loop without the loops inside: no path through it
// is longer than its cost until a loop or function is entered. In fuel mode
// what enters a segment runs to its end, traps, or leaves a loop, and is given
// back what the rest costs. A segment need not be in one piece: it goes on after
// an if, whose arms have their own. No call fails for want of what it would be
// given back: the check before the charge leaves that out, and until it is
// settled, the counter, which may be below zero, is not looked at.
//
// A loop becomes two:
//
//	block done
//	  loop               ;; entered again when the slice is spent
//	    refill           ;; if the slice does not cover the segment
//	    block spent
//	      block exit     ;; one for each br_if that leaves the loop
//	        loop         ;; branches go here
//	          head       ;; leave by spent if the slice does not cover the segment, else pay
//	          …
//	        end
//	        br done
//	      end
//	      …              ;; give back
//	      br …
//	    end
//	    br 0
//	  end
//	end
//
// so that no call stands in the inner one, round which an engine would have to
// save its registers. That nothing else goes where spent does, and where an exit
// does, lets wazero compare and branch in one.
type function struct {
	*rewriter
	index   int // in the original
	typ     engines.FuncType
	survey         // zero if nothing is metered
	inlined        // what is written in the place of calls
	quiet   bool   // it does not charge itself
	deep    bool   // its calls count towards depth
	own     uint32 // local variables and parameters; those that are added come after
	out     code
	marks   []mark
	segs    []segment
	seg     int    // that is being read
	spans   []span // that are being read, from the outermost
	dead    bool   // what is being read cannot be reached
	frames  []frame
	labels  uint32 // in the output, all open blocks together: they are counted from the outermost
	prev    instr  // the instruction before, if it is in the same segment
}

// frame is an open block of the original.
type frame struct {
	op        opcode
	innermost uint32 // label that branches to it go to
	labels    uint32 // that it has in the output
	loop      int    // frame of the innermost loop that it is, or is in; -1 if there is none
	dead      bool   // as it began
	targeted  bool   // there is a branch to it
	carries   bool   // values go with a branch to it
	// Of a loop:
	turns  int    // to be written, this one included
	body   int    // where it is in the function
	same   []byte // the type of a block that keeps its parameters
	exits  []exit
	room   uint32 // for exits
	yields bool   // it has results
}

// roomy reports whether the loop has room for an exit.
func (f *frame) roomy() bool { return uint32(len(f.exits)) < f.room }

// outermost is the first label that the frame has.
func (f *frame) outermost() uint32 { return f.innermost + 1 - f.labels }

// rewrite appends the function's size and code to dst.
func (f *function) rewrite(dst []byte, r *reader) ([]byte, error) {
	f.typ = f.module.types[f.funcs[f.index]]
	groups, locals, declared := f.locals(r)
	f.own = uint32(len(f.typ.Params)) + locals
	if r.err != nil {
		return nil, r.err
	}
	f.push(opBlock, 1, len(f.typ.Results) > 0)
	f.charge(0, markEntry)
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
// of a copy, then the counter, then those of what is inlined.
func (f *function) added() (groups []localGroup) {
	if f.copies {
		groups = append(groups, localGroup{3, engines.I32})
	}
	if f.cached {
		groups = append(groups, localGroup{1, engines.I64})
	}
	for _, t := range f.variables {
		groups = append(groups, localGroup{1, t})
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

// variable is a local that an inlined function has.
func (f *function) variable(i int) uint32 {
	at := f.cache()
	if f.cached {
		at++
	}
	return at + uint32(i)
}

func (f *function) push(op opcode, labels uint32, carries bool) {
	loop := -1
	if op == opLoop {
		loop = len(f.frames)
	} else if len(f.frames) > 0 {
		loop = f.top().loop
	}
	f.labels += labels
	f.frames = append(f.frames, frame{op: op, innermost: f.labels - 1, labels: labels, loop: loop, dead: f.dead, carries: carries})
}

func (f *function) top() *frame { return &f.frames[len(f.frames)-1] }

// target is the block that the original has depth levels out, and is branched to.
func (f *function) target(r *reader, depth uint32) (i int, ok bool) {
	if int64(depth) >= int64(len(f.frames)) {
		r.failf("branch %d levels out, and there are %d", depth, len(f.frames))
		return 0, false
	}
	i = len(f.frames) - 1 - int(depth)
	f.frames[i].targeted = true
	return i, true
}

// endOf is the label of a block, as spans know it: that of the body is 0.
func (f *function) endOf(frame int) uint32 {
	if frame == 0 {
		return 0
	}
	return f.frames[frame].innermost
}

// levels is how many levels out a label is.
func (f *function) levels(label uint32) uint32 { return f.labels - 1 - label }

// add writes one instruction.
func (f *function) add(r *reader, in *instr) {
	f.pay(in.cost())
	switch in.op {
	case opBlock:
		f.out = append(f.out, in.raw...)
		f.nest(r, opBlock, 1, f.yields(in.raw[1:]))
	case opIf:
		f.out = append(f.out, in.raw...)
		f.nest(r, opIf, 1, f.yields(in.raw[1:]))
		f.arm()
	case opLoop:
		f.loop(r, in)
	case opElse:
		f.out = append(f.out, in.raw...)
		top := f.top()
		f.dead = top.dead
		top.targeted = true // by the branch that is not taken
		f.drop(top.innermost)
		f.arm()
	case opEnd:
		f.close(r)
	case opBr, opBrIf:
		f.branch(r, in)
	case opBrTable:
		f.out = uleb(append(f.out, byte(in.op)), uint32(len(in.labels)-1))
		for _, l := range in.labels {
			if i, ok := f.target(r, l); ok {
				f.part(f.endOf(i), false)
				f.out = uleb(f.out, f.levels(f.frames[i].innermost))
			}
		}
		f.branched(true)
	case opReturn:
		f.giveBack(0, f.top().loop >= 0)
		f.leave()
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
	f.prev = *in
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
			if s.inline && f.top().loop >= 0 && f.sites < maxSites && !f.dead {
				f.inlineCall(in.imm[0])
			} else {
				f.out = f.plain(f.out, in)
			}
			return
		}
	} else if !f.plan.Fuel {
		f.pay(indirectCost)
	}
	f.watch()
	f.out = f.reload(f.plain(f.writeBack(f.out), in))
}

func (f *function) nest(r *reader, op opcode, labels uint32, carries bool) {
	f.push(op, labels, carries)
	r.limit("nested blocks in one function", int64(len(f.frames)), int64(f.limits.Nesting))
}

// arm begins the code that an if or else has.
func (f *function) arm() {
	if f.plan.Fuel {
		f.charge(f.top().innermost, markPay)
	}
}

// branch writes a br or br_if.
func (f *function) branch(r *reader, in *instr) {
	i, ok := f.target(r, in.imm[0])
	if !ok {
		return
	}
	var (
		always = in.op == opBr
		to     = f.frames[i].innermost
		loop   = f.top().loop
	)
	switch {
	case always:
		f.giveBack(f.endOf(i), i < loop)
	case i < loop && f.frames[loop].roomy() && !f.frames[i].carries:
		to = f.addExit(&f.frames[loop], to, f.endOf(i))
	case i == loop && i == len(f.frames)-1 && f.nextTurn(r):
		return
	default:
		f.part(f.endOf(i), false)
	}
	f.out = uleb(append(f.out, byte(in.op)), f.levels(to))
	f.branched(always)
}

func (f *function) loop(r *reader, in *instr) {
	typ := in.raw[1:]
	same := f.same(typ)
	carries := same[0] != emptyBlock
	if !f.metered {
		f.out = append(f.out, in.raw...)
		f.nest(r, opLoop, 1, carries)
		return
	}
	s := f.loops[0]
	f.loops = f.loops[1:]
	if carries {
		s.exits = 0
	}
	f.out = append(append(f.out, byte(opBlock)), typ...)
	f.out = append(append(f.out, byte(opLoop)), typ...)
	f.nest(r, opLoop, 4+s.exits, carries)
	top := f.top()
	f.watch()
	f.charge(top.innermost, markRefill)
	f.pay(turnCost)
	f.out = append(append(f.out, byte(opBlock)), same...)
	for range s.exits {
		f.out = f.out.block(opBlock)
	}
	f.out = append(append(f.out, byte(opLoop)), typ...)
	f.mark(mark{kind: markHead, room: s.exits})
	top.turns, top.body, top.same = s.turns, r.pos, same
	top.room, top.yields = s.exits, f.yields(typ)
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

// addExit makes an exit of a loop to a label, and returns its own.
func (f *function) addExit(loop *frame, to, end uint32) uint32 {
	loop.exits = append(loop.exits, exit{to, f.part(end, true)})
	return loop.outermost() + 3 + loop.room - uint32(len(loop.exits))
}

// nextTurn writes a br_if that ends a turn, if another comes and it can be put
// the other way round: an exit of the loop. Then it is not taken in any turn.
func (f *function) nextTurn(r *reader) bool {
	top := f.top()
	if top.turns == 1 || top.yields || !top.roomy() || !r.more() || opcode(r.data[r.pos]) != opEnd {
		return false
	}
	out, ok := f.out.negate(f.prev.op)
	if !ok {
		return false
	}
	done := top.outermost()
	f.out = out.brIf(f.levels(f.addExit(top, done, done)))
	f.next(r, top)
	return true
}

// turned ends a turn but the last.
func (f *function) turned(r *reader, top *frame) {
	f.giveBack(top.outermost(), true)
	f.out = f.out.br(4 + top.room)
	f.next(r, top)
}

// next goes back in the original for the next turn.
func (f *function) next(r *reader, top *frame) {
	f.out = f.out.end()
	f.drop(top.innermost)
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

// yields reports whether a block of type typ has results.
func (f *function) yields(typ []byte) bool {
	if id := (&reader{data: typ}).signed(33); id >= 0 {
		return len(f.module.types[id].Results) > 0
	}
	return typ[0] != emptyBlock
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
		f.out = f.out.br(2 + top.room)
		f.exits(&top)
		f.out = f.out.end().br(0).end().end()
	}
	f.labels -= top.labels
	// Nothing comes out of a block that ends in a branch elsewhere, unless there
	// is a branch to its end.
	f.dead = top.dead || f.dead && (top.op == opLoop || top.op == opBlock && !top.targeted)
	f.drop(top.outermost())
	if top.targeted || top.op != opBlock {
		f.line()
	} else {
		f.resume()
	}
}

// exits writes where the conditional branches out of a loop go.
func (f *function) exits(loop *frame) {
	open := f.labels - 1
	for i := range loop.room {
		open--
		f.out = f.out.end()
		if i < uint32(len(loop.exits)) {
			e := loop.exits[i]
			f.mark(mark{kind: markBack, back: e.back})
			f.out = f.out.br(open - 1 - e.label)
		}
	}
}

// branched comes after an instruction that may go elsewhere, or always does.
func (f *function) branched(always bool) {
	if f.dead = f.dead || always; !f.dead {
		f.line()
	}
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
func (f *function) leave() {
	if f.framed() {
		f.out = f.out.br(f.levels(f.frames[0].innermost))
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
