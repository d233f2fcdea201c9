package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

func execute(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(context.Background(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestInfo(t *testing.T) {
	e, err := newEngine()
	if err != nil {
		t.Fatal(err)
	}
	want := describe(e.Info())
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := execute("info", "--format", "json")
	var got description
	if err := json.Unmarshal([]byte(out), &got); code != exitOK || err != nil || got != want {
		t.Errorf("info --format json: exit %d, %+v, %v, %s; want %+v", code, got, err, stderr, want)
	}
	code, out, stderr = execute("info")
	if code != exitOK || !strings.HasPrefix(out, "engine        "+want.Name+" "+want.Version+"\n") {
		t.Errorf("info: exit %d, %s%s", code, out, stderr)
	}
}

// module is a file with functions of each numeric type.
func module(t *testing.T) string {
	t.Helper()
	i32, i64, f32, f64 := engines.I32, engines.I64, engines.F32, engines.F64
	m := new(asm.Module)
	m.Func("add", asm.Func(asm.Types(i32, i32), asm.Types(i32)), asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("div", asm.Func(asm.Types(i32, i32), asm.Types(i32)), asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32DivS))
	m.Func("swap", asm.Func(asm.Types(i64, f32, f64), asm.Types(f64, f32, i64)), asm.Code{}.LocalGet(2).LocalGet(1).LocalGet(0))
	m.Func("nothing", asm.Func(nil, nil), nil)
	m.Memory("memory", 1)
	path := filepath.Join(t.TempDir(), "math.wasm")
	if err := os.WriteFile(path, m.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCall(t *testing.T) {
	path := module(t)
	notWasm := filepath.Join(t.TempDir(), "text.wasm")
	if err := os.WriteFile(notWasm, []byte("(module)"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		code   int
		stdout string
		stderr string // a part of it
	}{
		{[]string{"call", path, "add", "1", "2"}, exitOK, "3\n", ""},
		{[]string{"call", path, "add", "-1", "0x7fffffff"}, exitOK, "2147483646\n", ""},
		{[]string{"call", path, "add", "4294967295", "0"}, exitOK, "-1\n", ""},
		{[]string{"call", path, "swap", "-9223372036854775808", "1.5", "-inf"}, exitOK, "-Inf\n1.5\n-9223372036854775808\n", ""},
		{[]string{"call", path, "nothing"}, exitOK, "", ""},
		{[]string{"call", path, "div", "1", "0"}, exitFailed, "", "integer divide by zero"},
		{[]string{"call", path, "absent"}, exitFailed, "", `export "absent"`},
		{[]string{"call", path, "memory"}, exitFailed, "", "it is a memory"},
		{[]string{"call", notWasm, "f"}, exitFailed, "", "wat2wasm"},
		{[]string{"call", path + ".absent", "f"}, exitFailed, "", "no such file"},
		{[]string{"call", path, "add", "1"}, exitUsage, "", "takes 2 arguments, got 1"},
		{[]string{"call", path, "add", "1", "2.5"}, exitUsage, "", `argument 2: "2.5" is not an i32`},
		{[]string{"call", path, "add", "1", "4294967296"}, exitUsage, "", "is not an i32"},
		{[]string{"call", path}, exitUsage, "", "usage: forgeone-engine call"},
		{[]string{"info", "--format", "xml"}, exitUsage, "", "json or text"},
		{[]string{"info", "--nonsense"}, exitUsage, "", "nonsense"},
		{[]string{"nonsense"}, exitUsage, "", "nonsense"},
		{[]string{"serve"}, exitFailed, "", "started by a kernel"},
		{[]string{"compile"}, exitFailed, "", "started by a kernel"},
		{nil, exitUsage, "", "info, call, bench or serve"},
	} {
		code, stdout, stderr := execute(c.args...)
		if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q; want %d, %q, %q", c.args, code, stdout, stderr, c.code, c.stdout, c.stderr)
		}
	}
}

// Two cgo engines in one binary would call each other's code; the build must
// not get as far.
func TestOneCgoEngineOnly(t *testing.T) {
	out, err := exec.Command("go", "build", "-tags", "wasmer,wasmtime", "-o", os.DevNull, ".").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "build_with_one_cgo_engine_only") {
		t.Errorf("go build -tags wasmer,wasmtime: %v\n%s", err, out)
	}
}
