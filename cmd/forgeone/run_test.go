package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// startModule is a WASI command that is one instruction sequence.
func startModule(body asm.Code) []byte {
	var m asm.Module
	m.Memory("memory", 1)
	m.Func("_start", asm.Func(nil, nil), body)
	return m.Bytes()
}

// commandModule is what the Go toolchain makes of the command that abi/wasi has
// for its tests.
func commandModule(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(dir, "command.wasm")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "../../abi/wasi/testdata/command")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return out
}

func TestRun(t *testing.T) {
	dir := newDir(t)
	command := commandModule(t, dir)
	for _, d := range []string{"in", "out"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "in", "from"), []byte("some text"))
	in, out := filepath.Join(dir, "in")+"::/in:ro", filepath.Join(dir, "out")+"::/out"

	forgeone(t, "run", "--env", "A=1", command, "env", "--env", "B=2").want(t, 0, "[command.wasm env --env B=2] [A=1]\n")
	if r := forgeoneIn(t, strings.NewReader("a\x1b[2Jb"), "run", command, "cat").want(t, 0); r.out != "a\x1b[2Jb" || r.err != "6 <nil>\n" {
		t.Errorf("cat: %+v", r)
	}
	if r := forgeone(t, "run", command, "exit", "42"); r != (result{code: 42}) {
		t.Errorf("exit: %+v", r)
	}
	forgeone(t, "run", "--dir", in, "--dir", out, command, "copy", "/in/from", "/out/to").want(t, 0)
	if b, err := os.ReadFile(filepath.Join(dir, "out", "to")); err != nil || string(b) != "some text" {
		t.Errorf("copied %q, %v", b, err)
	}
	forgeone(t, "run", "--dir", in, "--dir", out, command, "copy", "/out/to", "/in/to").want(t, 1, "Read-only file system")
	forgeone(t, "run", command, "copy", "/in/from", "/out/to").want(t, 1, "open /in/from")

	log := filepath.Join(dir, "log")
	forgeone(t, "run", "--audit-dir", log, "--dir", in, command, "copy", "/in/from", "/in/from").want(t, 1)
	forgeone(t, "audit", "verify", "--dir", log).want(t, 0)
	forgeone(t, "audit", "export", "--dir", log).want(t, 0, "file_open", "file:///in/from")
}

// TestRunEnds says how run ends where the command does not.
func TestRunEnds(t *testing.T) {
	dir := newDir(t)
	spin, trap := filepath.Join(dir, "spin.wasm"), filepath.Join(dir, "trap.wasm")
	write(t, spin, startModule(asm.Code(nil).Loop().Br(0).End()))
	write(t, trap, startModule(asm.Code(nil).Op(asm.Unreachable)))
	library, broken := filepath.Join(dir, "library.wasm"), filepath.Join(dir, "broken.wasm")
	write(t, library, toolModule())
	write(t, broken, []byte("\x00asm?"))
	big := filepath.Join(dir, "big.wasm")
	var m asm.Module
	m.Memory("memory", 100)
	m.Func("_start", engines.FuncType{}, nil)
	write(t, big, m.Bytes())

	forgeone(t, "run", trap).want(t, runTrap, "error: ", "unreachable executed")
	for _, tc := range []struct {
		code int
		kind control.Kind
		text string
		args []string
	}{
		{runLimit, control.Limit, "timeout", []string{"--timeout", "50ms", spin}},
		{runLimit, control.Limit, "fuel", []string{"--fuel", "1000", spin}},
		{runFailed, control.Config, "memory", []string{"--memory", "1MiB", big}},
		{runFailed, control.Usage, "forgeone call", []string{library}},
		{runFailed, control.Config, "compile", []string{broken}},
		{runFailed, control.Config, "no such file", []string{filepath.Join(dir, "none.wasm")}},
		{runFailed, control.Usage, "--bogus", []string{"--bogus", spin}},
		{runFailed, control.Usage, "MODULE.wasm", nil},
		{runFailed, control.Usage, "HOST::GUEST", []string{"--dir", dir, spin}},
		{runFailed, control.Usage, "absolute", []string{"--dir", dir + "::data", spin}},
		{runFailed, control.Usage, "absolute", []string{"--dir", dir + "::/data/../x", spin}},
		{runFailed, control.Usage, "patterns", []string{"--dir", dir + "::/**", spin}},
		{runFailed, control.Usage, "NAME=VALUE", []string{"--env", "A", spin}},
		{runFailed, control.Usage, "not a size", []string{"--memory", "much", spin}},
		{runFailed, control.Usage, "negative", []string{"--timeout", "-1s", spin}},
		{runFailed, control.Usage, "bochs", []string{"--engine", "bochs", spin}},
	} {
		r := forgeone(t, append([]string{"run"}, tc.args...)...)
		var end struct {
			Exit    int
			Kind    control.Kind
			Message string
		}
		if err := json.Unmarshal([]byte(r.err), &end); err != nil || strings.Count(r.err, "\n") != 1 {
			t.Errorf("run %q: standard error is no line of JSON: %q (%v)", tc.args, r.err, err)
		}
		if r.code != tc.code || end.Exit != tc.code || end.Kind != tc.kind || !strings.Contains(end.Message, tc.text) {
			t.Errorf("run %q: exit code %d, %+v; want %d, %s and %q", tc.args, r.code, end, tc.code, tc.kind, tc.text)
		}
	}
}

// TestRunUnderPolicy says that a configuration is in force besides the flags.
func TestRunUnderPolicy(t *testing.T) {
	dir := newDir(t)
	command := commandModule(t, dir)
	write(t, filepath.Join(dir, "data"), nil)
	for _, tc := range []struct {
		violation string
		code      int
		text      string
	}{
		{"block", 1, "Capabilities insufficient"},
		{"freeze", 1, "outcome=frozen"}, // what it does next is refused, and it ends
		{"quarantine", runQuarantined, `"kind":"quarantined"`},
	} {
		config := setup(t, baseConfig+`
policy "no-secrets" {
  syscalls     = ["file_open"]
  on_violation = "`+tc.violation+`"
  arg "0" {
    deny = "secret"
  }
}
`)
		forgeone(t, "run", "--config", config, "--dir", dir+"::/d", command, "copy", "/d/secret", "/d/to").want(t, tc.code, tc.text)
		if tc.violation == "block" {
			forgeone(t, "run", "--config", config, "--dir", dir+"::/d", command, "copy", "/d/data", "/d/to").want(t, 0)
		}
	}
}

// TestHarmless says what a terminal is shown of what a command prints.
func TestHarmless(t *testing.T) {
	var b strings.Builder
	s := &stream{w: &b, escaped: true}
	for _, p := range []string{"a\tb\r\n", "\x1b[31mred", "é"[:1], "é"[1:], "日"[:2], ""} {
		s.write([]byte(p))
	}
	s.flush()
	if got, want := b.String(), "a\tb\r\n"+`\x1b[31mredé\xe6\x97`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
