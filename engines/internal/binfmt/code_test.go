package binfmt_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/wazero"
)

// filling rewrites what it compiles.
type filling struct {
	engines.WasmEngine
	t     testing.TB
	count *int // of modules that are changed
}

func (e filling) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	m, err := e.WasmEngine.Compile(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	// What is valid is read to its end, and rewritten.
	out, err := binfmt.Rewrite(wasm, binfmt.Edit{FillFrom: 1})
	if err != nil {
		e.t.Errorf("Rewrite of a valid module: %v", err)
	}
	if bytes.Equal(out, wasm) {
		return m, nil
	}
	*e.count++
	if err := m.Close(); err != nil {
		return nil, err
	}
	return e.WasmEngine.Compile(ctx, out, opts)
}

// The vectors of the core specification hold when table.set is written as
// table.fill.
func TestFillFromKeepsTheSpec(t *testing.T) {
	count := 0
	t.Cleanup(func() {
		if count == 0 {
			t.Error("no module of the vectors was changed")
		}
	})
	spec.Test(t, func(t testing.TB) engines.WasmEngine {
		e, err := wazero.New()
		if err != nil {
			t.Fatal(err)
		}
		return filling{WasmEngine: e, t: t, count: &count}
	}, "plain")
}

func TestFillFrom(t *testing.T) {
	body := func(code asm.Code) []byte {
		m := new(asm.Module)
		m.ImportTable("lib", "table", 1)
		m.Table("", 1)
		m.Func("", asm.Func(nil, nil), code, engines.I64, engines.V128)
		return m.Bytes()
	}
	set := func(table byte) asm.Code { return asm.Code{}.I32Const(0).RefNull(engines.FuncRef).Op(0x26, table) }
	fill := func(table byte) asm.Code {
		return asm.Code{}.I32Const(0).RefNull(engines.FuncRef).I32Const(1).Op(0xfc, 17, table)
	}
	around := func(code asm.Code) asm.Code {
		return append(append(asm.Code{}.I64Const(0x26).Op(asm.Drop), code...), asm.Code{}.F32Const(1).Op(asm.Drop)...)
	}
	for _, c := range []struct{ in, want asm.Code }{
		{set(0), set(0)},
		{set(1), fill(1)},
		{around(set(1)), around(fill(1))},
		{append(set(1), set(1)...), append(fill(1), fill(1)...)},
		{append(set(0), set(1)...), append(set(0), fill(1)...)},
		{asm.Code{}.I32Const(0x26), asm.Code{}.I32Const(0x26)},
	} {
		got, err := binfmt.Rewrite(body(c.in), binfmt.Edit{FillFrom: 1})
		if err != nil || !bytes.Equal(got, body(c.want)) {
			t.Errorf("%x: %x, %v\nwant %x", c.in, got, err, body(c.want))
		}
	}
	for _, c := range []struct {
		code asm.Code
		want string
	}{
		{asm.Code{}.Op(0xfe, 0), "instruction 0xfe is not part"},
		{asm.Code{}.Op(0x12, 0), "instruction 0x12 is not part"},
		{asm.Code{}.Op(0xfc, 18), "instruction 0xfc 18 is not part"},
		{asm.Code{}.Op(0xfd, 0x80, 2), "instruction 0xfd 256 is not part"},
		{asm.Code{}.Op(0x44, 0), "unexpected end"},
		{asm.Code{}.Op(0x0e, 100), "items are announced"},
	} {
		if _, err := binfmt.Rewrite(body(c.code), binfmt.Edit{FillFrom: 1}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%x: %v, want %q", c.code, err, c.want)
		}
	}
}
