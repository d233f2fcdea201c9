//go:build unix

package child_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/child"
)

func TestServes(t *testing.T) {
	p := start(t, config("serve"))
	if err := p.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if p.Version() != 1 {
		t.Errorf("version %d is spoken, want 1", p.Version())
	}
	if err := p.ExitError(); err != nil {
		t.Errorf("it runs, and its end is told: %v", err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if !gone(p.PID()) {
		t.Error("it was stopped and its process is there")
	}
	err := p.ExitError()
	if !errors.Is(err, child.ErrExited) || !strings.Contains(err.Error(), "exit status 0") {
		t.Errorf("it was stopped gracefully: %v", err)
	}
	if p.Health(t.Context()) == nil {
		t.Error("it was stopped and is healthy")
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("stopped again: %v", err)
	}
	if _, err := p.Serve(1, nil); err == nil {
		t.Error("a service is offered to a child that has ended")
	}
}

// TestNotAPlugin holds the diagnosis of what can be wrong with a program that
// is to be a child.
func TestNotAPlugin(t *testing.T) {
	target, dialled := listener(t)
	for role, tt := range map[string]struct {
		kind error
		says []string
	}{
		"exit":      {child.ErrNotAPlugin, []string{"exit status 3", "cannot open my database", "sdk/native"}},
		"panic":     {child.ErrNotAPlugin, []string{"exit status 2", "panic: this is my end"}},
		"usage":     {child.ErrNotAPlugin, []string{`usage: frobnicate \x1b[31mFILE`, "sdk/native"}},
		"endless":   {child.ErrNotAPlugin, []string{"xxx"}},
		"tcp":       {child.ErrNotAPlugin, []string{"tcp://", "no unix socket", "PLUGIN_UNIX_SOCKET_DIR"}},
		"elsewhere": {child.ErrNotAPlugin, []string{target, "not in the child's own directory"}},
		"dotdot":    {child.ErrNotAPlugin, []string{"not in the child's own directory"}},
		"link":      {child.ErrNotAPlugin, []string{"no socket"}},
		"version":   {child.ErrVersion, []string{"version 7", "the kernel 1, 2", "rebuild"}},
		"netrpc":    {child.ErrNotAPlugin, []string{"netrpc"}},
		"plain":     {child.ErrNotAPlugin, []string{"handshake"}},
	} {
		t.Run(role, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			cfg := config(role)
			cfg.Env["ADDRESS"] = target
			p, err := child.Start(t.Context(), cfg)
			if err == nil {
				_ = p.Stop(t.Context())
				t.Fatal("it was started")
			}
			var e *child.Error
			if !errors.As(err, &e) || !errors.Is(err, tt.kind) || e.Name != role || e.Path != cfg.Path {
				t.Errorf("got %#v", err)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if len(err.Error()) > 4096 || strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("the child writes what it likes into the error: %q", err)
			}
			nothingLeft(t, tmp)
		})
	}
	if n := len(dialled); n > 0 {
		t.Errorf("a socket that is not the child's was dialled %d times", n)
	}
}

// listener is a socket that no child has made.
func listener(t *testing.T) (path string, accepted chan struct{}) {
	dir, err := os.MkdirTemp("", "f")
	if err != nil {
		t.Fatal(err)
	}
	path, accepted = filepath.Join(dir, "s"), make(chan struct{}, 100)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(), os.RemoveAll(dir) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			_ = c.Close()
		}
	}()
	return path, accepted
}

func nothingLeft(t *testing.T, tmp string) {
	t.Helper()
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v %v", left, err)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	for _, role := range []string{"silent", "mute"} {
		t.Run(role, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			cfg := config(role)
			cfg.StartTimeout = 300 * time.Millisecond
			_, err := child.Start(t.Context(), cfg)
			if !errors.Is(err, child.ErrHandshakeTimeout) || !strings.Contains(err.Error(), "300ms") {
				t.Errorf("got %v", err)
			}
			nothingLeft(t, tmp)
		})
	}
}

func TestStartIsCancelled(t *testing.T) {
	why := errors.New("the operator changed his mind")
	for _, delay := range []time.Duration{0, 300 * time.Millisecond} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(delay, func() { cancel(why) })
		if _, err := child.Start(ctx, config("silent")); !errors.Is(err, why) {
			t.Errorf("after %v: got %v", delay, err)
		}
	}
}

// TestBinary holds that only the configured bytes are run.
func TestBinary(t *testing.T) {
	path, sum := executable()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o700); err != nil {
		t.Fatal(err)
	}
	const textSum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for name, tt := range map[string]struct {
		path, sum string
		kind      error
		says      string
	}{
		"none":      {path, "", child.ErrChecksum, "64 hexadecimal digits"},
		"short":     {path, sum[:62], child.ErrChecksum, "64 hexadecimal digits"},
		"no hex":    {path, "zz" + sum[2:], child.ErrChecksum, "64 hexadecimal digits"},
		"other":     {path, textSum, child.ErrChecksum, "it has sha256 " + sum + ", configured is " + textSum},
		"missing":   {filepath.Join(dir, "missing"), sum, fs.ErrNotExist, "missing"},
		"directory": {dir, sum, nil, "not a regular file"},
		"fifo":      {fifo, sum, nil, "not a regular file"},
		"text":      {text, textSum, child.ErrNotAPlugin, "cannot be run"},
		"no path":   {"", sum, nil, "no path"},
	} {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			cfg := config("serve")
			cfg.Path, cfg.SHA256 = tt.path, tt.sum
			_, err := child.Start(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), tt.says) || (tt.kind != nil && !errors.Is(err, tt.kind)) {
				t.Errorf("got %v", err)
			}
			nothingLeft(t, tmp)
		})
	}

	t.Run("upper case", func(t *testing.T) {
		cfg := config("serve")
		cfg.SHA256 = strings.ToUpper(cfg.SHA256)
		start(t, cfg)
	})
}

func TestSocketPathIsTooLong(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), strings.Repeat("d", 80)))
	if _, err := child.Start(t.Context(), config("serve")); err == nil || !strings.Contains(err.Error(), "set TMPDIR to a shorter one") {
		t.Errorf("got %v", err)
	}
}

func TestEnvironmentIsNotInherited(t *testing.T) {
	t.Setenv("CHILD_TEST_SECRET", "hunter2")
	var j journal
	cfg := config("env")
	cfg.Logger, cfg.Env["GIVEN"] = j.logger(), "a b=c"
	start(t, cfg)
	j.find(t, "env GIVEN=a b=c")
	for _, l := range j.lines(t) {
		name, _, _ := strings.Cut(strings.TrimPrefix(l.message(), "env "), "=")
		if strings.HasPrefix(l.message(), "env ") && !strings.HasPrefix(name, "PLUGIN_") && !slices.Contains([]string{cookieKey, roleEnv, "GIVEN"}, name) {
			t.Errorf("the child has the variable %s", name)
		}
	}

	for _, name := range []string{"", "A=B", "A\x00", "PLUGIN_CLIENT_CERT", cookieKey} {
		cfg := config("serve")
		cfg.Env[name] = "x"
		if _, err := child.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "cannot be set") {
			t.Errorf("variable %q: %v", name, err)
		}
	}
}

func TestNothingElseIsInherited(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("/proc tells it on Linux alone")
	}
	// As this process would have it by inheritance: os.Open closes it on exec.
	fd, err := syscall.Open("/etc/passwd", syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var j journal
	cfg := config("inherit")
	cfg.Logger = j.logger()
	p := start(t, cfg)
	j.find(t, "stdin 0 <nil>")
	exe := strings.TrimPrefix(j.find(t, "exe ").message(), "exe ")
	if fi, err := os.Stat(exe); err != nil || fi.Mode().Perm() != 0o500 || filepath.Dir(filepath.Dir(exe)) != tmp {
		t.Errorf("it runs from %s: %v %v", exe, fi, err)
	}
	if fi, err := os.Stat(filepath.Dir(exe)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("its directory: %v %v", fi, err)
	}
	j.find(t, "cwd "+filepath.Dir(exe))
	for _, l := range j.lines(t) {
		if strings.HasPrefix(l.message(), "fd ") && strings.Contains(l.message(), "/etc/passwd") {
			t.Errorf("the child has an open file of ours: %s", l.message())
		}
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	nothingLeft(t, tmp)
}

func TestOutputIsBounded(t *testing.T) {
	var j journal
	cfg := config("flood")
	cfg.Logger = j.logger()
	p := start(t, cfg)
	dropped := j.find(t, "output dropped")
	if n, _ := dropped["lines"].(float64); n < 1000 {
		t.Errorf("%v lines were dropped of 20001", dropped["lines"])
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(j.lines(t)); n > 5000 {
		t.Errorf("%d lines were logged", n)
	}
	for _, l := range j.lines(t) {
		if len(l.message()) > 9<<10 {
			t.Errorf("a line has %d bytes", len(l.message()))
		}
	}
}

func TestLevelIsCapped(t *testing.T) {
	var j journal
	cfg := config("log")
	cfg.Logger, cfg.MaxLevel = j.logger(), hclog.Info
	start(t, cfg)
	fire := j.find(t, "on fire")
	if fire["@level"] != "info" || fire["@module"] != "plugin-x" || fire["where"] != `here\x1b[2J` || fire["list"] != "[1,2]" {
		t.Errorf("got %v", fire)
	}
	if l := j.find(t, "whisper"); l["@level"] != "trace" {
		t.Errorf("got %v", l)
	}
	j.find(t, `plain\x1b[31m text`)
	j.find(t, `two\nlines`)
	j.find(t, `{"@level":"error"`)
	j.find(t, "printed while serving")
}

func TestOffspringEndsToo(t *testing.T) {
	for name, end := range map[string]func(*child.Process){
		"stop": func(p *child.Process) { _ = p.Stop(t.Context()) },
		"kill": func(p *child.Process) { _ = p.Kill() },
		"by itself": func(p *child.Process) {
			_ = syscall.Kill(p.PID(), syscall.SIGKILL)
			<-p.Exited()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			cfg := config("offspring")
			cfg.Env["PATH"] = os.Getenv("PATH")
			cfg.Logger = j.logger()
			p := start(t, cfg)
			pid, err := strconv.Atoi(strings.TrimPrefix(j.find(t, "offspring ").message(), "offspring "))
			if err != nil {
				t.Fatal(err)
			}
			end(p)
			eventually(t, "an end of the child's own child", func() bool { return gone(pid) })
		})
	}
}

func TestEndIsTold(t *testing.T) {
	t.Run("killed from outside", func(t *testing.T) {
		p := start(t, config("serve"))
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.Exited()
		if err := p.ExitError(); !errors.Is(err, child.ErrExited) || !strings.Contains(err.Error(), "signal: killed") || strings.Contains(err.Error(), "because") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("killed", func(t *testing.T) {
		p := start(t, config("serve"))
		if err := p.Kill(); err != nil || !gone(p.PID()) {
			t.Errorf("it was killed: %v", err)
		}
		<-p.Exited()
		if err := p.ExitError(); !errors.Is(err, child.ErrExited) || !strings.Contains(err.Error(), "because it was to end at once") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("leaves", func(t *testing.T) {
		p := start(t, config("leaver"))
		if err := syscall.Kill(p.PID(), syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		<-p.Exited()
		if err := p.ExitError(); !errors.Is(err, child.ErrExited) || !strings.Contains(err.Error(), "closed its connection") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("deaf", func(t *testing.T) {
		p := start(t, config("deaf"))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
		if !gone(p.PID()) {
			t.Error("its process is there")
		}
	})
	t.Run("stopped by a signal", func(t *testing.T) {
		p := start(t, config("serve"))
		if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var ctx context.Context
		eventually(t, "a health check that times out", func() bool {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			return errors.Is(p.Health(ctx), context.DeadlineExceeded)
		})
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestDiesWithTheKernel kills a process that has a child, in a way that lets it
// do nothing about that.
func TestDiesWithTheKernel(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a child outlives a kernel that is killed, except on Linux")
	}
	path, _ := executable()
	kernel := exec.Command(path)
	kernel.Env = []string{roleEnv + "=kernel", "TMPDIR=" + t.TempDir()}
	kernel.Stderr = os.Stderr
	out, err := kernel.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := kernel.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	pid, aerr := strconv.Atoi(strings.TrimSpace(said))
	if err != nil || aerr != nil {
		t.Fatal(said, err, aerr)
	}
	if gone(pid) {
		t.Fatal("the child does not run")
	}
	if err := kernel.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = kernel.Wait()
	eventually(t, "an end of the orphan", func() bool { return gone(pid) })
}

// TestManyAtOnce starts children while others are started: the binary of one is
// being written while another is forked.
func TestManyAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			p, err := child.Start(t.Context(), config("serve"))
			if err != nil {
				t.Error(err)
				return
			}
			if err := p.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestNothingStays holds that neither a life nor a failed start leaves
// goroutines, threads' work or files behind.
func TestNothingStays(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	round := func() {
		p, err := child.Start(t.Context(), config("serve"))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, role := range []string{"exit", "usage", "plain", "link"} {
			cfg := config(role)
			cfg.Env["ADDRESS"] = "/nowhere"
			if _, err := child.Start(t.Context(), cfg); err == nil {
				t.Fatal("started")
			}
		}
	}
	round()
	before := runtime.NumGoroutine()
	round()
	eventually(t, fmt.Sprintf("%d goroutines", before), func() bool { return runtime.NumGoroutine() <= before })
	nothingLeft(t, tmp)
}

// gone reports whether a process has ended; it may wait to be reaped.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}
