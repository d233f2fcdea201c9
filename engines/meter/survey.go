package meter

// survey is what must be known of a function before it, and those that call it,
// are rewritten.
type survey struct {
	// cached says that the counter is kept in a local while the function runs:
	// memory that is written and read again in each turn would set the pace of a
	// short loop. It is worth its while only in a function with loops.
	cached bool
	// cost is what the function is charged by its callers, which know it: it
	// does not charge itself. 0 if it does.
	cost int64
	// copies says that there are instructions on memory of some length: they
	// take locals for their operands.
	copies bool
	// lined says that segments are straight lines, to fuel: blocks are nested too
	// deeply for more.
	lined bool
	loops []loopSurvey // in order
}

type loopSurvey struct {
	turns int    // that are written out
	exits uint32 // conditional branches that leave it, in all turns
}

// A loop without loops inside is written out several times, so that the
// counter is looked at once in as many turns.
const (
	turnsCost = 192 // of all turns that are written out, at most
	maxTurns  = 16
	maxExits  = 64 // of them all, else there are none
)

// quietCost is the most that a function may cost that is charged by its
// callers. To a deadline, one that is called indirectly costs indirectCost.
const (
	quietCost    = 64
	indirectCost = 8
)

// survey reads the functions defined.
func (w *rewriter) survey() error {
	w.surveys = make([]survey, len(w.bodies))
	for i, body := range w.bodies {
		r := body.reader()
		w.locals(r)
		s := &w.surveys[i]
		fn := uint32(w.imported + i)
		// Fuel is exact: all callers must be known, and what they pay for.
		quiet := w.cyclic == nil && !(w.plan.Fuel && (w.addressed[fn] || w.hasStart && w.start == fn))
		var (
			open   []int // blocks: the index of a loop, else -1
			inner  = -1  // the loop entered last, if none has ended since
			depth  int   // of blocks round it, itself included
			before int64 // cost
			exits  int64 // of a turn
			calls  bool
		)
		for r.more() {
			in := w.instr(r)
			switch in.op {
			case opBlock, opIf:
				open = append(open, -1)
			case opLoop:
				quiet = false
				inner = len(s.loops)
				open = append(open, inner)
				depth, before, exits, calls = len(open), s.cost, 0, false
				s.loops = append(s.loops, loopSurvey{turns: 1})
			case opEnd:
				if len(open) == 0 {
					break // of the function
				}
				ended := open[len(open)-1]
				open = open[:len(open)-1]
				if ended < 0 {
					break
				}
				if ended == inner {
					s.loops[ended] = loopOf(s.cost-before, exits, calls)
					s.cached = s.cached || !calls
				}
				inner = -1
			case opBrIf:
				if inner >= 0 && int64(len(open))-int64(in.imm[0]) < int64(depth) {
					exits++
				}
			case opCall, opCallIndirect:
				quiet, calls = false, true
			default:
				quiet = quiet && !in.op.bulk()
			}
			quiet = quiet && !(w.plan.Fuel && in.op.branches())
			s.lined = s.lined || w.plan.Fuel && len(open) > maxLined
			s.copies = s.copies || in.op.copies()
			s.cost += in.cost()
		}
		if r.err != nil {
			return r.err
		}
		if !quiet || s.cost > quietCost {
			s.cost = 0
		}
	}
	return nil
}

// loopOf is the survey of a loop without loops inside, by what a turn has. Round
// a call it is not worth while: what was in registers is in memory then.
func loopOf(cost, exits int64, calls bool) loopSurvey {
	turns := max(1, min(maxTurns, turnsCost/max(1, cost)))
	if calls {
		turns = 1
	}
	if exits *= turns; exits > maxExits {
		exits = 0
	}
	return loopSurvey{int(turns), uint32(exits)}
}

// branches reports whether what comes after the instruction may not run.
func (op opcode) branches() bool {
	switch op {
	case opIf, opElse, opBr, opBrIf, opBrTable, opReturn, opUnreachable:
		return true
	}
	return false
}

// surveyOf is the survey of a function, nil if it is imported.
func (w *rewriter) surveyOf(fn uint32) *survey {
	if int64(fn) < int64(w.imported) {
		return nil
	}
	return &w.surveys[fn-uint32(w.imported)]
}

// locals reads the local variables that a function declares. It returns how
// many groups of how many variables there are, and the groups as written.
func (m *module) locals(r *reader) (groups, locals uint32, declared []byte) {
	groups = r.count()
	start := r.pos
	for range groups {
		n := r.u32()
		r.bytes(1)
		if !r.limit("local variables in one function", int64(locals)+int64(n), int64(m.limits.Locals)) {
			return 0, 0, nil
		}
		locals += n
	}
	return groups, locals, r.data[start:r.pos]
}

// turnCost is what each turn of a loop costs beside its instructions, so that
// none is free: the first segment of a loop may be empty.
const turnCost = 1

// cost is what the instruction costs, beside what it costs by a length.
func (in *instr) cost() int64 {
	switch in.op {
	case opBlock, opLoop, opElse, opEnd:
		return 0
	}
	return 1
}
