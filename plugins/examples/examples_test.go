// Package examples_test builds the WASM examples as their authors would, and
// runs them over real effects.
package examples_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/plugins/examples/summarise"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// plugin is an example that was built, and the kernel's parts that it runs on.
type plugin struct {
	*testing.T
	gate    *abi.Gate
	subject *abi.Subject
	module  engines.Module
	binding *forge.Binding
}

// load builds the example of that name. It is lent a directory with one
// document for reading.
func load(t *testing.T, name string, grant capability.Grant) *plugin {
	t.Helper()
	dir := t.TempDir()
	wasm := filepath.Join(dir, "plugin.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", wasm, "./"+name)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	code, err := os.ReadFile(wasm)
	if err != nil {
		t.Fatal(err)
	}

	inbox := filepath.Join(dir, "inbox")
	if err := os.Mkdir(inbox, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inbox, "report.txt"), []byte("All is well. All is very well!"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(inbox)
	if err != nil {
		t.Fatal(err)
	}
	db, err := state.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: filepath.Join(dir, "audit"), Name: "forgeone/test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}

	reg := new(abi.SyscallRegistry)
	if err := reg.Register(syscalls.Registrations(syscalls.Options{State: db})...); err != nil {
		t.Fatal(err)
	}
	graph, err := reg.Compile([]zta.Policy{
		{Name: "all", Syscalls: []string{"*"}},
		{Name: "inside", Syscalls: []string{"file_*"}, Args: map[int]zta.ArgConstraint{0: {Match: "^/data/", Deny: `\.\.`}}, OnViolation: zta.Quarantine},
	}, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	gate, err := abi.NewGate(abi.GateOptions{Registry: reg, Graph: graph, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	set, err := capability.New(grant)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := wazero.New()
	if err != nil {
		t.Fatal(err)
	}
	p := &plugin{T: t, gate: gate, subject: &abi.Subject{
		Plugin: name, Identity: zta.Identity{ID: "tester", TrustVector: zta.Signed}, TrustLevel: capability.Standard, Capabilities: set,
		Container: abi.NewContainer("c"), Mounts: []abi.Mount{{Guest: "/data", Root: root, ReadOnly: true}},
	}}
	if p.module, err = engine.Compile(context.Background(), code, engines.CompileOptions{Interruptible: true}); err != nil {
		t.Fatal(err)
	}
	if p.binding, err = forge.New(p.module); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.module.Close(), engine.Close(), root.Close(), db.Close(), log.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// call calls a function in an instance of its own.
func (p *plugin) call(function, input string) (out []byte, err error) {
	return p.callWithin(time.Minute, function, input)
}

func (p *plugin) callWithin(limit time.Duration, function, input string) (out []byte, err error) {
	c, err := p.gate.Begin(context.Background(), p.subject, function, []byte(input))
	if err != nil {
		return nil, err
	}
	defer func() { err = c.End(out, err) }()
	defer c.Limit(limit)()
	inst, err := p.binding.Instantiate(c, p.module)
	if err != nil {
		return nil, err
	}
	out, err = p.binding.Call(c, inst, function, []byte(input))
	return out, errors.Join(err, inst.Close())
}

func TestSummarise(t *testing.T) {
	p := load(t, "summarise-wasm", capability.Grant{
		Syscalls:  []string{"read_file", "kv_*", "log_write", "time_get"},
		Resources: []string{"file:///data/**"},
	})
	for n := 1; n <= 2; n++ { // the count is the kernel's to keep: each call has a new instance
		out, err := p.call("summarise", "/data/report.txt\n")
		if err != nil {
			t.Fatal(err)
		}
		var s summarise.Summary
		if err := json.Unmarshal(out, &s); err != nil {
			t.Fatal(err)
		}
		if s.Document != "/data/report.txt" || s.Words != 7 || s.Sentences != 2 || s.Top[0] != (summarise.Word{Word: "well", Count: 2}) || s.Count != n {
			t.Errorf("call %d: got %+v", n, s)
		}
	}
	for input, want := range map[string]string{
		"":               "the input is empty",
		"/data/none.txt": "read the document: file_open: ",
	} {
		var fe *forge.FunctionError
		if _, err := p.call("summarise", input); !errors.As(err, &fe) || !strings.Contains(fe.Message, want) {
			t.Errorf("%q: got %v, want %q", input, err, want)
		}
	}
}

func TestRogue(t *testing.T) {
	p := load(t, "rogue-wasm", capability.Grant{
		Syscalls:  []string{"read_file", "env_get", "time_get", "stdio_write"},
		Resources: []string{"file:///data/**"},
	})
	if out, err := p.call("flood", ""); err != nil || string(out) != "asked 100000 times" {
		t.Errorf("flood: got %q, %v", out, err)
	}
	for function, want := range map[string]string{
		"write": "file_open was blocked: ",
		"env":   "env_get was blocked: ",
	} {
		var fe *forge.FunctionError
		if _, err := p.call(function, ""); !errors.As(err, &fe) || !strings.Contains(fe.Message, want) {
			t.Errorf("%s: got %v, want %q", function, err, want)
		}
	}
	var trap *engines.Trap
	if _, err := p.call("crash", ""); !errors.As(err, &trap) {
		t.Errorf("crash: got %v", err)
	}
	if _, err := p.callWithin(50*time.Millisecond, "loop", ""); !errors.As(err, &trap) || trap.Class != engines.TrapInterrupted {
		t.Errorf("loop: got %v", err)
	}
	for _, function := range []string{"escape", "flood"} { // what is quarantined is not called again
		var denied *abi.DeniedError
		if out, err := p.call(function, ""); !errors.As(err, &denied) || denied.Status != abi.Quarantined || out != nil {
			t.Errorf("%s: got %q, %v", function, out, err)
		}
	}
}
