package meter

// survey is what must be known of a function before it, and those that call it,
// are rewritten.
type survey struct {
	// cached says that the counter is kept in a local while the function runs:
	// memory that is written and read again in each turn would set the pace of a
	// short loop. Round calls it would be in memory too: to a deadline it is
	// worth its while in loops without, and to fuel in those whose calls they are
	// charged for, where it need not be read again after each.
	cached bool
	// cost is what the function is charged by its callers, which know it: it
	// does not charge itself. 0 if it does.
	cost int64
	// inline says that in loops it is written in the place of its calls.
	inline bool
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
	exits uint32 // conditional branches that leave it or end a turn, in all turns
	// Of a loop without loops inside, what a turn has:
	innermost bool
	cost      int64
	calls     []uint32 // of functions defined
	others    bool     // calls of others
}

// A loop without loops inside is written out several times, so that the
// counter is looked at once in as many turns; but for one that calls what may
// look at it anyway.
const (
	turnsCost = 192 // of all turns that are written out, at most
	maxTurns  = 16
	maxExits  = 128 // of them all, else there are none
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
		_, locals, declared := w.locals(r)
		s := &w.surveys[i]
		fn := uint32(w.imported + i)
		straight := true
		// Fuel is exact: all callers must be known, and what they pay for.
		quiet := !(w.plan.Fuel && (w.addressed[fn] || w.hasStart && w.start == fn))
		var (
			open  []bool      // blocks: whether they are loops
			inner *loopSurvey // entered last, if none has ended since
			depth int         // of blocks, its own included
		)
		for r.more() {
			in := w.instr(r)
			switch in.op {
			case opBlock, opIf:
				straight = false
				open = append(open, false)
			case opLoop:
				quiet = false
				open = append(open, true)
				s.loops = append(s.loops, loopSurvey{cost: -s.cost})
				inner, depth = &s.loops[len(s.loops)-1], len(open)
			case opEnd:
				if len(open) == 0 {
					break // of the function
				}
				if open[len(open)-1] {
					if inner != nil {
						inner.innermost = true
						inner.cost += s.cost
					}
					inner = nil
				}
				open = open[:len(open)-1]
			case opBrIf:
				if inner != nil && int64(len(open))-int64(in.imm[0]) <= int64(depth) {
					inner.exits++
				}
			case opCall, opCallIndirect:
				quiet = false
				if inner != nil && in.op == opCall {
					inner.calls = append(inner.calls, in.imm[0])
				} else if inner != nil {
					inner.others = true
				}
			default:
				quiet = quiet && !in.op.bulk()
			}
			straight = straight && !in.op.branches()
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
		s.inline = straight && s.cost > 0 && s.cost <= inlineCost && w.inlines(fn, locals, declared)
	}
	for i := range w.surveys {
		s := &w.surveys[i]
		for j := range s.loops {
			w.surveyLoop(s, &s.loops[j])
		}
	}
	return nil
}

// surveyLoop settles how a loop is written, when what it calls is known.
func (w *rewriter) surveyLoop(s *survey, l *loopSurvey) {
	charged := true // by the loop, what it calls
	calls := false  // that are written as such
	for _, fn := range l.calls {
		callee := w.surveyOf(fn)
		calls = calls || callee == nil || !callee.inline
		if callee != nil && callee.cost > 0 {
			l.cost += callee.cost
		} else {
			charged = false
		}
	}
	l.turns = 1
	if l.innermost && charged && !l.others {
		l.turns = int(max(1, min(maxTurns, turnsCost/max(1, l.cost))))
		s.cached = s.cached || !calls || w.plan.Fuel
	}
	if l.exits *= uint32(l.turns); !l.innermost || l.exits > maxExits {
		l.exits = 0
	}
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
