package meter

// Subsections of the name section
// (https://www.w3.org/TR/wasm-core-2/#name-section).
const (
	namesModule    = 0
	namesFunctions = 1
)

// appendNames appends the names of the module and its functions, for stack
// traces. Other custom sections are left out: what they say of the code is no
// longer so. Names that cannot be read are nobody's loss.
func (m *module) appendNames(out []byte) []byte {
	if m.names.body == nil {
		return out
	}
	r := m.names.reader()
	body := str(nil, r.name())
	for r.more() {
		id, size := r.byte(), r.u32()
		sub := r.sub(size)
		switch id {
		case namesModule:
			body = str(append(body, id), sub.data)
		case namesFunctions:
			body = str(append(body, id), m.functionNames(sub))
		}
		if r.err == nil {
			r.err = sub.err
		}
	}
	if r.err != nil {
		return out
	}
	return appendSection(out, sectionCustom, body)
}

func (m *module) functionNames(r *reader) []byte {
	n := r.count()
	out := uleb(nil, n)
	for ; n > 0 && r.err == nil; n-- {
		out = uleb(out, m.moved(r.index(len(m.funcs), "function")))
		out = str(out, r.name())
	}
	return out
}
