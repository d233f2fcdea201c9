package meter

import (
	"math"
	"slices"
)

// segment is what is charged at once.
type segment struct {
	cost    int64
	certain int64 // the part of it that no exit gives back
}

// span is code that is charged by one segment after the other, up to the end of
// a block.
type span struct {
	seg   int    // that charges what comes, or unbegun
	label uint32 // of the block
	// watched says that the counter was looked at in the segment, which must not
	// have been charged what may be given back.
	watched bool
}

const unbegun = -1

// prepaid is a segment that is left by an exit, and what of its cost was due by
// then.
type prepaid struct {
	seg int
	due int64
}

// exit is a conditional branch out of a loop.
type exit struct {
	label uint32 // that it goes to
	back  []prepaid
}

// mark is a place in the output where charging code belongs. The cost of a
// segment is known only at its end.
type mark struct {
	at   int
	seg  int
	kind markKind
	room uint32    // exits that a markHead is inside of
	back []prepaid // what a markBack gives back
}

// markBytes is about how many bytes the code at a mark takes.
const markBytes = 24

type markKind byte

const (
	markPay    markKind = iota // pay, and let a later check find what is owed
	markEntry                  // refill if need be, and pay
	markHead                   // branch to spent if need be, and pay
	markRefill                 // refill
	markBack                   // give back
)

// maxLined is how deeply blocks may be nested in a function whose segments are
// not straight lines: the work on a branch grows with that.
const maxLined = 32

// charge begins a segment, for what comes up to the end of a block.
func (f *function) charge(label uint32, kind markKind) {
	if f.lined {
		f.spans = f.spans[:0]
	}
	f.spans = append(f.spans, span{seg: f.begin(kind), label: label})
}

func (f *function) begin(kind markKind) int {
	f.segs = append(f.segs, segment{certain: math.MaxInt64})
	f.seg = len(f.segs) - 1
	f.mark(mark{kind: kind})
	f.prev = instr{}
	return f.seg
}

func (f *function) mark(m mark) {
	m.at, m.seg = len(f.out), f.seg
	f.marks = append(f.marks, m)
}

// pay charges the segment. What cannot be reached is free.
func (f *function) pay(units int64) {
	if !f.dead {
		f.segs[f.seg].cost += units
	}
}

// drop ends the spans of a block, and resume goes on with the one round it.
func (f *function) drop(label uint32) {
	for len(f.spans) > 1 && f.spans[len(f.spans)-1].label >= label {
		f.spans = f.spans[:len(f.spans)-1]
	}
}

func (f *function) resume() {
	s := &f.spans[len(f.spans)-1]
	if s.seg == unbegun {
		s.seg, s.watched = f.begin(markPay), false
	}
	f.seg = s.seg
}

// line ends the segment where segments are straight lines.
func (f *function) line() {
	if f.lined {
		f.spans[0].seg = unbegun
	}
	f.resume()
}

// watch comes before code that looks at the counter, or may.
func (f *function) watch() {
	for i := range f.spans {
		f.spans[i].watched = true
	}
}

// part comes before a branch to the label of a block: what comes before the end
// of that is no part of the segments that began before. Those that end with the
// block or inside end here; or they go on, if the branch leaves a loop, and can
// be given back.
func (f *function) part(label uint32, leaves bool) (back []prepaid) {
	if !f.plan.Fuel || f.lined || f.dead {
		return nil
	}
	i := len(f.spans)
	for ; i > 0 && f.spans[i-1].label >= label; i-- {
		s := &f.spans[i-1]
		switch {
		case s.seg == unbegun:
		case leaves && !s.watched && (s.label > label || label == 0):
			seg := &f.segs[s.seg]
			seg.certain = min(seg.certain, seg.cost)
			back = append(back, prepaid{s.seg, seg.cost})
		default:
			s.seg = unbegun
		}
	}
	if i == len(f.spans) || f.spans[i].label > label {
		f.spans = slices.Insert(f.spans, i, span{seg: unbegun, label: label})
	}
	return back
}

// giveBack comes before an unconditional branch.
func (f *function) giveBack(label uint32, leaves bool) {
	if back := f.part(label, leaves); len(back) > 0 {
		f.mark(mark{kind: markBack, back: back})
	}
}

// spliced is the output with the charging code in its places.
func (f *function) spliced() []byte {
	out := make(code, 0, len(f.out)+markBytes*len(f.marks))
	from := 0
	for i := range f.marks {
		m := &f.marks[i]
		out = append(out, f.out[from:m.at]...)
		from = m.at
		if f.metered && !f.quiet {
			out = f.charged(out, m)
		}
	}
	return append(out, f.out[from:]...)
}

// charged appends the code of a mark.
func (f *function) charged(c code, m *mark) code {
	seg := &f.segs[m.seg]
	cost, need := seg.cost, min(seg.cost, seg.certain)
	switch m.kind {
	case markEntry:
		c = f.reload(c)
	case markBack:
		cost = 0
		for _, p := range m.back {
			cost -= f.segs[p.seg].cost - p.due
		}
	}
	if cost == 0 {
		return c
	}
	switch m.kind {
	case markHead:
		c = f.left(c).i64(need).op(i64LtS).brIf(1 + m.room)
	case markEntry, markRefill:
		c = f.left(c).i64(need).op(i64LtS).block(opIf)
		c = f.setLeft(f.left(c.globalGet(f.id())).i64(need).call(f.grant())).end()
	}
	switch {
	case m.kind == markRefill:
	case cost > 0:
		c = f.setLeft(f.left(c).i64(cost).op(i64Sub))
	default:
		c = f.setLeft(f.left(c).i64(-cost).op(i64Add))
	}
	return c
}
