package cache_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// plain is a harmless module that is large enough to be kept: answer returns n.
func plain(n int32) []byte {
	m := new(asm.Module)
	m.Func("answer", asm.Func(nil, asm.Types(engines.I32)), asm.Code{}.I32Const(n))
	for range 500 {
		m.Func("", asm.Func(nil, asm.Types(engines.I32)), asm.Code{}.I32Const(n))
	}
	return m.Bytes()
}

// slow is a module of which a compiler is not done soon: locals are read in the
// innermost of many loops, and each loop needs a value of each.
func slow(loops int) []byte {
	var code []byte
	for range loops {
		code = append(code, 0x03, 0x40) // loop
	}
	for i := range loops {
		code = append(code, 0x20) // local.get
		code = binary.AppendUvarint(code, uint64(i))
		code = append(code, 0x1a) // drop
	}
	for range loops {
		code = append(code, 0x41, 0, 0x0d, 0, 0x0b) // br_if 0 (i32.const 0), end
	}
	return body(loops, append(code, 0x0b))
}

// large is a module of 8 bytes a step, whose one function is a straight line that
// takes a compiler memory.
func large(steps int) []byte {
	step := []byte{0x20, 0, 0x41, 3, 0x6c, 0x21, 0, 0x01} // local.set 0 (local.get 0 * 3), nop
	return body(1, append(bytes.Repeat(step, steps), 0x0b))
}

// body is a module with one function, with i32 locals.
func body(locals int, code []byte) []byte {
	f := append([]byte{1}, binary.AppendUvarint(nil, uint64(locals))...)
	f = append(append(f, byte(engines.I32)), code...)
	section := func(id byte, content ...byte) []byte {
		return append(binary.AppendUvarint([]byte{id}, uint64(len(content))), content...)
	}
	return bytes.Join([][]byte{
		[]byte("\x00asm\x01\x00\x00\x00"),
		section(1, 1, 0x60, 0, 0),
		section(3, 1, 0),
		section(7, 1, 1, 'f', 0, 0),
		section(10, append(binary.AppendUvarint([]byte{1}, uint64(len(f))), f...)...),
	}, nil)
}

func TestModulesAreBeyondHarmless(t *testing.T) {
	for _, m := range [][]byte{plain(1), slow(300), large(1000)} {
		if len(m) <= 512 {
			t.Errorf("a module of %d bytes is compiled in place", len(m))
		}
	}
}
