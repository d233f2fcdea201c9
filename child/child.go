// Package child starts, watches and ends child processes that speak go-plugin's
// protocol over gRPC. On the kernel's side it is the only package that touches
// go-plugin.
//
// A child gets nothing by inheritance: no environment, no standard input, no
// open file, and an address of its own choosing only if it is a socket in the
// private directory that was made for it. The bytes that are run are the bytes
// whose checksum was verified.
package child

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
)

// Defaults.
const (
	DefaultStartTimeout = 10 * time.Second
	stopTimeout         = 2 * time.Second // from the request to end to the kill
	maxBinary           = 256 << 20       // bytes
)

// Errors that callers match with errors.Is.
var (
	// ErrChecksum: the binary is not the one that was configured.
	ErrChecksum = errors.New("checksum does not match")
	// ErrNotAPlugin: the binary ended, or said something else, where the
	// handshake was expected.
	ErrNotAPlugin = errors.New("not a plugin")
	// ErrVersion: the child speaks none of the offered protocol versions.
	ErrVersion = errors.New("no common protocol version")
	// ErrHandshakeTimeout: the child did not complete the handshake in time.
	ErrHandshakeTimeout = errors.New("handshake timed out")
	// ErrExited: the child's process has ended.
	ErrExited = errors.New("the process has ended")
)

// Service is what a child is expected to serve: it joins go-plugin's
// connection to a typed client.
type Service interface {
	// Client makes the typed client. serve offers a gRPC service of the kernel
	// to the child, and returns the broker id that the child dials.
	Client(ctx context.Context, conn grpc.ClientConnInterface, serve func(register func(*grpc.Server)) uint32) (any, error)
}

// Config is what is started, and how.
type Config struct {
	Name   string // for logs
	Path   string // of the binary
	SHA256 string // of the binary, hexadecimal; required
	Args   []string
	Env    []string // "K=V"; the child's whole environment, apart from the handshake's own

	CookieKey, CookieValue string
	ServiceName            string
	Versions               map[int]Service // by protocol version; the highest common one is spoken
	MaxMessage             int             // bytes, in both directions

	StartTimeout time.Duration // of start and handshake; default DefaultStartTimeout
	Logger       hclog.Logger  // takes the child's standard error; nil for none
	LogLevel     hclog.Level   // cap: no line of the child's is more severe; default Info
}

// Process is a child that runs. Its methods are safe for concurrent use.
type Process struct {
	name   string
	client *plugin.Client
	rpc    plugin.ClientProtocol
	run    *process
	value  any

	stop sync.Once
}

// Start starts a child and completes the handshake. When ctx ends first, the
// child is killed. Errors: [ErrChecksum], [ErrNotAPlugin], [ErrVersion],
// [ErrHandshakeTimeout], or that of ctx.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = DefaultStartTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.LogLevel == hclog.NoLevel {
		cfg.LogLevel = hclog.Info
	}
	if err := supported(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	dir, err := os.MkdirTemp("", "forgeone-child-")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	binary, err := stage(dir, cfg)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("start %s: %w", cfg.Name, err)
	}

	p := &process{path: cfg.Path, dir: dir, log: newStderr(cfg.Logger, cfg.LogLevel), exited: make(chan struct{})}
	sets := map[int]plugin.PluginSet{}
	for v, s := range cfg.Versions {
		sets[v] = plugin.PluginSet{cfg.ServiceName: &bridge{service: s, max: cfg.MaxMessage}}
	}
	sizes := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cfg.MaxMessage), grpc.MaxCallSendMsgSize(cfg.MaxMessage))
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cfg.CookieKey, MagicCookieValue: cfg.CookieValue},
		VersionedPlugins: sets,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     cfg.StartTimeout,
		GRPCDialOptions:  []grpc.DialOption{sizes},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: dir},
		Logger:           hclog.NewNullLogger(), // what it would say is in the errors; the child's lines go through p.log
		RunnerFunc: func(_ hclog.Logger, handshake *exec.Cmd, socketDir string) (runner.Runner, error) {
			p.prepare(binary, cfg.Args, append(cfg.Env, handshake.Env...), socketDir)
			return p, nil
		},
	})

	type started struct {
		rpc   plugin.ClientProtocol
		value any
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	done := make(chan started, 1)
	go func() { // go-plugin's start takes no context
		var s started
		if s.rpc, s.err = client.Client(); s.err == nil {
			s.value, s.err = s.rpc.Dispense(cfg.ServiceName)
		}
		done <- s
	}()
	var s started
	select {
	case s = <-done:
	case <-ctx.Done():
		_ = p.Kill(context.Background())
		s = <-done // ends with the process
		if s.err == nil {
			s.err = ctx.Err()
		}
	}
	if s.err != nil {
		_ = p.Kill(context.Background())
		client.Kill()
		p.cleanUp()
		return nil, fmt.Errorf("start %s (%s): %w", cfg.Name, cfg.Path, p.explain(ctx, s.err))
	}
	return &Process{name: cfg.Name, client: client, rpc: s.rpc, run: p, value: s.value}, nil
}

// stage verifies the binary's bytes and writes those, and no others, to where
// they are run from.
func stage(dir string, cfg Config) (string, error) {
	if cfg.SHA256 == "" {
		return "", fmt.Errorf("%w: none is configured for %s", ErrChecksum, cfg.Path)
	}
	fi, err := os.Stat(cfg.Path)
	if err != nil {
		return "", err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxBinary {
		return "", fmt.Errorf("%s is not a file of at most %d bytes", cfg.Path, maxBinary)
	}
	b, err := os.ReadFile(cfg.Path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); !strings.EqualFold(got, cfg.SHA256) {
		return "", fmt.Errorf("%w: %s has sha256 %s, configured is %s", ErrChecksum, cfg.Path, got, cfg.SHA256)
	}
	name := filepath.Join(dir, filepath.Base(cfg.Path))
	if err := os.WriteFile(name, b, 0o500); err != nil { //nolint:gosec // it is to be run, by its owner alone
		return "", err
	}
	return name, nil
}

// Value is the typed client that the service of the negotiated version made.
func (p *Process) Value() any { return p.value }

// Version is the negotiated protocol version.
func (p *Process) Version() int { return p.client.NegotiatedVersion() }

// PID is the id of the process.
func (p *Process) PID() int { return p.run.pid() }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.run.exited }

// ExitError says how the process ended, with its last lines; nil while it runs.
func (p *Process) ExitError() error {
	select {
	case <-p.run.exited:
		return fmt.Errorf("%s: %w", p.name, p.run.ended())
	default:
		return nil
	}
}

// Health asks the child whether it serves, over gRPC's health protocol.
func (p *Process) Health(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- p.rpc.Ping() }() // ends with the process if not before
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: health check: %w", p.name, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: health check: %w", p.name, ctx.Err())
	}
}

// Stop asks the child to end, and kills it if it has not within two seconds or
// when ctx ends. When it returns the process is gone, with all it started in
// its process group.
func (p *Process) Stop(ctx context.Context) error {
	p.stop.Do(func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.client.Kill()
		}()
		select {
		case <-done:
		case <-ctx.Done():
			_ = p.run.Kill(ctx)
			<-done
		}
		_ = p.run.Kill(ctx) // what it left behind
		p.run.cleanUp()
	})
	return nil
}

// Kill ends the child at once.
func (p *Process) Kill() { _ = p.run.Kill(context.Background()) }

// bridge makes a go-plugin plugin of a Service.
type bridge struct {
	plugin.NetRPCUnsupportedPlugin
	service Service
	max     int
}

// GRPCServer implements plugin.GRPCPlugin; it is the child's side, not this one.
func (b *bridge) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("child starts plugins, it does not serve one")
}

// GRPCClient implements plugin.GRPCPlugin.
func (b *bridge) GRPCClient(ctx context.Context, broker *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return b.service.Client(ctx, conn, func(register func(*grpc.Server)) uint32 {
		id := broker.NextId()
		go broker.AcceptAndServe(id, func(opts []grpc.ServerOption) *grpc.Server { // ends with the broker
			s := grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(b.max), grpc.MaxSendMsgSize(b.max))...)
			register(s)
			return s
		})
		return id
	})
}

// checkAddress accepts an address of the child's only if it is a socket in the
// directory that was made for it: the handshake line is the child's to write.
func checkAddress(dir, network, address string) error {
	if network != "unix" {
		return fmt.Errorf("%w: the handshake gives the address %s://%s, want a unix socket", ErrNotAPlugin, network, address)
	}
	if filepath.Dir(filepath.Clean(address)) != filepath.Clean(dir) {
		return fmt.Errorf("%w: the handshake gives the socket %s, which is not in the child's own directory", ErrNotAPlugin, address)
	}
	fi, err := os.Lstat(address)
	if err != nil {
		return fmt.Errorf("%w: the handshake gives a socket that is not there: %w", ErrNotAPlugin, err)
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%w: the handshake gives %s, which is no socket", ErrNotAPlugin, address)
	}
	return nil
}
