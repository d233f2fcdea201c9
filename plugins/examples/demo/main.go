// Command demo shows the main job on the example plugins: it brings up a kernel
// from forgeone.hcl with two plugins of each kind, asks them for things that are
// allowed, blocked and punished, and verifies the log of it all. It is what
// `make demo` runs, from the root of the repository, and uses the forgeone
// binary as anyone would. It takes no port and leaves nothing running; the
// kernel's state stays in var/demo to be looked at.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	home   = "var/demo"
	config = home + "/forgeone.hcl"
)

var binary = filepath.Join("bin", "forgeone")

// Exit codes of the forgeone command.
const (
	done        = 0
	failed      = 1
	quarantined = 4
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\nThe kernel's own log is in %s/kernel.log\n", err, home)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	fmt.Println("ForgeOne: one gate over WASM and native plugins")
	if err := prepare(); err != nil {
		return err
	}
	k, err := serve(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = k.stop() }()
	step("kernel up, with summarise and rogue as WASM (wazero) and as native processes", "")

	title("Allowed: both kinds read a document they were lent")
	for _, p := range []string{"summarise-wasm", "summarise-native"} {
		out, err := call(ctx, done, p, "summarise", "/data/report.txt")
		if err != nil {
			return err
		}
		step(p+" summarises /data/report.txt", strings.TrimSpace(out))
	}

	title("Blocked: neither kind may write it")
	for _, p := range []string{"rogue-wasm", "rogue-native"} {
		out, err := call(ctx, failed, p, "write", "")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "blocked") {
			return fmt.Errorf("%s write: %q does not say that it was blocked", p, out)
		}
		step(p+" tries to overwrite it", line(out))
	}
	if b, err := os.ReadFile(home + "/inbox/report.txt"); err != nil || !bytes.Equal(b, report) {
		return fmt.Errorf("the document changed: %q, %v", b, err)
	}
	step("the document is what it was", "")

	title("Explained: the policy says what it would decide, and why")
	out, err := forgeone(ctx, done, "policy", "explain", "--config", config, "--plugin", "rogue-wasm",
		"--syscall", "file_open", "--arg", "/data/../etc/passwd", "--arg", "r", "--resource", "file:///etc/passwd")
	if err != nil {
		return err
	}
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		fmt.Println("    " + l)
	}

	title("Quarantined: both kinds try to climb out of /data, which the policy answers with quarantine")
	for _, p := range []string{"rogue-wasm", "rogue-native"} {
		pid, err := pidOf(ctx, p)
		if err != nil {
			return err
		}
		out, err := call(ctx, quarantined, p, "escape", "")
		if err != nil {
			return err
		}
		step(p+" opens /data/../etc/passwd", line(out))
		if pid != 0 {
			if gone(pid) {
				step(fmt.Sprintf("%s's process %d is gone", p, pid), "")
			} else {
				return fmt.Errorf("%s's process %d is still there", p, pid)
			}
		}
		if out, err = call(ctx, quarantined, p, "write", ""); err != nil {
			return err
		}
		step(p+" is called again", line(out))
	}

	title("Reloaded: a plugin is replaced while it is called")
	n, err := reload(ctx, "summarise-wasm")
	if err != nil {
		return err
	}
	step(fmt.Sprintf("summarise-wasm reloaded 3 times under %d calls, none of which failed", n), "")

	title("Restarted: quarantine outlives the kernel")
	if err := k.stop(); err != nil {
		return err
	}
	if k, err = serve(ctx); err != nil {
		return err
	}
	if out, err = call(ctx, quarantined, "rogue-wasm", "write", ""); err != nil {
		return err
	}
	step("rogue-wasm is called after a restart", line(out))
	if err := k.stop(); err != nil {
		return err
	}
	step("kernel down, nothing left running", "")

	title("Verified: what happened can be proved")
	if out, err = forgeone(ctx, done, "audit", "verify", "--dir", home+"/audit"); err != nil {
		return err
	}
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		fmt.Println("    " + l)
	}
	fmt.Printf("\nLook further:  %s audit export --dir %s/audit --decision quarantined\n", binary, home)
	return nil
}

var report = []byte("The forge is hot. The iron is ready. Whoever waits for a better hour will find the iron cold.\n")

// prepare makes var/demo anew.
func prepare() error {
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	for _, d := range []string{"inbox", "plugins"} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(home+"/inbox/report.txt", report, 0o644); err != nil {
		return err
	}
	for _, f := range []string{"summarise.wasm", "rogue.wasm", "summarise", "rogue"} {
		if err := copyFile(filepath.Join("bin", "examples", f), filepath.Join(home, "plugins", f)); err != nil {
			return fmt.Errorf("%w; run make examples first", err)
		}
	}
	return copyFile("plugins/examples/demo/forgeone.hcl", config)
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// environment is what forgeone.hcl reads by env(): the sums that pin the native
// plugins, which in real use stand in the file.
func environment() ([]string, error) {
	env := os.Environ()
	for name, file := range map[string]string{"SUMMARISE_SHA256": "summarise", "ROGUE_SHA256": "rogue"} {
		b, err := os.ReadFile(filepath.Join(home, "plugins", file))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		env = append(env, name+"="+hex.EncodeToString(sum[:]))
	}
	return env, nil
}

// kernel is a running `forgeone serve`.
type kernel struct {
	cmd  *exec.Cmd
	log  *os.File
	once sync.Once
	err  error
}

// serve starts the kernel and waits until it answers.
func serve(ctx context.Context) (*kernel, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(home+"/kernel.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	k := &kernel{cmd: exec.Command(binary, "serve", "--config", config), log: log}
	k.cmd.Env, k.cmd.Stderr = env, log
	if err := k.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	exited := make(chan struct{})
	go func() {
		k.err = k.cmd.Wait()
		close(exited)
	}()
	for {
		if _, err := forgeone(ctx, done, "status", "--config", config); err == nil {
			return k, nil
		}
		select {
		case <-exited:
			b, _ := os.ReadFile(home + "/kernel.log")
			return nil, fmt.Errorf("the kernel did not come up: %v\n%s", k.err, b)
		case <-ctx.Done():
			_ = k.cmd.Process.Kill()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends the kernel as an operator would.
func (k *kernel) stop() error {
	var err error
	k.once.Do(func() {
		_ = k.cmd.Process.Signal(syscall.SIGTERM)
		for range 600 {
			if gone(k.cmd.Process.Pid) {
				err = k.log.Close()
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		_ = k.cmd.Process.Kill()
		err = errors.New("the kernel did not end when asked to")
	})
	return err
}

// forgeone runs the command and gives what it printed: its output if it ended
// with 0, else its error. Any other exit code than want is an error.
func forgeone(ctx context.Context, want int, args ...string) (string, error) {
	env, err := environment()
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return "", err
		}
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		return "", fmt.Errorf("forgeone %s: exit code %d, expected %d\n%s%s", strings.Join(args, " "), got, want, stdout.String(), stderr.String())
	}
	if want == done {
		return stdout.String(), nil
	}
	return stderr.String(), nil
}

// call calls a plugin through the running kernel.
func call(ctx context.Context, want int, plugin, function, input string) (string, error) {
	return forgeone(ctx, want, "call", "--config", config, "--input", input, plugin, function)
}

// reload reloads a plugin three times while it is called, and counts the calls.
func reload(ctx context.Context, plugin string) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	result := make(chan error, 1)
	calls := 0
	go func() {
		for {
			select {
			case <-stop:
				result <- nil
				return
			default:
			}
			if _, err := call(ctx, done, plugin, "summarise", "/data/report.txt"); err != nil {
				result <- err
				return
			}
			calls++
		}
	}()
	for range 3 {
		if _, err := forgeone(ctx, done, "plugin", "reload", "--config", config, plugin); err != nil {
			cancel()
			<-result
			return 0, err
		}
	}
	close(stop)
	return calls, <-result
}

// pidOf is the process of a native plugin, 0 for a WASM one.
func pidOf(ctx context.Context, plugin string) (int, error) {
	out, err := forgeone(ctx, done, "plugin", "inspect", "--config", config, "--format", "json", plugin)
	if err != nil {
		return 0, err
	}
	var p struct {
		PID int `json:"pid"`
	}
	return p.PID, json.NewDecoder(strings.NewReader(out)).Decode(&p)
}

// gone reports whether a process has ended.
func gone(pid int) bool {
	for range 40 {
		p, err := os.FindProcess(pid)
		if err != nil || p.Signal(syscall.Signal(0)) != nil {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

func title(s string) { fmt.Printf("\n%s\n", s) }

func step(what, result string) {
	fmt.Println("  ✓ " + what)
	if result != "" {
		fmt.Println("    " + result)
	}
}

// line is the first line of what was printed.
func line(s string) string {
	l, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return l
}
