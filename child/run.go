package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
)

const (
	coreProtocol = plugin.CoreProtocolVersion

	// maxHandshake is how much is kept of what the child says first, in bytes.
	maxHandshake = 512
	// drainTime is how long the output of a child that has ended is still read.
	// It has an end already, unless something that left the child's process
	// group holds it open.
	drainTime = 500 * time.Millisecond
)

// run is one run of a child's binary, as go-plugin's runner.
type run struct {
	name, path   string
	args         []string
	extraEnv     map[string]string
	versions     []int
	startTimeout time.Duration
	log          *output

	dir     string // private to the child: its binary and working directory
	binary  string // in dir
	env     []string
	sockets string // directory

	address    string                          // that the child gave, once it was accepted
	badAddress string                          // why it was not
	dialled    atomic.Bool                     // the connection is made once
	conn       atomic.Pointer[grpc.ClientConn] // also when go-plugin has dropped it

	stdout *handshakeReader
	gone   chan struct{} // closed, under mu, when the process was reaped: its id may be another's
	exited chan struct{} // closed after that, when its output was read

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd  // nil until the process runs
	reason string     // why it was killed, if it was
}

func newRun(cfg Config) *run {
	return &run{
		name: cfg.Name, path: cfg.Path, args: cfg.Args, extraEnv: cfg.Env, versions: cfg.Versions, startTimeout: cfg.StartTimeout,
		log: newOutput(cfg.Logger, cfg.MaxLevel), gone: make(chan struct{}), exited: make(chan struct{}),
	}
}

// prepare is go-plugin's RunnerFunc: handshake carries the environment that the
// handshake needs.
func (r *run) prepare(_ hclog.Logger, handshake *exec.Cmd, sockets string) (runner.Runner, error) {
	r.sockets = sockets
	for _, k := range slices.Sorted(maps.Keys(r.extraEnv)) {
		r.env = append(r.env, k+"="+r.extraEnv[k])
	}
	r.env = append(r.env, handshake.Env...)
	return r, nil
}

// Start implements runner.Runner. ctx bounds the start alone.
func (r *run) Start(ctx context.Context) error {
	stdout, childStdout, err := os.Pipe()
	if err != nil {
		return err
	}
	stderr, childStderr, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdout.Close(), childStdout.Close())
	}
	r.stdout = &handshakeReader{File: stdout}
	begun := make(chan error)
	go func() {
		// The child is killed when the thread that started it ends
		// (PR_SET_PDEATHSIG), so one thread stays with it to its end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := r.begin(ctx, childStdout, childStderr)
		_, _ = childStdout.Close(), childStderr.Close()
		begun <- err
		if err == nil {
			r.attend(stderr)
		}
	}()
	if err := <-begun; err != nil {
		return errors.Join(err, stdout.Close(), stderr.Close())
	}
	return nil
}

// begin starts the process. The binary was written a moment ago: a process that
// another goroutine forks meanwhile holds it open for writing until it execs,
// so that the start may have to be tried again (golang.org/issue/22315).
func (r *run) begin(ctx context.Context, stdout, stderr *os.File) error {
	for pause := time.Millisecond; ; pause *= 2 {
		cmd := &exec.Cmd{
			Path: r.binary, Args: append([]string{r.path}, r.args...), Env: r.env, Dir: r.dir,
			Stdout: stdout, Stderr: stderr, SysProcAttr: attributes(),
		}
		err := r.start(cmd)
		if !errors.Is(err, syscall.ETXTBSY) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// start starts cmd, unless the child was killed before.
func (r *run) start(cmd *exec.Cmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reason != "" {
		return errors.New("the start was given up")
	}
	if err := keepFiles(); err != nil {
		return fmt.Errorf("keep open files from the child: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.cmd = cmd
	return nil
}

// attend stays with the process to its end, and sees to what it leaves behind.
func (r *run) attend(stderr *os.File) {
	read := make(chan struct{})
	go func() {
		defer close(read)
		r.log.copy(stderr)
	}()
	awaitExit(r.cmd.Process.Pid)
	r.mu.Lock()
	killGroup(r.cmd.Process.Pid) // while the id is still this process's
	_ = r.cmd.Wait()             // how it ended is in ProcessState
	close(r.gone)
	r.mu.Unlock()

	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-read:
	case <-t.C:
	}
	_, _ = stderr.Close(), r.stdout.Close()
	<-read
	r.log.close()
	close(r.exited)
}

// kill ends the process and its group at once, or keeps it from starting.
func (r *run) kill(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.gone:
		return
	default:
	}
	if r.reason == "" {
		r.reason = reason
	}
	if r.cmd != nil {
		killGroup(r.cmd.Process.Pid)
	}
}

func (r *run) begun() bool { return r.pid() != 0 }

func (r *run) pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return 0
	}
	return r.cmd.Process.Pid
}

// how is the way in which the process ended, such as "exit status 2".
func (r *run) how() string {
	how := r.cmd.ProcessState.String()
	if r.reason != "" {
		how += ", because " + r.reason
	}
	return how
}

// end is how the process ended and what it wrote last.
func (r *run) end() string { return r.how() + "; " + r.log.lastWords() }

func (r *run) removeFiles() {
	_ = os.RemoveAll(r.dir)
	if r.sockets != "" {
		_ = os.RemoveAll(r.sockets)
	}
}

// handshake is the beginning of what the child said first.
func (r *run) handshake() string {
	if r.stdout == nil {
		return ""
	}
	line, _, _ := strings.Cut(r.stdout.begin(), "\n")
	return strings.TrimSpace(line)
}

// PluginToHost implements runner.Runner: it is asked for the address that the
// child gave in the handshake, and which is the child's to choose. Only a
// socket in the directory that was made for it is accepted.
func (r *run) PluginToHost(network, address string) (string, string, error) {
	reject := func(format string, args ...any) (string, string, error) {
		r.badAddress = fmt.Sprintf(format, args...)
		return "", "", errors.New(r.badAddress)
	}
	if network != "unix" {
		return reject("the handshake gives the address %q, which is no unix socket", clip(network+"://"+address, 100))
	}
	if filepath.Dir(address) != filepath.Clean(r.sockets) {
		return reject("the handshake gives the socket %q, which is not in the child's own directory", clip(address, 100))
	}
	r.address = address
	return network, address, nil
}

// HostToPlugin implements runner.Runner.
func (r *run) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// dial connects to the child, once: whoever takes its place later is not it.
func (r *run) dial(ctx context.Context, _ string) (net.Conn, error) {
	if r.dialled.Swap(true) {
		return nil, errors.New("the connection to the child is lost")
	}
	// Not through a symbolic link to somebody else's socket. Were one put there
	// after this check, the other end would still fail the TLS handshake.
	if fi, err := os.Lstat(r.address); err != nil {
		return nil, err
	} else if fi.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s is no socket", r.address)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", r.address)
}

// rememberConn is a stream interceptor: it sees the connection even where
// go-plugin drops it, unclosed, because a later step failed.
func (r *run) rememberConn(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	r.conn.Store(cc)
	return next(ctx, desc, cc, method, opts...)
}

// Wait implements runner.Runner.
func (r *run) Wait(context.Context) error {
	<-r.exited
	return nil
}

// Kill implements runner.Runner.
func (r *run) Kill(context.Context) error {
	r.kill("the handshake failed")
	return nil
}

// Stdout implements runner.Runner.
func (r *run) Stdout() io.ReadCloser { return r.stdout }

// Stderr implements runner.Runner. go-plugin would log what it reads there, at
// any rate and at the level that the child names: it is read by attend instead.
func (r *run) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (r *run) Name() string { return r.name }

// ID implements runner.Runner.
func (r *run) ID() string { return strconv.Itoa(r.pid()) }

// Diagnose implements runner.Runner.
func (r *run) Diagnose(context.Context) string { return "" }

// handshakeReader is a child's standard output; it keeps the beginning.
type handshakeReader struct {
	*os.File

	mu   sync.Mutex
	head []byte
}

// Read implements io.Reader.
func (h *handshakeReader) Read(b []byte) (int, error) {
	n, err := h.File.Read(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.head = append(h.head, b[:min(n, maxHandshake-len(h.head))]...)
	return n, err
}

func (h *handshakeReader) begin() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.head)
}
