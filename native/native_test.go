//go:build unix

package native_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/native"
	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/wire"
)

func TestCall(t *testing.T) {
	p := start(t, config("plugin", refuse))
	d := p.Description()
	if d.Name != "test" || d.Version != "1.2.3" || d.Protocol != wire.ProtocolVersion || len(d.Functions) != len(testPlugin.Functions) || !slices.IsSorted(d.Functions) {
		t.Errorf("it describes itself as %+v", d)
	}
	if err := p.Health(t.Context()); err != nil {
		t.Error(err)
	}
	for _, in := range []string{"", "hello", "\x00\xff", strings.Repeat("x", 1<<20)} {
		out, err := p.Call(t.Context(), 1, "echo", []byte(in))
		if err != nil || string(out) != in {
			t.Errorf("echo of %d bytes: %d bytes, %v", len(in), len(out), err)
		}
	}
	t.Setenv("NATIVE_TEST_SECRET", "hunter2")
	if out, err := p.Call(t.Context(), 1, "env", []byte("NATIVE_TEST_SECRET")); err != nil || len(out) > 0 {
		t.Errorf("the plugin has our environment: %q, %v", out, err)
	}
	if err := p.Lifecycle(t.Context(), 1, native.Unload); err != nil {
		t.Errorf("an event that it has no hook for: %v", err)
	}
	if err := p.Lifecycle(t.Context(), 1, "birthday"); err == nil {
		t.Error("an event that does not exist was told")
	}
}

// TestFunctionsFail holds that a function's failure is told as such, and does
// the plugin no harm.
func TestFunctionsFail(t *testing.T) {
	var out journal
	cfg := config("plugin", func(_ context.Context, s native.Syscall) native.Result {
		switch s.Name {
		case "fail":
			return native.Result{Status: native.Failure, Code: 28, Message: "disk full"}
		case "quarantine":
			return native.Result{Status: native.Quarantined, Message: "enough"}
		}
		return native.Result{Message: "no"}
	})
	cfg.Logger = out.logger()
	p := start(t, cfg)
	for name, tt := range map[string]struct {
		function, input string
		code            int32
		says            string
	}{
		"error":               {"fail", "out of cheese", sdk.CodeIO, `function "fail" failed: out of cheese (code 5)`},
		"hostile to terminal": {"fail", "\x1b[2J\xff", sdk.CodeIO, `"\x1b[2J�"`},
		"panic":               {"panic", "", sdk.CodeIO, "panic: a mistake"},
		"failed syscall":      {"pass", "fail", 28, "pass: fail: disk full (errno 28)"},
		"blocked syscall":     {"pass", "block", sdk.CodeAccess, "pass: block was blocked: no"},
		"quarantined syscall": {"pass", "quarantine", sdk.CodeIO, "enough"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := p.Call(t.Context(), 1, tt.function, []byte(tt.input))
			var fe *native.FunctionError
			if !errors.As(err, &fe) || fe.Function != tt.function || fe.Code != tt.code || !strings.Contains(err.Error(), tt.says) || b != nil {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
	out.find(t, "native_test.init", 1) // where it panicked

	_, err := p.Call(t.Context(), 1, "fly\xff", nil)
	if !errors.Is(err, native.ErrNoFunction) || !strings.Contains(err.Error(), "ask, big, bigpayload") {
		t.Errorf("a function that does not exist: %v", err)
	}
	if _, err := p.Call(t.Context(), 1, "echo", nil); err != nil {
		t.Error(err)
	}
}

// TestSyscalls holds that a syscall and its four ends cross unchanged.
func TestSyscalls(t *testing.T) {
	answers := map[string]native.Result{
		"zero":       {},
		"blocked":    {Status: native.Blocked, Message: "write a policy", Data: []byte("secret"), Code: 7},
		"quarantine": {Status: native.Quarantined, Message: "enough\xff"},
		"failure":    {Status: native.Failure, Code: 2, Message: "not found", Context: map[string]string{"path": "/a\xff"}},
		"success":    {Status: native.Success, Data: []byte("data\x00\xff"), Message: "ignored"},
		"unknown":    {Status: 99, Data: []byte("secret")},
	}
	var asked native.Syscall
	p := start(t, config("plugin", func(_ context.Context, s native.Syscall) native.Result {
		asked = s
		return answers[s.Name]
	}))
	for name, want := range map[string]string{
		"zero":       "blocked zero ",
		"blocked":    "blocked blocked write a policy",
		"quarantine": "quarantined quarantine enough\ufffd",
		"failure":    "failed failure 2 not found map[path:/a\ufffd]",
		"success":    "done data\x00\xff",
		"unknown":    "blocked unknown ",
	} {
		out, err := p.Call(t.Context(), 42, "ask", []byte(name))
		if err != nil || string(out) != want {
			t.Errorf("%s: got %q, %v, want %q", name, out, err, want)
		}
		if asked.Call != 42 || asked.Name != name || !slices.Equal(asked.Args, []string{"a", "", "\xff\x00"}) || asked.Handle != 1<<63 || !bytes.Equal(asked.Payload, []byte{0, 1, 2}) {
			t.Errorf("asked %+v", asked)
		}
	}
	if out, err := p.Call(t.Context(), 42, "ask", []byte("in\xffvalid")); err != nil || asked.Name != "in\ufffdvalid" {
		t.Errorf("a name that is not text: %q, %v", out, err)
	}
}

func TestLifecycle(t *testing.T) {
	var told []string
	p := start(t, config("plugin", func(_ context.Context, s native.Syscall) native.Result {
		told = append(told, fmt.Sprint(s.Call, s.Args))
		if s.Args[0] == "pause" {
			return native.Result{Message: "not now"}
		}
		return native.Result{Status: native.Success}
	}))
	var fe *native.FunctionError
	for i, e := range []native.Event{native.Init, native.Begin, native.Pause, native.Resume, native.Stop} {
		err := p.Lifecycle(t.Context(), uint64(i), e)
		if e == native.Pause {
			if !errors.As(err, &fe) || fe.Function != "pause" || fe.Code != sdk.CodeAccess {
				t.Errorf("pause was refused: %v", err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
	if want := []string{"0 [init]", "1 [start]", "2 [pause]", "3 [resume]", "4 [stop]"}; !slices.Equal(told, want) {
		t.Errorf("told %v", told)
	}
}

// TestConcurrentCalls holds that each syscall carries the number of the call
// that it is for.
func TestConcurrentCalls(t *testing.T) {
	p := start(t, config("plugin", func(_ context.Context, s native.Syscall) native.Result {
		return native.Result{Status: native.Success, Data: fmt.Append(nil, s.Call)}
	}))
	var wg sync.WaitGroup
	for call := range uint64(200) {
		wg.Go(func() {
			out, err := p.Call(t.Context(), call, "ask", []byte("which"))
			if want := fmt.Sprint("done ", call); err != nil || string(out) != want {
				t.Errorf("got %q, %v, want %q", out, err, want)
			}
		})
	}
	wg.Wait()
}

// waiting is a gate that tells when a plugin waits.
type waiting chan struct{}

func (w waiting) gate(context.Context, native.Syscall) native.Result {
	w <- struct{}{}
	return native.Result{Status: native.Success}
}

func TestCallIsCancelled(t *testing.T) {
	var out journal
	w := make(waiting)
	cfg := config("plugin", w.gate)
	cfg.Logger = out.logger()
	p := start(t, cfg)
	why := errors.New("nobody waits for it")
	for _, function := range []string{"wait", "stubborn"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-w; cancel(why) }()
		if _, err := p.Call(ctx, 1, function, nil); !errors.Is(err, why) {
			t.Errorf("%s: got %v", function, err)
		}
	}
	out.find(t, "no longer waiting", 1)

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	go func() { <-w }()
	if _, err := p.Call(ctx, 1, "wait", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	out.find(t, "no longer waiting", 2)

	ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if out, err := p.Call(ctx, 1, "deadline", nil); err != nil || string(out) != "true true" {
		t.Errorf("the deadline as the plugin sees it: %q, %v", out, err)
	}
}

func TestSyscallIsCancelled(t *testing.T) {
	ended := make(chan error, 1)
	block := make(chan struct{})
	p := start(t, config("plugin", func(ctx context.Context, s native.Syscall) native.Result {
		if s.Name == "block" {
			close(block)
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return native.Result{Status: native.Failure, Code: sdk.CodeTimeout, Message: "given up"}
		}
		<-block
		return native.Result{Status: native.Success}
	}))
	t.Run("by the plugin", func(t *testing.T) {
		_, err := p.Call(t.Context(), 1, "impatient", nil)
		var fe *native.FunctionError
		if !errors.As(err, &fe) || fe.Code != sdk.CodeTimeout {
			t.Errorf("got %v", err)
		}
		select {
		case <-block: // else the plugin gave up before its syscall was here
			<-ended
		case <-time.After(time.Second):
		}
	})
	t.Run("by the end of its call", func(t *testing.T) {
		block = make(chan struct{})
		if _, err := p.Call(t.Context(), 1, "desert", nil); err != nil {
			t.Error(err)
		}
		select {
		case <-ended:
		default:
			t.Error("the call has returned and a syscall of its is still served")
		}
	})
	t.Run("two calls of one number", func(t *testing.T) {
		block = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = p.Call(ctx, 9, "ask", []byte("block"))
		}()
		<-block
		if _, err := p.Call(t.Context(), 9, "echo", nil); err == nil || !strings.Contains(err.Error(), "number 9 is running") {
			t.Errorf("got %v", err)
		}
		cancel()
		<-done
		<-ended
	})
}

// TestEndsMidCall holds that a call on a plugin that dies ends at once, says
// how it died, and that others live on.
func TestEndsMidCall(t *testing.T) {
	other := start(t, config("plugin", refuse))
	for name, tt := range map[string]struct {
		function string
		says     []string
	}{
		"kill -9": {"stubborn", []string{"signal: killed"}},
		"exit":    {"exit", []string{"exit status 7"}},
		"crash":   {"crash", []string{"exit status 2", "panic: beyond recovery"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := make(waiting)
			p := start(t, config("plugin", w.gate))
			if tt.function == "stubborn" {
				go func() { <-w; _ = syscall.Kill(p.PID(), syscall.SIGKILL) }()
			}
			_, err := p.Call(t.Context(), 1, tt.function, nil)
			var e *native.Error
			if !errors.Is(err, native.ErrExited) || !errors.As(err, &e) || e.Name != "test" {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			<-p.Exited()
			if _, err := p.Call(t.Context(), 1, "echo", nil); !errors.Is(err, native.ErrExited) {
				t.Errorf("a later call: %v", err)
			}
			if err := p.Lifecycle(t.Context(), 1, native.Stop); !errors.Is(err, native.ErrExited) {
				t.Errorf("a later event: %v", err)
			}
			if p.Health(t.Context()) == nil || p.ExitError() == nil {
				t.Error("it has ended, and is healthy or has no end")
			}
		})
	}
	if _, err := other.Call(t.Context(), 1, "echo", nil); err != nil {
		t.Error(err)
	}
}

func TestKilledBySyscall(t *testing.T) {
	var p *native.Plugin
	p = start(t, config("plugin", func(context.Context, native.Syscall) native.Result {
		if err := p.Kill(); err != nil { // as quarantine does
			t.Error(err)
		}
		return native.Result{Status: native.Quarantined, Message: "enough"}
	}))
	if _, err := p.Call(t.Context(), 1, "ask", []byte("anything")); !errors.Is(err, native.ErrExited) {
		t.Errorf("got %v", err)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	p := start(t, config("plugin", func(_ context.Context, s native.Syscall) native.Result {
		return native.Result{Status: native.Success, Data: make([]byte, len(s.Payload))}
	}))
	const most = 64 << 20
	if out, err := p.Call(t.Context(), 1, "big", []byte(strconv.Itoa(most))); err != nil || len(out) != most {
		t.Errorf("the largest output: %d bytes, %v", len(out), err)
	}
	if _, err := p.Call(t.Context(), 1, "big", []byte(strconv.Itoa(most+1<<20))); !errors.Is(err, native.ErrTooLarge) {
		t.Errorf("a larger output: %v", err)
	}
	if _, err := p.Call(t.Context(), 1, "echo", make([]byte, most+1<<20)); !errors.Is(err, native.ErrTooLarge) {
		t.Errorf("a larger input: %v", err)
	}
	if out, err := p.Call(t.Context(), 1, "bigpayload", []byte(strconv.Itoa(16<<20))); err != nil || len(out) != 16<<20 {
		t.Errorf("the largest payload: %d bytes, %v", len(out), err)
	}
	var fe *native.FunctionError
	if _, err := p.Call(t.Context(), 1, "bigpayload", []byte(strconv.Itoa(17<<20))); !errors.As(err, &fe) || fe.Code != sdk.CodeTooLarge {
		t.Errorf("a larger payload: %v", err)
	}
	if _, err := p.Call(t.Context(), 1, "echo", nil); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestStrangeDescriptions(t *testing.T) {
	many := `{"functions":["f0"` + strings.Repeat(`,"f"`, 4096) + `]}`
	for role, want := range map[string]string{
		`{"name":"x\u001b[2J"}`:                          `"x\x1b[2J"`,
		`{"version":"` + strings.Repeat("1", 300) + `"}`: "at most 256 bytes",
		`{"functions":["a","b","a"]}`:                    `two functions "a"`,
		`{"functions":["a",""]}`:                         "without a name",
		many:                                             "4097 functions",
	} {
		_, err := native.Start(t.Context(), config(role, refuse))
		if !errors.Is(err, native.ErrNotAPlugin) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v", role, err)
		}
	}

	p := start(t, config(`{"functions":["curse"]}`, refuse))
	_, err := p.Call(t.Context(), 1, "curse", nil)
	var fe *native.FunctionError
	if !errors.As(err, &fe) || len(fe.Message) > 64<<10 || strings.Contains(err.Error(), "\x1b") || fe.Code != -1 {
		t.Errorf("got an error of %d bytes", len(err.Error()))
	}
	if _, err := p.Call(t.Context(), 1, "echo", nil); !errors.Is(err, native.ErrNoFunction) {
		t.Errorf("a function that it does not admit to: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	cfg := config("plugin", nil)
	if _, err := native.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "gate") {
		t.Errorf("without a gate: %v", err)
	}
	cfg = config("plugin", refuse)
	cfg.SHA256 = strings.Repeat("0", 64)
	if _, err := native.Start(t.Context(), cfg); !errors.Is(err, native.ErrChecksum) {
		t.Errorf("with another checksum: %v", err)
	}
}

func TestStartedByHand(t *testing.T) {
	path, _ := executable()
	cmd := exec.Command(path)
	cmd.Env = []string{roleEnv + "=plugin"}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "test 1.2.3 is a ForgeOne plugin") || !strings.Contains(string(out), path) {
		t.Errorf("got %v, %s", err, out)
	}
}

// journal is a logger that keeps its lines.
type journal struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "test", Output: j, Level: hclog.Trace})
}

// find waits for text to be logged n times.
func (j *journal) find(t *testing.T, text string, n int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		j.mu.Lock()
		s := j.buf.String()
		j.mu.Unlock()
		if strings.Count(s, text) >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q was not logged %d times:\n%s", text, n, s)
		}
	}
}
