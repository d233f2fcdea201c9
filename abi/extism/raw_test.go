package extism_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi/extism"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// guest builds plugins.
type guest struct {
	asm.Module
	imports map[string]uint32
}

// newGuest begins a plugin that imports functions of the ABI, each as
// "name:parameters>results".
func newGuest(imports ...string) *guest {
	g := &guest{imports: map[string]uint32{}}
	for _, f := range imports {
		name, types, _ := strings.Cut(f, ":")
		params, results, _ := strings.Cut(types, ">")
		g.imports[name] = g.ImportFunc(extism.ModuleName, name, sig(params, results))
	}
	return g
}

func (g *guest) call(name string) asm.Code { return call(g.imports[name]) }

// text is a block with a text, written byte by byte, in the local.
func (g *guest) text(local uint32, s string) asm.Code {
	c := seq(i64c(int64(len(s))), g.call("alloc"), set(local))
	for i, b := range []byte(s) {
		c = seq(c, get(local), i64c(int64(i)), op(asm.I64Add), i32c(int32(b)), g.call("store_u8"))
	}
	return c
}

// output is an instruction that outputs the block in the local.
func (g *guest) output(local uint32) asm.Code {
	return seq(get(local), get(local), g.call("length"), g.call("output_set"))
}

// blocks are the imports that text and output use.
var blocks = []string{"alloc:I>I", "store_u8:Ii>", "length:I>I", "output_set:II>"}

// echo is a plugin that exports a function "echo", which copies its input to its
// output word by word and byte by byte.
func echo() []byte {
	g := newGuest("alloc:I>I", "store_u8:Ii>", "store_u64:II>", "input_length:>I", "input_load_u8:I>i", "input_load_u64:I>I", "output_set:II>")
	const n, p, i = 0, 1, 2
	step := func(size int64, load, store string) asm.Code {
		return block(asm.Code(nil).Loop(),
			get(i), i64c(size), op(asm.I64Add), get(n), op(i64GtU), leaveIf(1),
			get(p), get(i), op(asm.I64Add), get(i), g.call(load), g.call(store),
			get(i), i64c(size), op(asm.I64Add), set(i), asm.Code(nil).Br(0), asm.Code(nil).End())
	}
	g.Func("echo", sig("", "i"), seq(
		g.call("input_length"), tee(n), g.call("alloc"), set(p),
		step(8, "input_load_u64", "store_u64"), step(1, "input_load_u8", "store_u8"),
		get(p), get(n), g.call("output_set"), i32c(0)), engines.I64, engines.I64, engines.I64)
	return g.Bytes()
}

func TestInputAndOutput(t *testing.T) {
	for name, engine := range allEngines() {
		t.Run(name, func(t *testing.T) { testInputAndOutput(t, engine(t)) })
	}
}

func testInputAndOutput(t *testing.T, e engines.WasmEngine) {
	p := start(t, newWorld(t), e, echo(), extism.Config{})
	if f := p.binding.Functions(); !slices.Equal(f, []string{"echo"}) {
		t.Errorf("functions %v", f)
	}
	for _, n := range []int{0, 1, 7, 8, 9, 40, 41, 63 << 10, 1 << 20, 3} {
		in := strings.Repeat("é0123456789", n/12+1)[:n]
		if out := p.run("echo", in); out != in {
			t.Errorf("%d bytes: got %d others", n, len(out))
		}
	}
}

func TestLimits(t *testing.T) {
	p := start(t, newWorld(t), newEngine(t), echo(), extism.Config{})
	for n, want := range map[int]string{
		extism.MaxInput + 1: "above the limit of 67108864",
		5 << 20:             "input of 5242880 bytes is above the limit", // of 4 MiB of memory
	} {
		_, err := p.binding.Call(p.call, p.inst, "echo", make([]byte, n))
		if _, ok := errors.AsType[*extism.LimitError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v, want %q", n, err, want)
		}
	}
	if out := p.run("echo", "x"); out != "x" {
		t.Errorf("after that: %q", out)
	}
	_, err := p.binding.Call(p.call, p.inst, "ohce", nil)
	if _, ok := errors.AsType[*extism.ABIError](err); !ok || !strings.Contains(err.Error(), "functions: echo") {
		t.Errorf("no function: %v", err)
	}
}

// TestFailure says when a function has failed: when it returns another status
// than 0, and when it said so whatever it returns.
func TestFailure(t *testing.T) {
	g := newGuest(append(blocks, "error_set:I>", "error_get:>I")...)
	for status := range int32(2) {
		g.Func(fmt.Sprint("returns", status), sig("", "i"), i32c(status))
		g.Func(fmt.Sprint("says", status), sig("", "i"), seq(g.text(0, "wh\x1by"), get(0), g.call("error_set"), i32c(status)), engines.I64)
		g.Func(fmt.Sprint("takesback", status), sig("", "i"), seq(g.text(0, "why"), get(0), g.call("error_set"), i64c(0), g.call("error_set"), i32c(status)), engines.I64)
	}
	g.Func("nothing", sig("", ""), nil)
	g.Func("wide", sig("", "I"), i64c(3))
	g.Func("beyond", sig("", ""), seq(i64c(1<<40), g.call("error_set")))
	g.Func("freed", sig("", ""), seq(i64c(arena+pad+header), g.call("error_set")))
	p := start(t, newWorld(t), newEngine(t), g.Bytes(), extism.Config{})
	for f, want := range map[string]string{
		"returns0": "", "takesback0": "", "nothing": "", "beyond": "",
		"returns1":   `function "returns1" failed: it gave no reason (code 1)`,
		"takesback1": `function "takesback1" failed: it gave no reason (code 1)`,
		"says0":      `function "says0" failed: "wh\x1by" (code 0)`,
		"says1":      `function "says1" failed: "wh\x1by" (code 1)`,
		"wide":       `function "wide" failed: it gave no reason (code 3)`,
	} {
		if want == "" {
			p.run(f, "")
		} else if err := p.fails(f, ""); err.Error() != want {
			t.Errorf("%s: %v, want %s", f, err, want)
		}
	}
}

func TestConfigAndVariables(t *testing.T) {
	g := newGuest(append(blocks, "config_get:I>I", "var_get:I>I", "var_set:II>")...)
	g.Func("config", sig("", ""), seq(g.text(0, "lang"), get(0), g.call("config_get"), set(0), g.output(0)), engines.I64)
	g.Func("missing", sig("", "i"), seq(g.text(0, "lan"), get(0), g.call("config_get"), op(i64Eqz, asm.I32Eqz)), engines.I64)
	g.Func("get", sig("", ""), seq(g.text(0, "v"), get(0), g.call("var_get"), set(0), g.output(0)), engines.I64)
	g.Func("set", sig("", ""), seq(g.text(0, "v"), g.text(1, "value"), get(0), get(1), g.call("var_set")), engines.I64, engines.I64)
	g.Func("unset", sig("", ""), seq(g.text(0, "v"), get(0), i64c(0), g.call("var_set")), engines.I64)
	g.Func("fill", sig("", ""), seq(g.text(0, "v"), get(0), i64c(extism.MaxVars), g.call("alloc"), g.call("var_set")), engines.I64)
	p := start(t, newWorld(t), newEngine(t), g.Bytes(), extism.Config{Values: map[string]string{"lang": "en"}})
	p.run("missing", "")
	for _, step := range []struct{ function, want string }{
		{"config", "en"}, {"get", ""}, {"set", ""}, {"get", "value"}, {"set", ""}, {"unset", ""}, {"get", ""}, {"unset", ""}, {"set", ""},
	} {
		if out := p.run(step.function, ""); out != step.want {
			t.Errorf("%s: %q, want %q", step.function, out, step.want)
		}
	}
	if err := p.fails("fill", ""); !strings.Contains(err.Message, "above the limit of 1048576") {
		t.Errorf("too much: %v", err)
	}
	if out := p.run("get", ""); out != "value" {
		t.Errorf("after that: %q", out)
	}
	if out := start(t, newWorld(t), newEngine(t), g.Bytes(), extism.Config{}).run("get", ""); out != "" {
		t.Errorf("another instance has %q", out)
	}
}

func TestLog(t *testing.T) {
	g := newGuest(append(blocks, "get_log_level:>i", "log_trace:I>", "log_debug:I>", "log_info:I>", "log_warn:I>", "log_error:I>")...)
	var all asm.Code
	for _, level := range []string{"trace", "debug", "info", "warn", "error"} {
		all = seq(all, g.text(0, "about "+level), get(0), g.call("log_"+level))
	}
	g.Func("log", sig("", ""), all, engines.I64)
	g.Func("level", sig("", "i"), g.call("get_log_level"))
	w := newWorld(t, "log_write")
	p := start(t, w, newEngine(t), g.Bytes(), extism.Config{})
	p.run("log", "")
	p.run("level", "")
	want := []string{"log_write trace about trace", "log_write debug about debug", "log_write info about info", "log_write warn about warn", "log_write error about error"}
	if got := w.effects(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}

	mute := newWorld(t)
	p = start(t, mute, newEngine(t), g.Bytes(), extism.Config{})
	p.run("log", "")
	if err := p.fails("level", ""); err.Code != math.MaxInt32 {
		t.Errorf("level without a grant: %v", err)
	}
	if got := mute.effects(); len(got) > 0 {
		t.Errorf("without a grant: %q", got)
	}
}

func TestHTTP(t *testing.T) {
	g := newGuest(append(blocks, "http_request:II>I", "http_status_code:>i", "http_headers:>I")...)
	// Each function makes one request, and outputs what was asked for of the response.
	request := func(name, request, body string, answer asm.Code) {
		send := seq(g.text(0, request), i64c(0), set(1))
		if body != "" {
			send = seq(send, g.text(1, body))
		}
		g.Func(name, sig("", "i"), seq(send, get(0), get(1), g.call("http_request"), set(0), answer), engines.I64, engines.I64)
	}
	ok := i32c(0)
	request("body", `{"url":"http://a.example/","headers":{"x-y":"z"}}`, "sent", seq(g.output(0), ok))
	request("headers", `{"url":"http://a.example/","method":"head"}`, "", seq(g.call("http_headers"), set(0), g.output(0), ok))
	request("status", `{"url":"http://a.example/"}`, "", g.call("http_status_code"))
	request("down", `{"url":"http://down.example/"}`, "", ok)
	request("moved", `{"url":"http://moved.example/#f","method":"post","headers":{"Authorization":"a","content-type":"b","host":"c","x":" d "}}`, "sent", seq(g.output(0), ok))
	request("round", `{"url":"http://round.example/"}`, "", ok)
	request("lost", `{"url":"http://lost.example/"}`, "", ok)
	request("broken", `{"url":"http://broken.example/"}`, "", ok)
	request("malformed", `GET /`, "", ok)
	g.Func("none", sig("", "i"), seq(g.call("http_headers"), op(asm.I32WrapI64), g.call("http_status_code"), op(i32Or)))

	w := newWorld(t, "http_request")
	p := start(t, w, newEngine(t), g.Bytes(), extism.Config{})
	if out := p.run("body", ""); out != "the body\nof it" {
		t.Errorf("body %q", out)
	}
	p.run("none", "") // of the call before
	if out := p.run("headers", ""); out != `{"empty":"","x-a":"1,2"}` {
		t.Errorf("headers %q", out)
	}
	if err := p.fails("status", ""); err.Code != 203 {
		t.Errorf("status %v", err)
	}
	want := []string{
		`http_request GET http://a.example/ <{"headers":{"X-Y":["z"]}}` + "\nsent>",
		`http_request HEAD http://a.example/ <{}` + "\n>",
		`http_request GET http://a.example/ <{}` + "\n>",
		`http_request POST http://moved.example/ <{"headers":{"Authorization":["a"],"Content-Type":["b"],"X":["d"]}}` + "\nsent>",
		`http_request GET http://moved.example/there <{"headers":{"Authorization":["a"],"X":["d"]}}` + "\n>",
		`http_request GET https://a.example/?q <{"headers":{"X":["d"]}}` + "\n>",
	}
	if out := p.run("moved", ""); out != "the body\nof it" {
		t.Errorf("moved %q", out)
	}
	if got := w.effects(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	for f, want := range map[string]string{"round": "after 10 redirects", "lost": "missing protocol scheme", "down": "no such host", "malformed": "no JSON object"} {
		if err := p.fails(f, ""); !strings.Contains(err.Message, want) || err.Function != f {
			t.Errorf("%s: %v", f, err)
		}
	}
	if _, err := p.binding.Call(p.call, p.inst, "broken", nil); err == nil || !strings.Contains(err.Error(), "head of the response") {
		t.Errorf("broken: %v", err)
	}

	denied := start(t, newWorld(t), newEngine(t), g.Bytes(), extism.Config{})
	for range 2 {
		if err := denied.fails("body", ""); !strings.Contains(err.Message, "http_request: blocked: ") {
			t.Errorf("denied: %v", err)
		}
	}
}

// TestExit: a plugin that exited, or ran as a command, is made anew.
func TestExit(t *testing.T) {
	var m asm.Module
	alloc := m.ImportFunc(extism.ModuleName, "alloc", sig("I", "I"))
	procExit := m.ImportFunc(wasi.ModuleName, "proc_exit", sig("i", ""))
	n := m.Global("", engines.GlobalType{Value: engines.I32, Mutable: true}, i32c(0))
	m.Memory("memory", 1)
	count := seq(global(n), i32c(1), op(asm.I32Add), setGlobal(n))
	m.Func("count", sig("", "i"), seq(i64c(1), call(alloc), op(asm.Drop), count, global(n)))
	m.Func("leave", sig("", ""), seq(count, i32c(0), call(procExit)))
	m.Func("leave7", sig("", "i"), seq(count, i32c(7), call(procExit), i32c(0)))
	m.Func("_start", sig("", ""), count)
	p := start(t, newWorld(t), newEngine(t), m.Bytes(), extism.Config{})
	want := func(step string, code int32) {
		t.Helper()
		if err := p.fails(step, ""); err.Code != code {
			t.Errorf("%s: %v, want code %d", step, err, code)
		}
	}
	want("count", 1)
	want("count", 2)
	p.run("leave", "")
	want("count", 1) // of a new one
	want("leave7", 7)
	want("count", 1)
	p.run("_start", "")
	want("count", 1)
	if f := p.binding.Functions(); !slices.Equal(f, []string{"_start", "count", "leave", "leave7"}) {
		t.Errorf("functions %v", f)
	}
}

// TestInitialisation: what is called before the first function, by what a plugin
// exports.
func TestInitialisation(t *testing.T) {
	haskell := sig("ii", "")
	for _, tc := range []struct {
		exports []string
		want    int32
	}{
		{nil, 0},
		{[]string{"__wasm_call_ctors"}, 3},
		{[]string{"_initialize", "__wasm_call_ctors"}, 2},
		{[]string{"hs_init", "__wasm_call_ctors"}, 1},
		{[]string{"_initialize", "hs_init"}, 21},
	} {
		var m asm.Module
		m.ImportFunc(extism.ModuleName, "alloc", sig("I", "I"))
		ran := m.Global("", engines.GlobalType{Value: engines.I32, Mutable: true}, i32c(0))
		note := func(digit int32) asm.Code {
			return seq(global(ran), i32c(10), op(asm.I32Mul), i32c(digit), op(asm.I32Add), setGlobal(ran))
		}
		for _, name := range tc.exports {
			switch name {
			case "hs_init":
				m.Func(name, haskell, seq(note(1), get(0), get(1), op(i32Or), when(op(asm.Unreachable))))
			case "_initialize":
				m.Func(name, sig("", ""), note(2))
			default:
				m.Func(name, sig("", ""), note(3))
			}
		}
		m.Func("ran", sig("", "i"), global(ran))
		p := start(t, newWorld(t), newEngine(t), m.Bytes(), extism.Config{})
		for range 2 { // but once
			if tc.want == 0 {
				p.run("ran", "")
			} else if err := p.fails("ran", ""); err.Code != tc.want {
				t.Errorf("%v: ran %d, want %d", tc.exports, err.Code, tc.want)
			}
		}
	}
}

func TestTrapAndDeadline(t *testing.T) {
	var m asm.Module
	m.ImportFunc(extism.ModuleName, "alloc", sig("I", "I"))
	m.Func("trap", sig("", ""), op(asm.Unreachable))
	m.Func("_initialize", sig("", ""), nil)
	p := start(t, newWorld(t), newEngine(t), m.Bytes(), extism.Config{})
	_, err := p.binding.Call(p.call, p.inst, "trap", nil)
	if trap, ok := errors.AsType[*engines.Trap](err); !ok || trap.Class != engines.TrapUnreachable {
		t.Errorf("got %v", err)
	}

	var bad asm.Module
	bad.ImportFunc(extism.ModuleName, "alloc", sig("I", "I"))
	bad.Func("_initialize", sig("", ""), op(asm.Unreachable))
	e := newEngine(t)
	b, err := extism.New(context.Background(), e, options, compile(t, e, bad.Bytes()), extism.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Instantiate(newWorld(t).begin(t)); err == nil || !strings.Contains(err.Error(), "_initialize") {
		t.Errorf("a trap in _initialize: %v", err)
	}
}

func TestCheckNamesEveryProblem(t *testing.T) {
	var m asm.Module
	m.ImportFunc(extism.ModuleName, "alloc", sig("i", "i"))
	m.ImportFunc(extism.ModuleName, "host_begin", sig("I", "I"))
	m.ImportFunc(extism.UserModule, "hello", sig("I", "I"))
	m.ImportFunc("env", "abort", sig("", ""))
	m.ImportFunc(wasi.ModuleName, "fd_fly", sig("", ""))
	m.ImportGlobal(extism.ModuleName, "length", engines.GlobalType{Value: engines.I32})
	m.Func("hs_init", sig("", ""), nil)
	m.Global("_initialize", engines.GlobalType{Value: engines.I32}, i32c(0))
	e := newEngine(t)
	mod := compile(t, e, m.Bytes())
	if !extism.Detect(mod) {
		t.Error("not detected")
	}
	_, err := extism.New(context.Background(), e, options, mod, extism.Config{})
	problems, ok := errors.AsType[*extism.ABIError](err)
	if !ok {
		t.Fatal(err)
	}
	want := []string{
		`it imports extism:host/env.alloc as a func (i32) -> (i32), it is a func (i64) -> (i64)`,
		`it imports extism:host/env.host_begin, which does not exist`,
		`it imports extism:host/user.hello, a host function of an embedder's own, and this host has none of that name`,
		`it imports env.abort, but a plugin may import from "extism:host/env" and "wasi_snapshot_preview1" alone`,
		`it imports wasi_snapshot_preview1.fd_fly, which does not exist`,
		`it imports extism:host/env.length as a global, it is a func (i64) -> (i64)`,
		`export "hs_init" is a func () -> (), it must be a func (i32, i32) -> ()`,
		`export "_initialize" is a global, it must be a func () -> ()`,
	}
	if !slices.Equal(problems.Problems, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(problems.Problems, "\n"), strings.Join(want, "\n"))
	}
	var plain asm.Module
	plain.Func("add", sig("", ""), nil)
	if extism.Detect(compile(t, e, plain.Bytes())) {
		t.Error("a module of no ABI is detected")
	}
}

// hostFunctions are functions of an embedder's own.
var hostFunctions = []extism.HostFunction{
	{Name: "mult", Syscall: "test_multiply", Params: []extism.Kind{extism.Number, extism.Number}, Result: extism.Number},
	{Module: "host", Name: "greet", Syscall: "test_greet", Params: []extism.Kind{extism.Text, extism.Bytes}, Result: extism.Bytes},
	{Name: "note", Syscall: "test_greet", Params: []extism.Kind{extism.Text}},
}

func TestHostFunctions(t *testing.T) {
	g := newGuest(blocks...)
	mult := g.ImportFunc(extism.UserModule, "mult", sig("Ii", "I"))
	g.ImportFunc(extism.UserModule, "mult", sig("Ii", "I")) // twice is once
	greet := g.ImportFunc("host", "greet", sig("II", "I"))
	note := g.ImportFunc(extism.UserModule, "note", sig("I", ""))
	g.Func("mult", sig("", "I"), seq(i64c(-6), i32c(-7), call(mult)))
	g.Func("greet", sig("", ""), seq(g.text(0, "Ann"), g.text(1, "how\x00do"), get(0), get(1), call(greet), set(0), g.output(0)), engines.I64, engines.I64)
	g.Func("nobody", sig("", ""), seq(i64c(77), i64c(-1), call(greet), op(asm.Drop)))
	g.Func("note", sig("", ""), seq(g.text(0, "Bob"), get(0), call(note)), engines.I64)
	for name, engine := range allEngines() {
		t.Run(name, func(t *testing.T) {
			w, e := newWorld(t, "test_*"), engine(t)
			p := start(t, w, e, g.Bytes(), extism.Config{HostFunctions: hostFunctions})
			if err := p.fails("mult", ""); err.Code != 42 {
				t.Errorf("-6 x -7: %v", err)
			}
			if out := p.run("greet", ""); out != "Ann: how\x00do" {
				t.Errorf("greet: %q", out)
			}
			if err := p.fails("nobody", ""); !strings.HasPrefix(err.Message, "greet: nobody is there") {
				t.Errorf("nobody: %v", err)
			}
			p.run("note", "")
			want := []string{"test_multiply -6 -7", "test_greet Ann <how\x00do>", "test_greet ", "test_greet Bob"}
			got := w.effects()
			for i := range got {
				got[i] = strings.TrimSuffix(got[i], " <>")
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			denied := start(t, newWorld(t), e, g.Bytes(), extism.Config{HostFunctions: hostFunctions})
			if err := denied.fails("mult", ""); !strings.Contains(err.Message, "mult: blocked: ") {
				t.Errorf("denied: %v", err)
			}
		})
	}
}

func TestHostFunctionsOfOtherTypes(t *testing.T) {
	var m asm.Module
	m.ImportFunc(extism.UserModule, "mult", sig("I", "I"))
	m.ImportFunc(extism.UserModule, "mult", sig("II", ""))
	m.ImportFunc("host", "greet", sig("Ii", "I"))
	m.ImportFunc("host", "greet", sig("II", "i"))
	m.ImportFunc(extism.UserModule, "note", sig("I", "I"))
	m.ImportFunc(extism.ModuleName, "alloc", sig("", "")) // the ABI's own cannot be replaced
	err := extism.Check(compile(t, newEngine(t), m.Bytes()), append(hostFunctions, extism.HostFunction{Module: extism.ModuleName, Name: "alloc"})...)
	problems, ok := errors.AsType[*extism.ABIError](err)
	if !ok || len(problems.Problems) != 6 {
		t.Errorf("got %v", err)
	}
}

// puppet is a plugin that exports, for each function of the ABI, one that calls it
// with words from its input.
func puppet() []byte {
	var m asm.Module
	type imported struct {
		index uint32
		t     engines.FuncType
	}
	imports := map[string]imported{}
	add := func(module, name string, t engines.FuncType) {
		imports[name] = imported{m.ImportFunc(module, name, t), t}
	}
	for name, types := range extism.Env() {
		add(extism.ModuleName, name, sig(types[0], types[1]))
	}
	add(extism.UserModule, "mult", sig("II", "I"))
	add("host", "greet", sig("II", "I"))
	for name, im := range imports {
		body := asm.Code(nil)
		for i, t := range im.t.Params {
			body = seq(body, i64c(int64(8*i)), call(imports["input_load_u64"].index))
			if t == engines.I32 {
				body = seq(body, wrap)
			}
		}
		body = seq(body, call(im.index))
		if len(im.t.Results) > 0 {
			body = seq(body, op(asm.Drop))
		}
		m.Func("call_"+name, sig("", ""), body)
	}
	return m.Bytes()
}

// FuzzPlugin holds that nothing that a plugin calls with whatever words makes the
// host panic, and that the plugin is served after.
func FuzzPlugin(f *testing.F) {
	e := newEngine(f)
	w := newWorld(f, "log_write", "http_request", "test_*")
	b, err := extism.New(context.Background(), e, options, compile(f, e, puppet()), extism.Config{
		Values: map[string]string{"": "value"}, HostFunctions: hostFunctions,
	})
	if err != nil {
		f.Fatal(err)
	}
	defer b.Close()
	names := b.Functions()
	call := w.begin(f)
	for i := range names {
		f.Add(byte(i), uint64(arena+pad+header), uint64(16), "")
		f.Add(byte(i), uint64(arena+pad+header), uint64(math.MaxUint64), `{"url":"http://a.example/"}`)
		f.Add(byte(i), uint64(math.MaxUint32), uint64(1<<32), "")
	}
	f.Fuzz(func(t *testing.T, which byte, first, second uint64, rest string) {
		inst, err := b.Instantiate(call)
		if err != nil {
			t.Fatal(err)
		}
		defer inst.Close()
		input := binary.LittleEndian.AppendUint64(nil, first)
		input = append(binary.LittleEndian.AppendUint64(input, second), rest...)
		_, err = b.Call(call, inst, names[int(which)%len(names)], input)
		if failed, ok := errors.AsType[*extism.FunctionError](err); err != nil && !ok || ok && strings.Contains(failed.Message, "panic") {
			t.Fatal(err)
		}
		if _, err := b.Call(call, inst, "call_reset", nil); err != nil {
			t.Fatal(err)
		}
	})
}
