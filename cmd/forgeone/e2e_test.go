package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"forgeone.dev/forgeone/cmd/forgeone/builtins"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// binary is the command, as built by TestMain.
var binary string

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == builtins.CompileCommand { // a kernel of a test compiles with this binary
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "forgeone")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "forgeone")
		build := exec.Command("go", "build", "-o", binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // with Go's own caches
		// Private logs of calls outlive them, and what calls keep is the user's.
		user := filepath.Join(dir, "user")
		for name, value := range map[string]string{"TMPDIR": dir, "XDG_CACHE_HOME": user, "XDG_CONFIG_HOME": user} {
			if err := os.Setenv(name, value); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// toolModule has plain exports: add, spin (for ever), roll (random_get, whose
// errno it returns) and trap.
func toolModule() []byte {
	i32 := engines.I32
	var m asm.Module
	random := m.ImportFunc("wasi_snapshot_preview1", "random_get", asm.Func(asm.Types(i32, i32), asm.Types(i32)))
	m.Memory("memory", 1)
	m.Func("add", asm.Func(asm.Types(i32, i32), asm.Types(i32)), asm.Code(nil).LocalGet(0).LocalGet(1).Op(asm.I32Add))
	m.Func("spin", asm.Func(nil, nil), asm.Code(nil).Loop().Br(0).End())
	m.Func("roll", asm.Func(nil, asm.Types(i32)), asm.Code(nil).I32Const(0).I32Const(4).Call(random))
	m.Func("trap", asm.Func(nil, nil), asm.Code(nil).Op(asm.Unreachable))
	return m.Bytes()
}

// echoModule is a forge/1 guest with two functions: echo returns its input, and
// fail fails with its input as the message.
func echoModule() []byte {
	i32 := engines.I32
	var m asm.Module
	input := m.ImportFunc("forge", "input", asm.Func(asm.Types(i32, i32), asm.Types(i32)))
	output := m.ImportFunc("forge", "output", asm.Func(asm.Types(i32, i32), nil))
	fail := m.ImportFunc("forge", "fail", asm.Func(asm.Types(i32, i32, i32), nil))
	m.Memory("memory", 2)
	function := asm.Func(asm.Types(i32), asm.Types(i32))
	read := asm.Code(nil).I32Const(0).LocalGet(0).Call(input).Op(asm.Drop)
	m.Func("forge_abi", function, asm.Code(nil).I32Const(1<<16))
	m.Func("echo", function, asm.Code(bytes.Clone(read)).I32Const(0).LocalGet(0).Call(output).I32Const(0))
	m.Func("fail", function, asm.Code(bytes.Clone(read)).I32Const(7).I32Const(0).LocalGet(0).Call(fail).I32Const(1))
	return m.Bytes()
}

// newDir is a directory with a short path, which a socket in it needs.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "f1-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

const baseConfig = `
kernel {
  name      = "test"
  state_dir = "state"
}
audit {
  dir          = "audit"
  generate_key = true
}
`

const toolPlugin = `
plugin "tool" {
  wasm        = "tool.wasm"
  trust_level = "standard"
  state       = "pristine"
  capabilities {
    syscalls = ["random_get"]
  }
}
`

// setup is a directory with tool.wasm and a configuration; it returns the
// configuration's path.
func setup(t *testing.T, config string) string {
	t.Helper()
	dir := newDir(t)
	write(t, filepath.Join(dir, "tool.wasm"), toolModule())
	path := filepath.Join(dir, "f.hcl")
	write(t, path, []byte(config))
	return path
}

// result is a run of the command.
type result struct {
	code     int
	out, err string
}

func forgeone(t *testing.T, args ...string) result {
	t.Helper()
	return forgeoneIn(t, nil, args...)
}

func forgeoneIn(t *testing.T, in io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("forgeone %q: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// want checks an exit code and what the output has.
func (r result) want(t *testing.T, code int, texts ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.out, r.err)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.err, text) {
			t.Fatalf("output has no %q\nstdout: %s\nstderr: %s", text, r.out, r.err)
		}
	}
	return r
}

// daemon is a kernel that serves.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when its standard error has ended
	log  *bytes.Buffer // of it; to be read when done
}

// serve starts a kernel and waits until it is ready.
func serve(t *testing.T, config string) *daemon {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no control socket on windows: peers cannot be checked")
	}
	d := &daemon{t: t, cmd: exec.Command(binary, "serve", "--config", config, "--log-level", "debug"), done: make(chan struct{}), log: &bytes.Buffer{}}
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(d.done)
		seen := false
		for s := bufio.NewScanner(stderr); s.Scan(); {
			d.log.WriteString(s.Text() + "\n")
			if strings.HasPrefix(s.Text(), "ready") && !seen {
				seen = true
				close(ready)
			}
		}
	}()
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			d.signal(syscall.SIGKILL)
		}
	})
	select {
	case <-ready:
	case <-d.done:
		_ = d.cmd.Wait()
		t.Fatalf("serve ended before it was ready:\n%s", d.log)
	case <-time.After(time.Minute):
		t.Fatal("serve is not ready after a minute")
	}
	return d
}

// signal ends the daemon and returns its exit code.
func (d *daemon) signal(sig syscall.Signal) int {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
	<-d.done
	_ = d.cmd.Wait() // its exit code says it
	return d.cmd.ProcessState.ExitCode()
}

// eventually waits until f is satisfied.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after 30 s: %s", what)
		}
	}
}

func decode[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.want(t, 0).out), &v); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, r.out)
	}
	return v
}

func statusOf(t *testing.T, config string) control.Status {
	t.Helper()
	return decode[control.Status](t, forgeone(t, "status", "--config", config, "--format", "json"))
}

// checkpointed waits for the first checkpoint of a running kernel's log.
func checkpointed(t *testing.T, config string) {
	t.Helper()
	eventually(t, "a checkpoint", func() bool { return statusOf(t, config).Audit.Checkpoint > 0 })
}

const allowRandom = `
policy "random" {
  syscalls = ["random_get"]
}
`

func TestServe(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+allowRandom+`
plugin "broken" {
  wasm        = "broken.wasm"
  trust_level = "limited"
}
plugin "idle" {
  wasm        = "tool.wasm"
  trust_level = "limited"
  autostart   = false
}
`)
	dir := filepath.Dir(config)
	write(t, filepath.Join(dir, "broken.wasm"), []byte("\x00asm\x01\x00\x00\x00\x01"))
	d := serve(t, config)

	socket := filepath.Join(dir, "state", "control.sock")
	if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("control socket: %v, %v; want mode 0600", fi, err)
	}
	st := statusOf(t, config)
	if st.Name != "test" || st.PID != d.cmd.Process.Pid || len(st.Engines) != 1 || !st.Engines[0].Default || len(st.Policy.Policies) != 1 || st.Audit.Records == 0 {
		t.Errorf("status: %+v", st)
	}
	if !strings.Contains(st.Config.Problem, "broken") {
		t.Errorf("status does not say that a plugin did not load: %q", st.Config.Problem)
	}
	phases := map[string]string{}
	for _, p := range decode[[]control.Plugin](t, forgeone(t, "plugin", "list", "--state-dir", filepath.Join(dir, "state"), "--format", "json")) {
		phases[p.Name] = p.Status.Phase
	}
	if phases["tool"] != "active" || phases["idle"] != "stopped" || len(phases) != 2 {
		t.Errorf("plugins: %v", phases)
	}
	forgeone(t, "plugin", "list", "--socket", socket).want(t, 0, "PLUGIN", "tool", "active")
	forgeone(t, "plugin", "inspect", "--config", config, "tool").want(t, 0, "sha256", "random_get", "add")
	forgeone(t, "status", "--config", config).want(t, 0, "NOT IN FORCE", "tool")

	call := func(args ...string) result {
		return forgeone(t, append([]string{"call", "--config", config}, args...)...)
	}
	if r := call("tool", "add", "--", "-1", "4").want(t, 0); r.out != "3" {
		t.Errorf("add(-1, 4) = %q", r.out)
	}
	if r := call(filepath.Join(dir, "tool.wasm"), "add", "1", "1"); r.code == 0 || !strings.Contains(r.err, "idle, tool") {
		t.Errorf("an ambiguous module was called: %+v", r)
	}
	if r := call("tool", "roll").want(t, 0); r.out != "0" {
		t.Errorf("roll = %q, want errno 0", r.out)
	}
	call("tool", "spin", "--timeout", "100ms").want(t, 5, "timeout")
	call("tool", "trap").want(t, 1, "unreachable")
	call("tool", "nosuch").want(t, 1, "add")
	call("nosuch", "add").want(t, 1, "tool")
	call("tool", "add", "1").want(t, 1, "takes 2 arguments")
	call("idle", "add", "1", "2").want(t, 1, "start")
	forgeone(t, "policy", "explain", "--config", config, "--plugin", "tool", "--syscall", "random_get", "--arg", "4", "--live").
		want(t, 0, "ALLOWED by random")

	verb := func(name, plugin string) result { return forgeone(t, "plugin", name, "--config", config, plugin) }
	verb("pause", "tool").want(t, 0, "paused")
	call("tool", "add", "1", "2").want(t, 3, "paused")
	verb("pause", "tool").want(t, 1, "cannot pause")
	verb("resume", "tool").want(t, 0, "active")
	verb("reload", "tool").want(t, 0, "active")
	verb("unload", "tool").want(t, 1, "stop it first")
	verb("stop", "tool").want(t, 0, "stopped")
	verb("unload", "tool").want(t, 0, "unloaded")
	verb("inspect", "tool").want(t, 1, "not loaded")
	verb("load", "tool").want(t, 0, "stopped")
	verb("load", "tool").want(t, 1, "already loaded")
	verb("start", "tool").want(t, 0, "active")
	verb("load", "broken").want(t, 2, "broken")
	verb("load", "nosuch").want(t, 1, "no plugin")
	verb("start", "nosuch").want(t, 1, "loaded are")

	forgeone(t, "serve", "--config", config).want(t, 1, fmt.Sprint(d.cmd.Process.Pid))
	checkpointed(t, config)
	forgeone(t, "audit", "verify", "--config", config).want(t, 0, "intact")

	// The kernel cancels the call of a client that goes away, and takes the next.
	gone := exec.Command(binary, "call", "--config", config, "tool", "spin")
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "spin runs", func() bool { return statusOf(t, config).Phase == "running" })
	_ = gone.Process.Kill()
	_ = gone.Wait()
	eventually(t, "spin was cancelled", func() bool { return statusOf(t, config).Phase == "ready" })

	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit code %d\n%s", code, d.log)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	forgeone(t, "status", "--config", config).want(t, 1, "no kernel is running", "forgeone serve")

	r := forgeone(t, "audit", "export", "--config", config, "--kind", "kernel").want(t, 0)
	for _, want := range []string{`"event":"control"`, fmt.Sprintf(`"peer_uid":"%d"`, os.Getuid()), `"verb":"pause"`} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the record has no %s", want)
		}
	}
	forgeone(t, "audit", "export", "--config", config, "--format", "csv", "--plugin", "tool").want(t, 0, "seq,time", "random_get")
}

func TestKilledKernelComesBack(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+allowRandom)
	d := serve(t, config)
	checkpointed(t, config)
	forgeone(t, "call", "--config", config, "tool", "roll").want(t, 0)
	d.signal(syscall.SIGKILL)
	forgeone(t, "audit", "verify", "--config", config).want(t, 0, "intact")

	// Its socket is still there, but not its lock.
	forgeone(t, "call", "--config", config, "tool", "add", "1", "2").want(t, 0, "3")
	d = serve(t, config)
	forgeone(t, "call", "--config", config, "tool", "add", "2", "2").want(t, 0, "4")
	if code := d.signal(syscall.SIGINT); code != 0 {
		t.Errorf("SIGINT: exit code %d\n%s", code, d.log)
	}
	forgeone(t, "audit", "verify", "--config", config).want(t, 0, "intact")
}

func TestQuarantine(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+`
policy "no-random" {
  syscalls        = ["random_get"]
  min_trust_level = "core"
  on_violation    = "quarantine"
}
`)
	d := serve(t, config)
	forgeone(t, "policy", "explain", "--config", config, "--plugin", "tool", "--syscall", "random_get", "--arg", "4", "--exit-code").
		want(t, 4, "QUARANTINED by no-random", "FAILS: min_trust_level")
	forgeone(t, "call", "--config", config, "tool", "roll").want(t, 4, "quarantined")
	forgeone(t, "call", "--config", config, "tool", "add", "1", "2").want(t, 4, "Q-1")
	forgeone(t, "plugin", "start", "--config", config, "tool").want(t, 4, "Q-1")
	d.signal(syscall.SIGKILL)

	d = serve(t, config) // it survives
	if st := statusOf(t, config); st.Config.Problem != "" || st.OpenCases != 1 {
		t.Errorf("status with a quarantined plugin: %+v", st)
	}
	forgeone(t, "plugin", "list", "--config", config).want(t, 0, "quarantined (case Q-1)")
	forgeone(t, "quarantine", "list", "--config", config).want(t, 0, "Q-1", "open", "no-random")
	forgeone(t, "quarantine", "show", "--config", config, "Q-1").want(t, 0, "artifact", "no-random")
	forgeone(t, "quarantine", "show", "--config", config, "Q-9").want(t, 1, "no such case")
	forgeone(t, "quarantine", "release", "--config", config, "Q-1").want(t, 2, "reason")
	forgeone(t, "quarantine", "release", "--config", config, "--reason", "reviewed", "Q-1").want(t, 0, fmt.Sprintf("uid:%d", os.Getuid()), "forgeone plugin start")
	forgeone(t, "quarantine", "release", "--config", config, "--reason", "reviewed", "Q-1").want(t, 1, "released already")
	forgeone(t, "plugin", "start", "--config", config, "tool").want(t, 0, "active")
	if st := statusOf(t, config); st.OpenCases != 0 {
		t.Errorf("open cases after the release: %d", st.OpenCases)
	}
	d.signal(syscall.SIGTERM)
	forgeone(t, "audit", "verify", "--config", config, "--format", "json").want(t, 0, `"intact": true`)
}

func TestReload(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+allowRandom)
	d := serve(t, config)
	before := statusOf(t, config)
	settled := func(f func(control.Status) bool) func() bool {
		return func() bool { return f(statusOf(t, config)) }
	}

	write(t, config, []byte(baseConfig+toolPlugin+allowRandom+"nonsense = 1\n"))
	// The broken file cannot say where the kernel is; its socket can.
	socket := before.StateDir + "/control.sock"
	eventually(t, "the mistake is reported", func() bool {
		st := decode[control.Status](t, forgeone(t, "status", "--socket", socket, "--format", "json"))
		return strings.Contains(st.Config.Problem, "nonsense") && st.Policy.Digest == before.Policy.Digest
	})
	forgeone(t, "plugin", "list", "--socket", socket).want(t, 0, "active")

	// Another policy, a new plugin and an old one changed.
	write(t, config, []byte(baseConfig+strings.Replace(toolPlugin, "standard", "limited", 1)+strings.Replace(toolPlugin, `"tool" {`, `"second" {`, 1)))
	eventually(t, "the change is in force", settled(func(st control.Status) bool {
		return st.Config.Problem == "" && st.Policy.Digest != before.Policy.Digest && len(st.Plugins) == 2 && st.Plugins[1].TrustLevel == "limited"
	}))
	if r := forgeone(t, "call", "--config", config, "second", "roll").want(t, 0); r.out != "76" {
		t.Errorf("roll without a policy = %q, want ENOTCAPABLE (76)", r.out)
	}

	// What a running kernel cannot take up is refused whole.
	write(t, config, []byte(strings.Replace(baseConfig, `"test"`, `"other"`, 1)))
	eventually(t, "the refusal is reported", settled(func(st control.Status) bool {
		return strings.Contains(st.Config.Problem, "kernel.name") && len(st.Plugins) == 2
	}))

	// Gone from the configuration, gone from the kernel; told by a signal alone.
	write(t, config, []byte(baseConfig+toolPlugin))
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the plugin is gone", settled(func(st control.Status) bool {
		return st.Config.Problem == "" && len(st.Plugins) == 1 && st.Plugins[0].Name == "tool"
	}))

	// The artifact alone has changed.
	var m asm.Module
	m.Func("answer", asm.Func(nil, asm.Types(engines.I32)), asm.Code(nil).I32Const(42))
	write(t, filepath.Join(filepath.Dir(config), "tool.wasm"), m.Bytes())
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new artifact serves", func() bool {
		return forgeone(t, "call", "--config", config, "tool", "answer").out == "42"
	})
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, d.log)
	}
}

func TestCallModule(t *testing.T) {
	t.Parallel()
	module := filepath.Join(newDir(t), "tool.wasm")
	write(t, module, toolModule())
	if r := forgeone(t, "call", module, "add", "40", "2").want(t, 0); r.out != "42" || r.err != "" {
		t.Errorf("call: %+v", r)
	}
	if r := forgeoneIn(t, strings.NewReader("40 2"), "call", module, "add", "--input", "-").want(t, 0); r.out != "42" {
		t.Errorf("call with input: %+v", r)
	}
	forgeone(t, "call", module, "roll").want(t, 0, "0") // what runtimes need
	forgeone(t, "call", module, "spin", "--timeout", "50ms").want(t, 5, "timeout")
	forgeone(t, "call", module, "trap").want(t, 1, "error: ", "unreachable")
	forgeone(t, "call", module, "add", "--abi", "forge", "1", "2").want(t, 2, "it is core")
	forgeone(t, "call", module, "add", "--abi", "extism", "1", "2").want(t, 2, "give its functions --input")
	forgeone(t, "call", module, "add", "--engine", "wasmtime", "1", "2").want(t, 2, "forgeone engines")
	forgeone(t, "call", module, "add", "-1", "2").want(t, 2, "put -- before")
	forgeone(t, "call", module+".missing.wasm", "add", "1", "2").want(t, 2, "no such file")
	forgeone(t, "call", "tool", "add", "1", "2").want(t, 2, "--config")
	forgeone(t, "call", module, "add", "--fule", "1", "2").want(t, 2, "unknown flag: --fule; see")
}

// The log of a module's call goes with it, unless it is to be kept.
func TestCallModuleAuditLog(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	module, temp, kept := filepath.Join(dir, "tool.wasm"), filepath.Join(dir, "temp"), filepath.Join(dir, "kept")
	write(t, module, toolModule())
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(code int, args ...string) {
		t.Helper()
		cmd := exec.Command(binary, append([]string{"call", module}, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+temp, "TMP="+temp)
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != code {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		left, err := os.ReadDir(temp)
		if err != nil || len(left) != 0 {
			t.Errorf("%q leaves %v, %v", args, left, err)
		}
	}
	run(0, "roll")
	run(1, "trap")
	run(0, "roll", "--audit-dir", kept)
	run(0, "add", "--audit-dir", kept, "1", "2") // a second call goes on in the same log
	forgeone(t, "audit", "verify", "--dir", kept).want(t, 0, "intact")
	if r := forgeone(t, "audit", "export", "--dir", kept, "--kind", "call").want(t, 0, `"function":"roll"`, `"function":"add"`); r.out == "" {
		t.Error("no calls on record")
	}
	forgeone(t, "call", "--config", "x", "--audit-dir", kept, "tool", "roll").want(t, 2, "audit-dir")
}

// A configuration that is being mended, or whose secrets only the kernel has,
// still leads to the kernel and its log.
func TestBrokenConfigLeadsToTheKernel(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+allowRandom)
	d := serve(t, config)
	write(t, config, []byte(baseConfig+"bogus = env(\"FORGEONE_IS_NOT_SET\")\n"))
	eventually(t, "the refusal of a broken configuration", func() bool { return statusOf(t, config).Config.Problem != "" })
	forgeone(t, "status", "--config", config).want(t, 0, "NOT IN FORCE", "bogus")
	if r := forgeone(t, "call", "--config", config, "tool", "add", "1", "2").want(t, 0); r.out != "3" {
		t.Errorf("call: %+v", r)
	}
	forgeone(t, "call", "--config", config, filepath.Join(filepath.Dir(config), "tool.wasm"), "add", "1", "2").want(t, 0, "3")
	forgeone(t, "plugin", "stop", "--config", config, "tool").want(t, 0, "stopped")
	checkpointed(t, config)
	forgeone(t, "audit", "verify", "--config", config).want(t, 0, "intact")
	forgeone(t, "audit", "export", "--config", config, "--kind", "call").want(t, 0, "add")
	d.signal(syscall.SIGTERM)
	forgeone(t, "call", "--config", config, "tool", "add", "1", "2").want(t, 2, "bogus")
	forgeone(t, "serve", "--config", config).want(t, 2, "bogus")

	write(t, config, []byte("kernel {"))
	forgeone(t, "status", "--config", config).want(t, 2, "Unclosed", "--state-dir")
	forgeone(t, "audit", "verify", "--config", config).want(t, 2, "Unclosed", "--dir")
}

// Bytes go in and come out as they are, over the socket and without; what a
// guest says goes to the terminal harmless.
func TestCallWithBytes(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+strings.Replace(strings.Replace(toolPlugin, "tool.wasm", "echo.wasm", 1), `"tool" {`, `"echo" {`, 1))
	module := filepath.Join(filepath.Dir(config), "echo.wasm")
	write(t, module, echoModule())
	all := make([]byte, 70000)
	for i := range all {
		all[i] = byte(i)
	}
	in := filepath.Join(filepath.Dir(config), "in")
	write(t, in, all)
	check := func(how string, args ...string) {
		t.Helper()
		for _, input := range []string{"@" + in, "-"} {
			r := forgeoneIn(t, bytes.NewReader(all), append(args, "echo", "--input", input)...).want(t, 0)
			if r.out != string(all) {
				t.Errorf("%s, --input %s: %d bytes came back as %d others", how, input, len(all), len(r.out))
			}
		}
		if r := forgeone(t, append(args, "echo")...).want(t, 0); r.out != "" {
			t.Errorf("%s, no input: got %q", how, r.out)
		}
		r := forgeone(t, append(args, "fail", "--input", "\x1b[2Jbad\nerror: forged")...).want(t, 1, "bad", "code 7")
		if strings.Contains(r.err, "\x1b") || strings.Contains(r.err, "\nerror") {
			t.Errorf("%s: the guest reaches the terminal: %q", how, r.err)
		}
		forgeone(t, append(args, "echo", "1", "2")...).want(t, 2, "--input")
		forgeone(t, append(args, "echo", "--abi", "core")...).want(t, 2, "forge/1")
		forgeone(t, append(args, "nosuch")...).want(t, 1, "echo")
	}
	check("module", "call", module)
	check("under lock", "call", "--config", config, "echo")
	d := serve(t, config)
	check("kernel", "call", "--config", config, "echo")
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, d.log)
	}
}

func TestModuleInspect(t *testing.T) {
	t.Parallel()
	module := filepath.Join(newDir(t), "tool.wasm")
	write(t, module, toolModule())
	m := decode[moduleInfo](t, forgeone(t, "module", "inspect", "--format", "json", module))
	if m.ABI != "core" || len(m.SHA256) != 64 || m.Size == 0 || strings.Join(m.Functions, " ") != "add spin roll trap" ||
		len(m.Imports) != 1 || m.Imports[0].Type != "(i32, i32) -> (i32)" || strings.Join(m.Needs, " ") != "random_get" {
		t.Errorf("inspect: %+v", m)
	}
	forgeone(t, "module", "inspect", module).want(t, 0, "(i32, i32) -> (i32)", "wasi_snapshot_preview1.random_get")
	write(t, module, toolModule()[:20])
	forgeone(t, "module", "inspect", module).want(t, 1, "compile")

	for what, want := range map[string]string{ // with what to do instead
		"\x00asm\x0d\x00\x01\x00":                             "extract the core module",
		"\x00asm\x01\x00\x00\x00\x01\x05\x01\x5f\x01\x7f\x00": "build it for linear memory",
	} {
		write(t, module, []byte(what))
		forgeone(t, "module", "inspect", module).want(t, 1, want)
	}
}

// The grant that module inspect gives is one that a kernel takes, and enough.
func TestModuleInspectGrant(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	function := asm.Func(asm.Types(engines.I32, engines.I32), asm.Types(engines.I32))
	for _, tc := range []struct {
		name, abi string // as a table has it
		module    []byte
		has, not  []string
	}{
		{"tool ${x}.wasm", "core", toolModule(), []string{`["random_get"]`, `trust_level = "limited"`, `tool-x`, "$${x}"}, []string{"mount"}},
		{"echo.wasm", "forge/1", echoModule(), nil, []string{"policy", "capabilities"}},
		{"default.wasm", "wasi (WASI command)", func() []byte {
			var m asm.Module
			for _, name := range []string{"path_unlink_file", "fd_close", "sched_yield"} {
				params := map[string]engines.FuncType{
					"path_unlink_file": asm.Func(asm.Types(engines.I32, engines.I32, engines.I32), asm.Types(engines.I32)),
					"fd_close":         asm.Func(asm.Types(engines.I32), asm.Types(engines.I32)),
					"sched_yield":      asm.Func(nil, asm.Types(engines.I32)),
				}
				m.ImportFunc("wasi_snapshot_preview1", name, params[name])
			}
			m.Memory("memory", 1)
			m.Func("_start", asm.Func(nil, nil), nil)
			return m.Bytes()
		}(), []string{`["file_remove"]`, `trust_level = "standard"`, `mode = "rw"`, "file:///data/**"}, []string{"file_close"}},
		{"reactor.wasm", "core (WASI reactor)", func() []byte {
			var m asm.Module
			m.Func("_initialize", asm.Func(nil, nil), nil)
			m.Func("f", function, asm.Code(nil).I32Const(0))
			return m.Bytes()
		}(), nil, []string{"policy"}},
	} {
		module := filepath.Join(dir, tc.name)
		write(t, module, tc.module)
		r := forgeone(t, "module", "inspect", module).want(t, 0, tc.abi+"\n")
		m := decode[moduleInfo](t, forgeone(t, "module", "inspect", "--format", "json", module).want(t, 0))
		for line := range strings.Lines(m.Grant) {
			r.want(t, 0, strings.TrimSpace(line))
		}
		for _, text := range tc.has {
			if !strings.Contains(m.Grant, text) {
				t.Errorf("%s: no %q in\n%s", tc.name, text, m.Grant)
			}
		}
		for _, text := range tc.not {
			if strings.Contains(m.Grant, text) {
				t.Errorf("%s: %q in\n%s", tc.name, text, m.Grant)
			}
		}
		config := setup(t, baseConfig+m.Grant)
		if err := os.Mkdir(filepath.Join(filepath.Dir(config), "data"), 0o700); err != nil {
			t.Fatal(err)
		}
		forgeone(t, "policy", "check", "--config", config).want(t, 0, "no mistakes")
	}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+allowRandom)
	forgeone(t, "policy", "check", "--config", config).want(t, 0, "no mistakes", "random")
	explain := func(args ...string) result {
		return forgeone(t, append([]string{"policy", "explain", "--config", config, "--plugin", "tool", "--exit-code"}, args...)...)
	}
	explain("--syscall", "random_get", "--arg", "4").want(t, 0, "ALLOWED by random", "in scope, and holds")
	explain("--syscall", "kv_get", "--arg", "k").want(t, 3, "BLOCKED by capability", "not granted")
	explain("--syscall", "random_get").want(t, 2, "--arg")
	explain("--syscall", "nosuch").want(t, 2, "random_get")
	explain("--syscall", "random_get", "--arg", "4", "--live").want(t, 1, "no kernel is running")
	es := decode[[]control.Explanation](t, explain("--syscall", "random_get", "--arg", "4", "--format", "json"))
	if len(es) != 1 || es[0].Outcome != "allowed" || len(es[0].Rules) != 1 || !es[0].Rules[0].Holds {
		t.Errorf("explain: %+v", es)
	}

	// As the gate: what is not granted is refused, and a violation that isolates
	// isolates all the same; a write is an open and a write.
	write(t, config, []byte(baseConfig+`
plugin "tool" {
  wasm        = "tool.wasm"
  trust_level = "standard"
  capabilities {
    syscalls  = ["file_open", "file_read"]
    resources = ["file:///data/**"]
  }
  mount "/data" { host = "." }
}
policy "inbox" {
  syscalls     = ["file_open"]
  on_violation = "quarantine"
  arg "0" { deny = "\\.\\." }
}
`))
	explain("--syscall", "open_file", "--arg", "/data/f.hcl", "--arg", "r").want(t, 0, "file_open(/data/f.hcl, r)", "file:///data/f.hcl", "ALLOWED by inbox")
	explain("--syscall", "file_open", "--arg", "/data/../etc/passwd", "--arg", "r").want(t, 4, "QUARANTINED by inbox", "not granted", "file:///etc/passwd")
	explain("--syscall", "file_open", "--arg", "/etc/passwd", "--arg", "r").want(t, 3, "BLOCKED by capability")
	explain("--syscall", "file_open", "--arg", "/data/new", "--arg", "w").want(t, 3, "file_write", "BLOCKED by capability")
	explain("--syscall", "file_close", "--resource", "file:///data/f.hcl").want(t, 0, "ALLOWED by release")

	write(t, config, []byte("kernel {\n  nmae = 1\n}\n"))
	forgeone(t, "policy", "check", "--config", config).want(t, 2, "f.hcl:2", "name", "mistakes")
	var r checkResult
	if err := json.Unmarshal([]byte(forgeone(t, "policy", "check", "--config", config, "--format", "json").want(t, 2).out), &r); err != nil || r.OK || len(r.Diagnostics) < 2 {
		t.Errorf("check: %+v, %v", r, err)
	}
	forgeone(t, "serve", "--config", config).want(t, 2, "f.hcl:2")
}

func TestAuditVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+allowRandom)
	forgeone(t, "call", "--config", config, "tool", "add", "1", "2").want(t, 0)
	dir := filepath.Join(filepath.Dir(config), "audit")
	forgeone(t, "audit", "verify", "--dir", dir).want(t, 0, "intact", "after the last")

	segments, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	b, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	write(t, segments[0], bytes.Replace(b, []byte(`"tool"`), []byte(`"fool"`), 1))
	forgeone(t, "audit", "verify", "--dir", dir).want(t, 1, "NOT INTACT", "first bad record")

	write(t, segments[0], b)
	forgeone(t, "audit", "verify", "--dir", dir).want(t, 0)
	forgeone(t, "audit", "verify", "--dir", filepath.Join(dir, "none")).want(t, 1)

	// Without a checkpoint, all of it may be anyone's.
	if err := os.Remove(filepath.Join(dir, "checkpoints")); err != nil {
		t.Fatal(err)
	}
	forgeone(t, "audit", "verify", "--dir", dir).want(t, 1, "NOT PROVED")
	forgeone(t, "audit", "verify", "--dir", dir, "--format", "json").want(t, 1, `"intact": false`)
}

// An export without records means that there are none: what cannot be on record
// is refused.
func TestAuditExport(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+allowRandom)
	forgeone(t, "call", "--config", config, "tool", "roll").want(t, 0)
	export := func(args ...string) result {
		return forgeone(t, append([]string{"audit", "export", "--config", config}, args...)...)
	}
	export("--kind", "syscall", "--decision", "allowed").want(t, 0, "random_get")
	if r := export("--decision", "blocked").want(t, 0); r.out != "" {
		t.Errorf("blocked: %s", r.out)
	}
	export("--kind", "syscal").want(t, 2, `"syscall"`)
	export("--decision", "denied").want(t, 2, `"blocked"`)
	forgeone(t, "audit", "export", "--dir", filepath.Dir(config)).want(t, 1, "no audit log")
	forgeone(t, "audit", "export", "--dir", filepath.Join(filepath.Dir(config), "none")).want(t, 1, "no audit log")
}

func TestAuditKey(t *testing.T) {
	t.Parallel()
	config := setup(t, strings.Replace(baseConfig, "generate_key = true", `key_file = "log.key"`, 1)+toolPlugin)
	key := filepath.Join(filepath.Dir(config), "log.key")
	verifier := strings.TrimSpace(forgeone(t, "audit", "keygen", "--name", "acme", "--output", key).want(t, 0).out)
	if fi, err := os.Stat(key); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v; want mode 0600", fi, err)
	}
	forgeone(t, "audit", "keygen", "--name", "acme", "--output", key).want(t, 1, "exists")
	forgeone(t, "call", "--config", config, "tool", "add", "1", "2").want(t, 0)

	write(t, key+".pub", []byte(verifier+"\n"))
	forgeone(t, "audit", "verify", "--config", config, "--key", "@"+key+".pub").want(t, 0, "intact")
	other := forgeone(t, "audit", "keygen", "--name", "acme", "--output", key+"2").want(t, 0).out
	forgeone(t, "audit", "verify", "--config", config, "--key", strings.TrimSpace(other)).want(t, 1, "NOT INTACT")
	forgeone(t, "audit", "verify", "--config", config, "--key", "nonsense").want(t, 1, "not a verifier key")
}

func TestEngines(t *testing.T) {
	t.Parallel()
	infos := decode[[]engineInfo](t, forgeone(t, "engines", "--format", "json"))
	if len(infos) != 3 || !infos[0].Available || infos[0].Name != "wazero" || infos[0].Version == "" || infos[1].Available || infos[1].Reason == "" {
		t.Errorf("engines: %+v", infos)
	}
	if runtime.GOOS == "windows" {
		return
	}
	// A binary that is there and does not work is said to be what it is.
	worker := filepath.Join(filepath.Dir(binary), "forgeone-engine-wasmer")
	t.Cleanup(func() { _ = os.Remove(worker) })
	if err := os.WriteFile(worker, []byte("#!/bin/sh\necho broken >&2; exit 3\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	forgeone(t, "engines").want(t, 0, "wasmer    no", "broken")
	config := setup(t, baseConfig+"engine \"wasmer\" {\n  isolation = \"in-process\"\n}\n")
	forgeone(t, "serve", "--config", config).want(t, 2, "not linked into this binary", "isolation")
}

// TestEngineInAProcess runs a plugin's engine in a process of its own, limits
// included, and kills that process under it.
func TestEngineInAProcess(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("windows has no child processes here")
	}
	worker := filepath.Join(filepath.Dir(binary), "forgeone-engine-wazero")
	build := exec.Command("go", "build", "-o", worker, "../forgeone-engine")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	config := setup(t, baseConfig+toolPlugin+allowRandom+"engine \"wazero\" {\n  isolation = \"process\"\n}\n")
	serve(t, config)
	forgeone(t, "call", "--config", config, "tool", "add", "20", "22").want(t, 0, "42")
	forgeone(t, "call", "--config", config, "tool", "roll").want(t, 0, "0")
	forgeone(t, "call", "--config", config, "tool", "spin", "--timeout", "200ms").want(t, 5, "timeout")
	forgeone(t, "call", "--config", config, "tool", "add", "1", "2").want(t, 0, "3")
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("windows has no signals to send")
	}
	module := filepath.Join(newDir(t), "tool.wasm")
	write(t, module, toolModule())
	cmd := exec.Command(binary, "call", module, "spin", "--log-level", "info")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(stderr)
	for s.Scan() && !strings.Contains(s.Text(), "plugin start") {
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	last := ""
	for s.Scan() {
		last = s.Text()
	}
	_ = cmd.Wait() // its exit code says it
	if code := cmd.ProcessState.ExitCode(); code != exitFailed || last != "error: interrupted" {
		t.Errorf("exit code %d, last line %q", code, last)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"sevre"}, `unknown command "sevre" for "forgeone": did you mean serve?`},
		{[]string{"plugin", "lst"}, "did you mean list"},
		{[]string{"serve"}, "config"},
		{[]string{"serve", "--config", "nosuch.hcl"}, "does not exist"},
		{[]string{"status", "--config", "nosuch.hcl"}, "does not exist"},
		{[]string{"policy", "check", "--config", "."}, "is a directory"},
		{[]string{"status"}, "socket"},
		{[]string{"status", "--nosuch"}, "--help"},
		{[]string{"status", "extra", "--socket", "x"}, "extra"},
		{[]string{"version", "--format", "xml"}, "table or json"},
		{[]string{"version", "--log-level", "loud"}, "--log-level"},
		{[]string{"call", "x.wasm"}, "FUNCTION"},
		{[]string{"audit", "export", "--dir", "x", "--format", "json"}, "jsonl or csv"},
		{[]string{"audit", "export", "--dir", "x", "--from", "yesterday"}, "RFC 3339"},
	} {
		r := forgeone(t, c.args...).want(t, 2, c.want)
		if r.out != "" || strings.Count(r.err, "error: ") != 1 {
			t.Errorf("%q: want one error and nothing else, got stdout %q, stderr %q", c.args, r.out, r.err)
		}
	}
	if v, flag := forgeone(t, "version").want(t, 0, "forgeone"), forgeone(t, "--version").want(t, 0); v.out != flag.out {
		t.Errorf("version says %q, --version %q", v.out, flag.out)
	}
	forgeone(t, "plugin").want(t, 0, "reload")
	forgeone(t, "completion", "bash").want(t, 0, "complete")
}
