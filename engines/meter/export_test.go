package meter

import "forgeone.dev/forgeone/engines"

// ExportCount is the global of what Counting adds.
const ExportCount = "count"

// Counting writes a module without globals and imported functions anew, so that
// it counts what its instructions cost one by one, as they run, and exports the
// sum: what fuel must be for calls that succeed.
func Counting(wasm []byte) ([]byte, error) {
	m, err := decode(wasm, Limits{}.withDefaults())
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), header...)
	for _, id := range []byte(sectionOrder) {
		body := m.sections[id].body
		switch id {
		case sectionGlobal:
			body = append([]byte{1, byte(engines.I64), 1}, code{}.i64(0).end()...)
		case sectionExport:
			r := m.sections[id].reader()
			body = uleb(nil, r.count()+1)
			body = append(body, r.data[r.pos:]...)
			body = append(str(body, ExportCount), byte(engines.KindGlobal), 0)
		case sectionCode:
			body = uleb(nil, uint32(len(m.bodies)))
			for i, b := range m.bodies {
				body = str(body, m.counting(uint32(i), b.reader()))
			}
		}
		if body != nil {
			out = appendSection(out, id, body)
		}
	}
	return out, nil
}

func (m *module) counting(fn uint32, r *reader) []byte {
	groups, locals, declared := m.locals(r)
	length := uint32(len(m.types[m.funcs[fn]].Params)) + locals
	c := code(uleb(nil, groups+1))
	c = append(append(c, declared...), 1, byte(engines.I32))
	spend := func(units int64) { c = c.globalGet(0).i64(units).op(i64Add).globalSet(0) }
	for r.more() {
		in := m.instr(r)
		if units := in.cost(); units > 0 {
			spend(units)
		}
		if in.op.copies() {
			c = c.tee(length).globalGet(0).get(length).op(i64ExtendI32).i64(unitShift).op(i64ShrU, i64Add).globalSet(0)
		}
		c = append(c, in.raw...)
		if in.op == opLoop {
			spend(turnCost)
		}
	}
	return c
}
