package forge_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var (
	i32        = engines.I32
	event      = asm.Func(nil, asm.Types(i32))
	function   = asm.Func(asm.Types(i32), asm.Types(i32))
	importType = map[string]engines.FuncType{
		"input":   asm.Func(asm.Types(i32, i32), asm.Types(i32)),
		"output":  asm.Func(asm.Types(i32, i32), nil),
		"fail":    asm.Func(asm.Types(i32, i32, i32), nil),
		"syscall": asm.Func(asm.Types(i32, i32, i32, i32, i32, i32), asm.Types(engines.I64)),
		"result":  asm.Func(asm.Types(i32, i32), asm.Types(i32)),
	}
)

// answering is a guest whose forge_abi answers v.
func answering(v int32) []byte {
	var m asm.Module
	m.Memory("memory", 1)
	m.Func("forge_abi", function, asm.Code(nil).I32Const(v))
	return m.Bytes()
}

func TestVersions(t *testing.T) {
	e := newEngine(t)
	for _, tc := range []struct {
		answer uint32
		want   string // "" if they agree
	}{
		{0x0001_0000, ""},
		{0, "speaks forge/1.0, the guest refused it"},
		{0x0001_0001, "speaks forge/1.0, the guest answered forge/1.1"},
		{0x0002_0000, "speaks forge/1.0, the guest answered forge/2.0"},
		{0x0000_ffff, "speaks forge/1.0, the guest answered forge/0.65535"},
		{0xffff_ffff, "speaks forge/1.0, the guest answered forge/65535.65535"},
	} {
		w := newWorld(t)
		m := compile(t, e, answering(int32(tc.answer)))
		b, err := forge.New(m)
		if err != nil {
			t.Fatal(err)
		}
		inst, err := b.Instantiate(w.begin(t), m)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%#x: %v", tc.answer, err)
			} else if err := inst.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		var ae *forge.ABIError
		if !errors.As(err, &ae) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%#x: got %v, want %q", tc.answer, err, tc.want)
		}
	}
}

func TestCheckNamesEveryProblem(t *testing.T) {
	e := newEngine(t)
	var all asm.Module
	all.ImportFunc("forge", "syscal", function)
	all.ImportFunc("forge", "input", event)
	all.ImportFunc("env", "abort", event)
	all.ImportFunc(wasi.ModuleName, "fd_write", event)
	all.ImportGlobal("forge", "output", engines.GlobalType{Value: i32})
	for _, name := range []string{"forge_abi", "forge_init"} {
		all.Func(name, asm.Func(nil, nil), nil)
	}
	all.Func("_initialize", event, asm.Code(nil).I32Const(0))
	all.Global("forge_stop", engines.GlobalType{Value: i32}, asm.Code(nil).I32Const(0))

	var command asm.Module
	command.ImportFunc("forge", "output", importType["output"])
	command.Func("_start", asm.Func(nil, nil), nil)
	command.Global("memory", engines.GlobalType{Value: i32}, asm.Code(nil).I32Const(0))

	for _, tc := range []struct {
		wasm []byte
		want []string
	}{
		{all.Bytes(), []string{
			`it must export its memory as "memory"`,
			`export "_initialize" is a func () -> (i32), it must be a func () -> ()`,
			`export "forge_abi" is a func () -> (), it must be a func (i32) -> (i32)`,
			`export "forge_init" is a func () -> (), it must be a func () -> (i32)`,
			`export "forge_stop" is a global, it must be a func () -> (i32)`,
			`it imports forge.syscal, which does not exist`,
			`it imports forge.input as a func () -> (i32), it is a func (i32, i32) -> (i32)`,
			`it imports env.abort, but a guest may import from "forge" and "wasi_snapshot_preview1" alone`,
			`it imports wasi_snapshot_preview1.fd_write as a func () -> (i32), it is a func (i32, i32, i32, i32) -> (i32)`,
			`it imports forge.output as a global, it is a func (i32, i32) -> ()`,
		}},
		{command.Bytes(), []string{
			`export "memory" is a global, it must be the memory`,
			`it must export "forge_abi", a func (i32) -> (i32)`,
			`it exports "_start" without "_initialize": it is a command; build a reactor (Go: -buildmode=c-shared)`,
		}},
	} {
		m := compile(t, e, tc.wasm)
		if !forge.Detect(m) {
			t.Error("not detected")
		}
		_, err := forge.New(m)
		var ae *forge.ABIError
		if !errors.As(err, &ae) {
			t.Fatalf("got %v", err)
		}
		if !slices.Equal(ae.Problems, tc.want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(ae.Problems, "\n"), strings.Join(tc.want, "\n"))
		}
	}

	var plain asm.Module
	plain.Func("add", function, asm.Code(nil).LocalGet(0))
	if forge.Detect(compile(t, e, plain.Bytes())) {
		t.Error("a module of no ABI is detected")
	}
}

func TestFunctionsAreByTypeAndName(t *testing.T) {
	var m asm.Module
	m.Memory("memory", 1)
	zero := asm.Code(nil).I32Const(0)
	for _, name := range []string{"zebra", "forge_abi", "forge_later", "_private", "forge", "ant"} {
		m.Func(name, function, zero)
	}
	m.Func("constant", event, zero)
	if got := forge.Functions(compile(t, newEngine(t), m.Bytes())); !slices.Equal(got, []string{"ant", "forge", "zebra"}) {
		t.Errorf("got %v", got)
	}
}

// Where a puppet keeps things.
const (
	argsAt   = 0    // its input: the arguments of the import, then free bytes
	bytesAt  = 24   // the free bytes
	resultAt = 4096 // the result of the import
	bufferAt = 4104 // room for what the import writes
	seen     = 256  // bytes from resultAt on that it outputs
)

// puppet is a guest that exports, for each import of forge/1, a function that
// calls it with arguments from the input and outputs what came of it.
func puppet() []byte {
	var m asm.Module
	imports := map[string]uint32{}
	for _, name := range []string{"input", "output", "fail", "syscall", "result"} {
		imports[name] = m.ImportFunc(forge.ModuleName, name, importType[name])
	}
	m.Memory("memory", 1)
	m.Func("forge_abi", function, asm.Code(nil).I32Const(int32(forge.Version)))
	for name, index := range imports {
		body := asm.Code(nil).I32Const(argsAt).I32Const(resultAt).Call(imports["input"]).Op(asm.Drop)
		results := importType[name].Results
		if results != nil {
			body = body.I32Const(resultAt)
		}
		for i := range importType[name].Params {
			body = body.I32Const(argsAt).I32Load(uint32(4 * i))
		}
		body = body.Call(index)
		if results != nil {
			if results[0] == engines.I64 {
				body = append(body, 0x37, 3, 0) // i64.store
			} else {
				body = body.I32Store(0)
			}
			body = body.I32Const(resultAt).I32Const(seen).Call(imports["output"])
		}
		m.Func(name, function, body.I32Const(0))
	}
	return m.Bytes()
}

// pull is the input that makes a puppet call an import.
func pull(bytes string, args ...uint32) string {
	b := make([]byte, bytesAt)
	for i, a := range args {
		binary.LittleEndian.PutUint32(b[4*i:], a)
	}
	return string(b) + bytes
}

// request is a syscall request without arguments.
func request(name string) string {
	return string(binary.LittleEndian.AppendUint16(nil, uint16(len(name)))) + name + strings.Repeat("\x00", 10)
}

const pages = 65536 // bytes of a puppet's memory

func TestImportsCheckTheirPointers(t *testing.T) {
	e := newEngine(t)
	m := compile(t, e, puppet())
	w := newWorld(t, "test_echo")
	req := request("test_echo")
	n := uint32(len(req))
	for _, tc := range []struct {
		name, function, bytes string
		args                  []uint32
		want                  string // "" for success
	}{
		{"empty input at the end", "input", "", []uint32{pages, 0}, ""},
		{"empty input beyond the end", "input", "", []uint32{pages + 1, 0}, "out of bounds"},
		{"input across the end", "input", "", []uint32{pages - 1, 24}, "24 bytes at 0xffff are out of bounds: the memory has 65536 bytes"},
		{"input wrapping around", "input", "", []uint32{0xffff_ffff, 0xffff_ffff}, "out of bounds"},
		{"output to the end", "output", "", []uint32{0, pages}, ""},
		{"output beyond the end", "output", "", []uint32{1, pages}, "out of bounds"},
		{"output wrapping around", "output", "", []uint32{0xffff_ffff, 2}, "out of bounds"},
		{"output above the limit", "output", "", []uint32{0, forge.MaxOutput + 1}, "output of 67108865 bytes is above the limit of 67108864"},
		{"output of all there could be", "output", "", []uint32{0, 0xffff_ffff}, "above the limit"},
		{"message beyond the end", "fail", "", []uint32{1, pages, 1}, "out of bounds"},
		{"result beyond the end", "result", "", []uint32{pages + 1, 10}, "out of bounds"},
		{"request", "syscall", req, []uint32{bytesAt, n, pages, 0, bufferAt, 100}, ""},
		{"request beyond the end", "syscall", req, []uint32{pages - 1, n, 0, 0, 0, 0}, "request: "},
		{"request above the limit", "syscall", req, []uint32{0, forge.MaxRequest + 1, 0, 0, 0, 0}, "syscall request of 65537 bytes is above the limit"},
		{"request malformed", "syscall", req, []uint32{bytesAt, n + 1, 0, 0, 0, 0}, "malformed request"},
		{"empty request", "syscall", req, []uint32{bytesAt, 0, 0, 0, 0, 0}, "malformed request"},
		{"payload beyond the end", "syscall", req, []uint32{bytesAt, n, 1, pages, 0, 0}, "payload: "},
		{"payload above the limit", "syscall", req, []uint32{bytesAt, n, 0, forge.MaxPayload + 1, 0, 0}, "syscall payload of 16777217 bytes is above the limit"},
		{"buffer beyond the end, result fits", "syscall", req, []uint32{bytesAt, n, 0, 0, pages - 1, 100}, "result: 8 bytes at 0xffff are out of bounds"},
		{"buffer beyond the end, result does not fit", "syscall", req, []uint32{bytesAt, n, 0, 0, 0xffff_ffff, 7}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := start(t, w, m)
			_, err := g.binding.Call(g.call, g.inst, tc.function, []byte(pull(tc.bytes, tc.args...)))
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var he *engines.HostError
			if !errors.As(err, &he) || he.Module != "forge" || he.Name != tc.function || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q of forge.%s", err, tc.want, tc.function)
			}
		})
	}
}

// FuzzPointers holds that no arguments of an import make the host panic.
func FuzzPointers(f *testing.F) {
	w := newWorld(f, "test_echo", "test_fail")
	m := compile(f, newEngine(f), puppet())
	b, err := forge.New(m)
	if err != nil {
		f.Fatal(err)
	}
	names := b.Functions()
	call := w.begin(f)
	for i := range names {
		f.Add(byte(i), uint32(0), uint32(0xffff_ffff), uint32(pages), uint32(1), uint32(0x7fff_ffff), uint32(0x8000_0000), request("test_fail"))
		f.Add(byte(i), uint32(bytesAt), uint32(21), uint32(pages-1), uint32(1), uint32(pages-4), uint32(64), request("test_echo"))
	}
	f.Fuzz(func(t *testing.T, name byte, a0, a1, a2, a3, a4, a5 uint32, bytes string) {
		inst, err := b.Instantiate(call, m)
		if err != nil {
			t.Fatal(err)
		}
		defer inst.Close()
		_, err = b.Call(call, inst, names[int(name)%len(names)], []byte(pull(bytes, a0, a1, a2, a3, a4, a5)))
		if err != nil && strings.Contains(err.Error(), "panic") {
			t.Error(err)
		}
	})
}

func TestResultIsFetchedWhenItDoesNotFit(t *testing.T) {
	w := newWorld(t, "test_echo")
	m := compile(t, newEngine(t), puppet())
	req := request("test_echo")
	payload := "0123456789" // with the handle of 8 bytes the result has 18
	at := uint32(bytesAt + len(req))
	for _, room := range []uint32{0, 17, 18, 100} {
		g := start(t, w, m)
		out := g.run("syscall", pull(req+payload, bytesAt, uint32(len(req)), at, 10, bufferAt, room))
		if status, n := binary.LittleEndian.Uint32([]byte(out[4:])), binary.LittleEndian.Uint32([]byte(out)); status != 0 || n != 18 {
			t.Fatalf("room for %d: got status %d and length %d", room, status, n)
		}
		if written := strings.Contains(out, payload); written != (room >= 18) {
			t.Errorf("room for %d: written: %v", room, written)
		}
	}
}

// TestFailAndStatus says when a function has failed: when it returns another
// status than 0, and when it said so whatever it returns.
func TestFailAndStatus(t *testing.T) {
	e := newEngine(t)
	for _, tc := range []struct {
		status int32
		fail   bool
		code   int32
		want   string // the message; the function succeeds if it is ""
	}{
		{0, false, 0, ""},
		{3, false, 3, "it gave no reason (code 3)"},
		{-1, false, -1, "it gave no reason (code -1)"},
		{0, true, 42, "why (code 42)"},
		{1, true, 42, "why (code 42)"},
	} {
		var m asm.Module
		fail := m.ImportFunc(forge.ModuleName, "fail", importType["fail"])
		output := m.ImportFunc(forge.ModuleName, "output", importType["output"])
		m.Memory("memory", 1)
		m.Data(0, "firstwhylast")
		m.Func("forge_abi", function, asm.Code(nil).I32Const(int32(forge.Version)))
		body := asm.Code(nil).I32Const(0).I32Const(5).Call(output)
		if tc.fail {
			body = body.I32Const(42).I32Const(5).I32Const(3).Call(fail)
		}
		m.Func("f", function, body.I32Const(8).I32Const(4).Call(output).I32Const(tc.status))

		g := start(t, newWorld(t), compile(t, e, m.Bytes()))
		out, err := g.binding.Call(g.call, g.inst, "f", nil)
		if tc.want == "" {
			if err != nil || string(out) != "last" {
				t.Errorf("status %d: got %q, %v", tc.status, out, err)
			}
			continue
		}
		var fe *forge.FunctionError
		if out != nil || !errors.As(err, &fe) || fe.Code != tc.code || err.Error() != fmt.Sprintf(`function "f" failed: %s`, tc.want) {
			t.Errorf("status %d, fail %v: got %q, %v", tc.status, tc.fail, out, err)
		}
	}
}

// TestStartFunctionMayAsk runs a module whose start function makes a syscall:
// it is one of the call that the instance is made for.
func TestStartFunctionMayAsk(t *testing.T) {
	var m asm.Module
	syscall := m.ImportFunc(forge.ModuleName, "syscall", importType["syscall"])
	m.Memory("memory", 1)
	m.Data(0, request("test_echo"))
	m.Func("forge_abi", function, asm.Code(nil).I32Const(int32(forge.Version)))
	body := asm.Code(nil).I32Const(0).I32Const(int32(len(request("test_echo"))))
	m.Start(m.Func("", asm.Func(nil, nil), body.I32Const(0).I32Const(0).I32Const(0).I32Const(0).Call(syscall).Op(asm.Drop)))
	module := compile(t, newEngine(t), m.Bytes())

	w := newWorld(t, "test_echo")
	start(t, w, module)
	if n := w.effects.Load(); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}

	b, err := forge.New(module)
	if err != nil {
		t.Fatal(err)
	}
	_, err = module.Instantiate(context.Background(), engines.Imports{Host: b.HostModules()})
	if err == nil || !strings.Contains(err.Error(), "only while it serves a call") {
		t.Errorf("outside of a call: got %v", err)
	}
}

// TestReseed: the guest is given other entropy each time, and may refuse it.
func TestReseed(t *testing.T) {
	var m asm.Module
	input, output := m.ImportFunc("forge", "input", importType["input"]), m.ImportFunc("forge", "output", importType["output"])
	m.Memory("memory", 1)
	status := m.Global("", engines.GlobalType{Value: i32, Mutable: true}, asm.Code(nil).I32Const(0))
	m.Func("forge_abi", function, asm.Code(nil).I32Const(int32(forge.Version)))
	m.Func("forge_reseed", function, asm.Code(nil).I32Const(64).LocalGet(0).Call(input).Op(asm.Drop).GlobalGet(status))
	m.Func("seed", function, asm.Code(nil).I32Const(64).I32Const(forge.SeedSize).Call(output).I32Const(0))
	m.Func("refuse", function, asm.Code(nil).I32Const(9).GlobalSet(status).I32Const(0))
	g := start(t, newWorld(t), compile(t, newEngine(t), m.Bytes()))
	if n := len(g.binding.Functions()); n != 2 {
		t.Errorf("functions %v", g.binding.Functions())
	}
	seeds := map[string]bool{g.run("seed", ""): true} // none yet
	for range 3 {
		if err := g.binding.Reseed(g.call, g.inst); err != nil {
			t.Fatal(err)
		}
		seed := g.run("seed", "")
		if seeds[seed] {
			t.Errorf("seed %x again", seed)
		}
		seeds[seed] = true
	}
	g.run("refuse", "")
	var failed *forge.FunctionError
	if err := g.binding.Reseed(g.call, g.inst); !errors.As(err, &failed) || failed.Code != 9 || failed.Function != "forge_reseed" {
		t.Errorf("refused: %v", err)
	}
	without := start(t, newWorld(t), compile(t, newEngine(t), answering(int32(forge.Version))))
	if err := without.binding.Reseed(without.call, without.inst); err != nil {
		t.Errorf("without the function: %v", err)
	}
}
