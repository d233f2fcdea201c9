package meter

import (
	"slices"
)

// dataSegment is a data segment of the original.
type dataSegment struct {
	active bool
	placed bool   // at offset: what an active one is placed by is a constant
	offset uint32 // in memory
	init   []byte
}

func (m *module) readData(r *reader, i int) {
	s := m.dataSegment(r)
	switch {
	case !m.hasDataCount:
		m.data = append(m.data, s)
	case i < len(m.data):
		m.data[i] = s
	default:
		r.failf("%d data segments are announced, and there are more", len(m.data))
	}
	m.dataRead++
}

// dataSegment reads a data segment
// (https://www.w3.org/TR/wasm-core-2/#data-section).
func (m *module) dataSegment(r *reader) (s dataSegment) {
	switch flag := r.u32(); flag {
	case 0, 2:
		s.active = true
		if flag == 2 {
			r.index(m.memories, "memory")
		}
		start := *r
		in := m.instr(r)
		s.placed, s.offset = in.op == opI32Const && m.instr(r).op == opEnd, in.imm[0]
		if !s.placed && r.err == nil {
			*r = start
			m.constExpr(r, nil)
		}
	case 1:
	default:
		r.failf("data segment of unknown form %d", flag)
	}
	s.init = r.bytes(r.count())
	return s
}

// segments says where the data segments are after rewriting. An active one is
// dropped before any code runs: what code does to it becomes the same of an
// empty segment, which comes after all others. (There are engines that do not
// drop it.)
type segments struct {
	index   []uint32 // of each of the original
	lengths []uint32 // of each that is left, the empty one last
	empty   uint32   // index of that
	named   bool     // by code
}

// placeSegments places the data segments. With taken, the active ones are not
// in the module any more.
func (m *module) placeSegments(taken bool) {
	s := &m.segments
	s.index = make([]uint32, len(m.data))
	for i, d := range m.data {
		if d.active && taken {
			continue
		}
		s.index[i] = uint32(len(s.lengths))
		s.lengths = append(s.lengths, uint32(len(d.init)))
	}
	s.empty = uint32(len(s.lengths))
	s.lengths = append(s.lengths, 0)
	for i, d := range m.data {
		if d.active {
			s.index[i] = s.empty
		}
	}
}

// of is where a segment is that code names.
func (s *segments) of(segment uint32) uint32 {
	if s.index == nil {
		return segment // not placed yet, so this is no function
	}
	i := s.index[segment]
	s.named = s.named || i == s.empty
	return i
}

// count is how many segments there are after rewriting.
func (s *segments) count() uint32 {
	if s.named {
		return s.empty + 1
	}
	return s.empty
}

// dataSection writes the segments. With taken, the active ones are left out.
func (m *module) dataSection(v *vector, r *reader, taken bool) {
	for n := v.n; n > 0; n-- {
		start := r.pos
		if s := m.dataSegment(r); !s.active || !taken {
			v.items = append(v.items, r.data[start:r.pos]...)
		}
	}
	if m.segments.named {
		v.items = append(v.items, 1, 0)
	}
	v.n = m.segments.count()
}

// run is a part of a memory.
type run struct {
	offset uint64
	bytes  []byte
}

// maxGap is how many zeros are written to make one run of two: less than a
// write costs, and far less than what the number of segments is limited for.
const maxGap = 512

// runs are the active data segments, as they are to be written to a memory that
// is all zeros: in their order, and as few as follow one another. ok is false
// if a segment is beyond the size: those before it are there.
func (m *module) runs(size uint64) (runs []run, ok bool) {
	top := uint64(0) // the end of all runs: there is nothing beyond
	for _, d := range m.data {
		if !d.active {
			continue
		}
		at := uint64(d.offset)
		if at+uint64(len(d.init)) > size {
			return runs, false
		}
		if len(d.init) == 0 {
			continue
		}
		if len(runs) > 0 {
			last := &runs[len(runs)-1]
			end := last.offset + uint64(len(last.bytes))
			if end == top && at >= end && at-end <= maxGap {
				last.bytes = append(append(last.bytes, make([]byte, at-end)...), d.init...)
				top = at + uint64(len(d.init))
				continue
			}
		}
		runs = append(runs, run{at, slices.Clone(d.init)})
		top = max(top, at+uint64(len(d.init)))
	}
	return runs, true
}
