package enginetest

import (
	"context"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var malformedCases = []testCase{
	{name: "malformed/what is no module is named", run: testNotAModule},
	{name: "malformed/invalid modules", run: testInvalid},
	{name: "malformed/lengths beyond what is there", run: testAnnounced},
	{name: "malformed/cut at every byte", run: testTruncated},
	{name: "malformed/each byte changed", run: testCorrupted},
	{name: "malformed/compilation that is cancelled", run: testCompileCancelled},
}

func testInvalid(t *testing.T, e engines.WasmEngine) {
	for name, build := range map[string]func(*asm.Module){
		"result missing":        func(m *asm.Module) { m.Func("f", toI32, nil) },
		"result of wrong type":  func(m *asm.Module) { m.Func("f", toI32, asm.Code{}.I64Const(1)) },
		"unknown function":      func(m *asm.Module) { m.Func("f", toNothing, asm.Code{}.Call(7)) },
		"unknown local":         func(m *asm.Module) { m.Func("f", toI32, asm.Code{}.LocalGet(3)) },
		"unknown instruction":   func(m *asm.Module) { m.Func("f", toNothing, asm.Code{}.Op(0xff)) },
		"load without memory":   func(m *asm.Module) { m.Func("f", i32ToI32, asm.Code{}.LocalGet(0).I32Load(0)) },
		"export of nothing":     func(m *asm.Module) { m.Export("f", engines.KindFunc, 0) },
		"two exports, one name": func(m *asm.Module) { m.Func("f", toNothing, nil); m.Func("f", toNothing, nil) },
		"start of wrong type":   func(m *asm.Module) { m.Start(m.Func("", i32ToI32, asm.Code{}.LocalGet(0))) },
		"memory of 65537 pages": func(m *asm.Module) { m.Memory("m", 65537) },
		"set of a constant": func(m *asm.Module) {
			m.Global("g", engines.GlobalType{Value: i32}, asm.Code{}.I32Const(0))
			m.Func("f", toNothing, asm.Code{}.I32Const(1).GlobalSet(0))
		},
	} {
		m := new(asm.Module)
		build(m)
		mod, err := e.Compile(bg(), m.Bytes(), engines.CompileOptions{})
		if err == nil {
			closeAll(t, mod)
			t.Errorf("%s compiles", name)
			continue
		}
		wantAs[*engines.CompileError](t, err)
	}
}

// A few bytes that announce billions of items must not be believed: the
// process would end here for want of memory.
func testAnnounced(t *testing.T, e engines.WasmEngine) {
	const (
		header   = "\x00asm\x01\x00\x00\x00"
		billions = "\xff\xff\xff\xff\x0f"
		oneFunc  = "\x01\x04\x01\x60\x00\x00" + "\x03\x02\x01\x00" // of type () -> ()
	)
	for name, sections := range map[string]string{
		"types":           "\x01\x05" + billions,
		"imports":         "\x02\x05" + billions,
		"functions":       "\x03\x05" + billions,
		"exports":         "\x07\x05" + billions,
		"elements":        "\x09\x05" + billions,
		"functions there": "\x09\x0a\x01\x00\x41\x00\x0b" + billions,
		"bodies":          oneFunc + "\x0a\x05" + billions,
		"local variables": oneFunc + "\x0a\x0a\x01\x08\x01" + billions + "\x7f\x0b",
		"data":            "\x0b\x07\x01\x01" + billions,
		"names":           oneFunc + "\x0a\x04\x01\x02\x00\x0b" + "\x00\x0c\x04name\x01\x05" + billions,
	} {
		mod, err := e.Compile(bg(), []byte(header+sections), engines.CompileOptions{})
		if err == nil {
			closeAll(t, mod)
			t.Errorf("%s: it compiles", name)
			continue
		}
		wantAs[*engines.CompileError](t, err)
	}
}

// sample uses every section of the binary format that asm writes.
func sample() *asm.Module {
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", toNothing)
	m.Memory("memory", 1, 2)
	m.Table("table", 1)
	m.Global("g", mutI32, asm.Code{}.I32Const(1))
	f := m.Func("f", toI32, asm.Code{}.Call(host).I32Const(0).I32Load(0))
	start := m.Func("", toNothing, asm.Code{}.I32Const(0).I32Const(9).I32Store(0))
	m.Start(start)
	m.Elem(0, f)
	m.Data(4, "data")
	return m
}

// A module that is cut compiles only where a section ends and the rest was not
// needed; elsewhere it is an error, and nowhere anything worse.
func testTruncated(t *testing.T, e engines.WasmEngine) {
	wasm := sample().Bytes()
	ends := sectionEnds(wasm)
	for n := range wasm {
		mod, err := e.Compile(bg(), wasm[:n], engines.CompileOptions{})
		if err != nil {
			wantAs[*engines.CompileError](t, err)
			continue
		}
		closeAll(t, mod)
		if !ends[n] {
			t.Errorf("the first %d of %d bytes compile", n, len(wasm))
		}
	}
}

// sectionEnds are the offsets at which a section of a valid module ends; all
// of its sections are short, so that their sizes take one byte.
func sectionEnds(wasm []byte) map[int]bool {
	ends := make(map[int]bool)
	for i := 8; ; i += 2 + int(wasm[i+1]) {
		ends[i] = true
		if i >= len(wasm) {
			return ends
		}
	}
}

func testCorrupted(t *testing.T, e engines.WasmEngine) {
	noop := env(engines.HostFunction{
		Name: "f", Type: toNothing,
		Call: func(context.Context, engines.Caller, []uint64) error { return nil },
	})
	wasm := sample().Bytes()
	for i := range wasm {
		for _, b := range []byte{0x00, 0x7f, 0x80, 0xff} {
			bad := append([]byte(nil), wasm...)
			bad[i] = b
			mod, err := e.Compile(bg(), bad, engines.CompileOptions{})
			if err != nil {
				if _, unsupported := err.(*engines.UnsupportedError); !unsupported {
					wantAs[*engines.CompileError](t, err)
				}
				continue
			}
			if inst, err := mod.Instantiate(bg(), noop); err == nil {
				closeAll(t, inst)
			}
			closeAll(t, mod)
		}
	}
}

func testCompileCancelled(t *testing.T, e engines.WasmEngine) {
	ctx, cancel := context.WithCancel(bg())
	cancel()
	_, err := e.Compile(ctx, sample().Bytes(), engines.CompileOptions{})
	wantIs(t, err, context.Canceled)
}
