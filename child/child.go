// Package child starts, watches and ends child processes that speak go-plugin's
// protocol over gRPC: native plugins, and engines that run apart from the
// kernel. On the kernel's side it is the only package that touches go-plugin.
//
// A child is not trusted. It inherits no environment, no standard input and no
// open file. What runs is a private copy of the bytes whose checksum was
// verified. The connection is dialled once, to a unix socket in a directory
// made for this child, under mutual TLS with keys made for this start; a child
// that loses it is killed. What the child writes is logged, within bounds of
// level, rate and length.
//
// On Linux a child dies with the kernel, however that ends. On macOS it
// outlives a kernel that is killed. On other systems children are refused: no
// unix sockets are to be had from go-plugin there.
//
// What the child starts itself ends with it as long as it stays in the child's
// process group. A program that leaves the group, as any program can, is held
// by a jail alone, and this package is none.
package child

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Defaults and limits.
const (
	DefaultStartTimeout = 10 * time.Second
	DefaultMaxMessage   = 16 << 20 // bytes

	lostTime    = 100 * time.Millisecond // from the loss of the connection, as by the process's own end, to the kill
	stopTimeout = 2 * time.Second        // from the request to end to the kill
	killTimeout = 10 * time.Second       // from the kill to its effect, before it is given up
	maxStreams  = 64                     // requests of a child that are served at a time; more wait
)

// Lengths of a socket's path, in bytes.
const (
	socketName    = len("/plugin-dir1234567890/plugin1234567890") // as go-plugin names it in the temporary directory, at most
	maxSocketPath = 103                                           // on macOS; Linux has 107
)

// Config is what is started, and how.
type Config struct {
	Name   string // for logs and errors
	Path   string // of the binary
	SHA256 string // of the binary, hexadecimal; required
	Args   []string
	Env    map[string]string // the child's whole environment, apart from the handshake's own

	// CookieKey and CookieValue are the variable by which the child knows what
	// started it. It is no secret.
	CookieKey, CookieValue string
	Versions               []int // of the protocol; the highest that the child has too is spoken

	MaxMessage   int           // bytes, of a request to the child and its response; default [DefaultMaxMessage]
	StartTimeout time.Duration // of start and handshake together; default [DefaultStartTimeout]
	Logger       hclog.Logger  // takes the child's output; nil for none
	MaxLevel     hclog.Level   // no line of the child's is logged as more severe; default Warn
}

// Process is a child that runs. Its methods are safe for concurrent use.
type Process struct {
	name, path string
	log        hclog.Logger
	run        *run
	client     *plugin.Client
	tls        *tls.Config // go-plugin's, for both directions
	link       *link

	stopping context.Context // ends when the child was asked to end
	stop     context.CancelFunc
	done     chan struct{} // closed when nothing of the child is left

	mu      sync.Mutex // guards what follows
	over    bool       // the child has ended: nothing more is served
	servers []*grpc.Server
	tasks   sync.WaitGroup // Add under mu, while not over
}

// Start starts a child, completes the handshake and asks for its health. If ctx
// ends first, the child is killed and the error is ctx's cause. Other errors
// are an *[Error] of kind [ErrChecksum], [ErrNotAPlugin], [ErrVersion],
// [ErrHandshakeTimeout] or [ErrUnsupported], or concern the configuration.
//
// The child outlives ctx; who starts it must end it with [Process.Stop].
func Start(ctx context.Context, cfg Config) (*Process, error) {
	if err := supported(); err != nil {
		return nil, &Error{Kind: ErrUnsupported, Name: cfg.Name, Path: cfg.Path, Reason: err.Error(), Remedy: "use a WASM plugin"}
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	cfg.MaxLevel = cmp.Or(cfg.MaxLevel, hclog.Warn)
	cfg.MaxMessage = cmp.Or(cfg.MaxMessage, DefaultMaxMessage)
	cfg.StartTimeout = cmp.Or(cfg.StartTimeout, DefaultStartTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.StartTimeout, ErrHandshakeTimeout)
	defer cancel()

	r := newRun(cfg)
	var err error
	if r.dir, r.binary, err = stage(cfg); err != nil {
		return nil, err
	}
	p, err := connect(ctx, cfg, r)
	if err != nil {
		if r.begun() {
			<-r.exited
		}
		r.removeFiles()
		return nil, r.explain(ctx, err)
	}
	return p, nil
}

func (c *Config) check() error {
	switch {
	case c.Path == "":
		return errors.New("no path is configured")
	case c.CookieKey == "" || c.CookieValue == "" || len(c.Versions) == 0:
		return errors.New("the cookie and the protocol versions must be configured")
	}
	if dir := os.TempDir(); len(dir)+socketName > maxSocketPath {
		return fmt.Errorf("the path of the temporary directory, %s, is too long for the unix sockets in it; set TMPDIR to a shorter one", dir)
	}
	for k, v := range c.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			return fmt.Errorf("environment variable %q cannot be set: a name is not empty and without '=', and neither name nor value holds a zero byte", k)
		}
		if strings.HasPrefix(k, "PLUGIN_") || k == c.CookieKey {
			return fmt.Errorf("environment variable %q cannot be set: it is the handshake's own", k)
		}
	}
	return nil
}

// connect runs the child up to where it serves. go-plugin's start takes no
// context: when ctx ends, the process is killed under it.
func connect(ctx context.Context, cfg Config, r *run) (*Process, error) {
	sets := make(map[int]plugin.PluginSet, len(cfg.Versions))
	for _, v := range cfg.Versions {
		sets[v] = plugin.PluginSet{linkName: linker{}}
	}
	gc := &plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cfg.CookieKey, MagicCookieValue: cfg.CookieValue},
		VersionedPlugins: sets,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     cfg.StartTimeout + time.Minute, // ctx ends first
		UnixSocketConfig: &plugin.UnixSocketConfig{},
		Logger:           hclog.NewNullLogger(), // what it has to say is in errors, or said here
		SyncStdout:       r.log.writer(),        // of what the child prints, once it serves
		SyncStderr:       r.log.writer(),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithContextDialer(r.dial),
			grpc.WithIdleTimeout(0), // the connection is never made twice
			grpc.WithDisableRetry(),
			grpc.WithDisableServiceConfig(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cfg.MaxMessage), grpc.MaxCallSendMsgSize(cfg.MaxMessage)),
			grpc.WithStreamInterceptor(r.rememberConn),
		},
		RunnerFunc: r.prepare,
	}
	p := &Process{name: cfg.Name, path: cfg.Path, log: cfg.Logger, run: r, client: plugin.NewClient(gc), done: make(chan struct{})}

	connected := make(chan error, 1)
	go func() {
		connected <- func() error {
			rpc, err := p.client.Client()
			if err != nil {
				return err
			}
			l, err := rpc.Dispense(linkName)
			if err != nil {
				return err
			}
			p.link, p.tls = l.(*link), gc.TLSConfig //nolint:errcheck // linker makes nothing else
			return p.Health(ctx)
		}()
	}()
	var err error
	select {
	case err = <-connected:
	case <-ctx.Done():
		r.kill("its start was given up")
		<-connected
		err = context.Cause(ctx)
	}
	if err != nil {
		r.kill("its start failed")
		if p.link != nil {
			p.client.Kill()
		} else if c := r.conn.Load(); c != nil {
			_ = c.Close() // go-plugin has let go of it
		}
		return nil, err
	}
	p.stopping, p.stop = context.WithCancel(context.Background())
	p.tasks.Go(p.watch)
	go p.tend()
	return p, nil
}

// watch kills the child if it loses the connection: it is made once, and
// without it the child is of no use and out of sight.
func (p *Process) watch() {
	for s := p.link.conn.GetState(); s == connectivity.Ready; s = p.link.conn.GetState() {
		if !p.link.conn.WaitForStateChange(p.stopping, s) {
			return
		}
	}
	t := time.NewTimer(lostTime)
	defer t.Stop()
	select {
	case <-p.stopping.Done():
	case <-p.run.exited:
	case <-t.C:
		p.run.kill("it closed its connection to the kernel")
	}
}

// tend waits for the child's end and clears away what is left of it.
func (p *Process) tend() {
	defer close(p.done)
	<-p.run.exited
	p.stop()
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	for _, s := range p.servers {
		s.Stop() // does not wait for handlers: their contexts are cancelled
	}
	p.tasks.Wait()
	p.client.Kill() // waits for go-plugin's own goroutines; there is nothing left to kill
	p.run.removeFiles()
	p.log.Info("process ended", "pid", p.PID(), "how", p.run.how())
}

// Conn is the connection to the child's services.
func (p *Process) Conn() grpc.ClientConnInterface { return p.link.conn }

// Serve offers services of the kernel to the child, on a connection of their
// own, until the child ends. The child dials it, within five seconds, by the
// broker id that is returned. No request or response may be larger than
// maxMessage bytes.
func (p *Process) Serve(maxMessage int, register func(grpc.ServiceRegistrar)) (id uint32, err error) {
	id = p.link.broker.NextId()
	l, err := p.link.broker.Accept(id)
	if err != nil {
		return 0, fmt.Errorf("%s: offer a service: %w", p.name, err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(p.tls)), grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	register(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		_ = l.Close()
		return 0, p.ExitError()
	}
	p.servers = append(p.servers, s)
	p.tasks.Go(func() { _ = s.Serve(l) }) // an error is the child's end, which is told elsewhere
	return id, nil
}

// Version is the protocol version that is spoken.
func (p *Process) Version() int { return p.client.NegotiatedVersion() }

// PID is the id of the process.
func (p *Process) PID() int { return p.run.pid() }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.run.exited }

// ExitError says how the process ended, with the last that it wrote: an
// *[Error] of kind [ErrExited], or nil while it runs.
func (p *Process) ExitError() error {
	select {
	case <-p.run.exited:
		return p.run.fail(ErrExited, p.run.end(), "")
	default:
		return nil
	}
}

// Health asks the child whether it serves, by gRPC's health protocol.
func (p *Process) Health(ctx context.Context) error {
	r, err := grpc_health_v1.NewHealthClient(p.link.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: plugin.GRPCServiceName})
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s: health check: %w", p.name, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%s: health check: %w", p.name, err)
	case r.Status != grpc_health_v1.HealthCheckResponse_SERVING:
		return fmt.Errorf("%s: health check: it answered %s", p.name, r.Status)
	}
	return nil
}

// Stop asks the child to end, and kills it if it has not within two seconds or
// when ctx ends. When it returns the process is gone, with what it started in
// its process group and the files that were made for it. It fails only if the
// system does not carry out the kill.
func (p *Process) Stop(ctx context.Context) error {
	p.mu.Lock()
	if !p.over && p.stopping.Err() == nil {
		p.stop()
		p.tasks.Go(func() {
			if rpc, err := p.client.Client(); err == nil {
				_ = rpc.Close() // ends with the process if not before
			}
		})
	}
	p.mu.Unlock()

	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.run.kill("it was to end at once")
	case <-t.C:
		p.run.kill("it did not end when asked to")
	}
	return p.ended(p.done)
}

// Kill ends the child at once. When it returns the process is gone; it fails
// only if the system does not carry out the kill.
func (p *Process) Kill() error {
	p.run.kill("it was to end at once")
	return p.ended(p.run.gone)
}

// ended waits, after a kill, for its effect.
func (p *Process) ended(effect <-chan struct{}) error {
	t := time.NewTimer(killTimeout)
	defer t.Stop()
	select {
	case <-effect:
		return nil
	case <-t.C:
		return fmt.Errorf("%s: process %d was killed and has not ended after %v", p.name, p.PID(), killTimeout)
	}
}

// linkName is what go-plugin calls the one plugin of a set; it is not sent.
const linkName = "child"

// link is what the handshake leads to.
type link struct {
	broker *plugin.GRPCBroker
	conn   *grpc.ClientConn
}

// linker takes a link out of go-plugin.
type linker struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCServer implements plugin.GRPCPlugin; it is the child's side, not this one.
func (linker) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("package child starts children, it does not serve one")
}

// GRPCClient implements plugin.GRPCPlugin.
func (linker) GRPCClient(_ context.Context, broker *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return &link{broker: broker, conn: conn}, nil
}
