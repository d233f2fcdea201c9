package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin/runner"
)

// lastWords is how long the output of a child that has ended is still read:
// what holds its pipes open after that is cut off.
const lastWords = 200 * time.Millisecond

// process is the child as go-plugin's runner.
type process struct {
	path      string // as configured, for people
	dir       string // private to the child: its binary and its sockets
	socketDir string
	log       *stderr
	cmd       *exec.Cmd

	stdout, errout *os.File // our ends of its pipes
	exited         chan struct{}
	err            error // how it ended; read after exited is closed
	started        bool
	clean          sync.Once
}

var _ runner.Runner = (*process)(nil)

func (p *process) prepare(binary string, args, env []string, socketDir string) {
	p.socketDir = socketDir
	p.cmd = &exec.Cmd{Path: binary, Args: append([]string{p.path}, args...), Env: env, Dir: p.dir}
	isolate(p.cmd)
}

// Start implements runner.Runner.
func (p *process) Start(context.Context) error {
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, outR.Close(), outW.Close())
	}
	p.stdout, p.errout = outR, errR
	p.cmd.Stdout, p.cmd.Stderr = outW, errW

	running := make(chan error)
	go func() {
		// The child is told to die with the thread that started it, so that
		// thread must live as long as the child: it is this goroutine's own,
		// and ends with it.
		runtime.LockOSThread()
		err := p.cmd.Start()
		_, _ = outW.Close(), errW.Close()
		running <- err
		if err == nil {
			p.wait()
		}
	}()
	if err := <-running; err != nil {
		return errors.Join(err, outR.Close(), errR.Close())
	}
	p.started = true
	return nil
}

// wait reaps the child and what is left of it.
func (p *process) wait() {
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		p.log.read(p.errout)
	}()
	p.err = p.cmd.Wait()
	killGroup(p.cmd)
	t := time.AfterFunc(lastWords, func() { _, _ = p.stdout.Close(), p.errout.Close() })
	<-logged
	t.Stop()
	_ = p.errout.Close()
	close(p.exited)
	time.AfterFunc(lastWords, func() { _ = p.stdout.Close() })
}

// ended says how the child ended, with its last lines.
func (p *process) ended() error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	if last := p.log.last(); last != "" {
		return fmt.Errorf("%w (%s); its last lines: %s", ErrExited, how, last)
	}
	return fmt.Errorf("%w (%s)", ErrExited, how)
}

// explain makes one of our errors of what go-plugin said about a start.
func (p *process) explain(ctx context.Context, err error) error {
	switch text := err.Error(); {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded), strings.Contains(text, "timeout while waiting"):
		return fmt.Errorf("%w: it was started and said nothing that go-plugin expects; is it built with sdk/native? %s", ErrHandshakeTimeout, p.log.last())
	case strings.Contains(text, "ncompatible API version"):
		return fmt.Errorf("%w: %s; rebuild it with an SDK of this kernel's version", ErrVersion, text)
	case errors.Is(err, ErrNotAPlugin):
		return err
	case !p.started:
		return fmt.Errorf("%w: it cannot be run: %w; is it built for %s/%s?", ErrNotAPlugin, err, runtime.GOOS, runtime.GOARCH)
	}
	said := strings.SplitN(err.Error(), "\n", 2)[0]
	select {
	case <-p.exited:
		return fmt.Errorf("%w: it ended before the handshake was complete: %w", ErrNotAPlugin, p.ended())
	case <-time.After(lastWords):
		return fmt.Errorf("%w: %s; is it built with sdk/native?", ErrNotAPlugin, said)
	}
}

// Kill implements runner.Runner: the child and its process group end at once.
func (p *process) Kill(context.Context) error {
	select {
	case <-p.exited:
		return nil // its id may be somebody else's by now
	default:
	}
	if p.cmd == nil || p.cmd.Process == nil {
		return nil
	}
	killGroup(p.cmd)
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Wait implements runner.Runner.
func (p *process) Wait(context.Context) error {
	<-p.exited
	return p.err
}

// cleanUp removes the child's directory once it has ended.
func (p *process) cleanUp() {
	p.clean.Do(func() {
		if p.started {
			<-p.exited
		}
		_ = os.RemoveAll(p.dir)
	})
}

func (p *process) pid() int {
	if p.cmd == nil || p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Stdout implements runner.Runner.
func (p *process) Stdout() io.ReadCloser { return p.stdout }

// Stderr implements runner.Runner: the lines are read here, not by go-plugin,
// which would log them at the level that the child chooses.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (p *process) Name() string { return p.path }

// ID implements runner.Runner.
func (p *process) ID() string { return strconv.Itoa(p.pid()) }

// Diagnose implements runner.Runner.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner: the address that the host is to dial.
func (p *process) PluginToHost(network, address string) (string, string, error) {
	return network, address, checkAddress(p.socketDir, network, address)
}

// HostToPlugin implements runner.Runner.
func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
