package diff

import "fmt"

// opcode is an instruction: its first byte, or for one with a prefix, that and
// the number after it.
type opcode struct {
	prefix byte
	number uint32
}

func (o opcode) String() string {
	if o.prefix == 0 {
		return fmt.Sprintf("%#02x", o.number)
	}
	return fmt.Sprintf("%#02x %d", o.prefix, o.number)
}

// instructions are those of WebAssembly 2.0
// (https://www.w3.org/TR/wasm-core-2/#a7-index-of-instructions), but for else
// and end.
func instructions() (all []opcode) {
	for _, r := range []struct {
		prefix      byte
		first, last uint32
	}{
		{0, 0x00, 0x04}, {0, 0x0c, 0x11}, {0, 0x1a, 0x1c}, {0, 0x20, 0x26}, {0, 0x28, 0xc4}, {0, 0xd0, 0xd2},
		{0xfc, 0, 17},
		{0xfd, 0, 153}, {0xfd, 155, 161}, {0xfd, 163, 164}, {0xfd, 167, 174}, {0xfd, 177, 177}, {0xfd, 181, 186},
		{0xfd, 188, 193}, {0xfd, 195, 196}, {0xfd, 199, 206}, {0xfd, 209, 209}, {0xfd, 213, 225}, {0xfd, 227, 237},
		{0xfd, 239, 255},
	} {
		for n := r.first; n <= r.last; n++ {
			all = append(all, opcode{r.prefix, n})
		}
	}
	return all
}

// Missing are the instructions of WebAssembly 2.0 that no module had.
func (t *Tally) Missing() (names []string) {
	for _, o := range instructions() {
		if !t.opcodes[o] {
			names = append(names, o.String())
		}
	}
	return names
}

func (t *Tally) addOpcodes(m *Module) {
	if t.opcodes == nil {
		t.opcodes = make(map[opcode]bool)
	}
	for _, f := range m.Funcs {
		t.addNodes(f.Body)
	}
	if m.Lender != nil {
		t.addOpcodes(m.Lender)
	}
}

func (t *Tally) addNodes(nodes []*node) {
	for _, n := range nodes {
		if len(n.code) > 0 {
			t.opcodes[opcodeOf(n.code)] = true
		}
		t.addNodes(n.args)
		t.addNodes(n.body)
		t.addNodes(n.orElse)
	}
}

// opcodeOf is the one that code begins with.
func opcodeOf(code []byte) opcode {
	if code[0] < 0xfc {
		return opcode{0, uint32(code[0])}
	}
	o := opcode{prefix: code[0]}
	for shift, b := range code[1:] {
		o.number |= uint32(b&0x7f) << (7 * shift)
		if b < 0x80 {
			break
		}
	}
	return o
}
