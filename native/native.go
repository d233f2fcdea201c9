// Package native runs native plugins: child processes that serve the plugin
// protocol of sdk/wire, and whose syscalls lead into a gate that is given as a
// function.
package native

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"forgeone.dev/forgeone/child"
	"forgeone.dev/forgeone/sdk/wire"
)

// Errors of package child that a start or a call may end with.
var (
	ErrChecksum         = child.ErrChecksum
	ErrNotAPlugin       = child.ErrNotAPlugin
	ErrVersion          = child.ErrVersion
	ErrHandshakeTimeout = child.ErrHandshakeTimeout
	ErrExited           = child.ErrExited
)

// ErrNoFunction is a call of a function that the plugin does not have.
var ErrNoFunction = errors.New("no such function")

// FunctionError is a function that ran and reported failure.
type FunctionError struct {
	Function string
	Code     int32
	Message  string
}

func (e *FunctionError) Error() string {
	return fmt.Sprintf("function %q failed: %s (code %d)", e.Function, e.Message, e.Code)
}

// Event is a moment in a plugin's life.
type Event string

// The lifecycle events.
const (
	Init   Event = "init"
	Begin  Event = "start"
	Pause  Event = "pause"
	Resume Event = "resume"
	Stop   Event = "stop"
	Unload Event = "unload"
)

var events = map[Event]wire.Event{
	Init: wire.Event_EVENT_INIT, Begin: wire.Event_EVENT_START, Pause: wire.Event_EVENT_PAUSE,
	Resume: wire.Event_EVENT_RESUME, Stop: wire.Event_EVENT_STOP, Unload: wire.Event_EVENT_UNLOAD,
}

// Syscall is what a plugin asks for.
type Syscall struct {
	Call    uint64 // as given to [Plugin.Call]; 0 outside a call. The plugin's claim, not a fact.
	Name    string
	Args    []string
	Handle  uint64
	Payload []byte
}

// Status says how a syscall ended.
type Status uint8

// Statuses. The zero value is Blocked.
const (
	Blocked Status = iota
	Quarantined
	Failure
	Success
)

// Result is the answer to a syscall.
type Result struct {
	Status  Status
	Data    []byte
	Code    int32
	Message string // of a Failure; the reason of Blocked and Quarantined
	Context map[string]string
}

// Gate decides and carries out the syscalls of a plugin. ctx ends with the
// plugin's request.
type Gate func(ctx context.Context, s Syscall) Result

// Config is what is started, and how.
type Config struct {
	Name         string
	Path         string
	SHA256       string            // required, hexadecimal
	Args         []string          // none by default
	Env          map[string]string // the plugin's whole environment
	StartTimeout time.Duration     // default [child.DefaultStartTimeout]
	Logger       hclog.Logger      // takes the plugin's standard error
	Gate         Gate              // required
}

// Plugin is a native plugin that is up. Its methods are safe for concurrent
// use.
type Plugin struct {
	name   string
	proc   *child.Process
	client wire.PluginClient
	desc   Description
}

// Description is what a plugin says of itself.
type Description struct {
	Name, Version string
	Functions     []string // in name order
	Protocol      int      // negotiated
}

// Start starts a plugin and asks it what it is. Errors: those of
// [child.Start].
func Start(ctx context.Context, cfg Config) (*Plugin, error) {
	if cfg.Gate == nil {
		return nil, errors.New("native: a plugin needs a gate")
	}
	env := make([]string, 0, len(cfg.Env))
	for _, k := range slices.Sorted(maps.Keys(cfg.Env)) {
		env = append(env, k+"="+cfg.Env[k])
	}
	proc, err := child.Start(ctx, child.Config{
		Name: cfg.Name, Path: cfg.Path, SHA256: cfg.SHA256, Args: cfg.Args, Env: env,
		CookieKey: wire.CookieKey, CookieValue: wire.CookieValue, ServiceName: wire.Service, MaxMessage: wire.MaxMessage,
		Versions:     map[int]child.Service{wire.ProtocolVersion: service{gate: cfg.Gate}},
		StartTimeout: cfg.StartTimeout, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	c := proc.Value().(*connection) //nolint:errcheck // service.Client makes nothing else
	p := &Plugin{name: cfg.Name, proc: proc, client: c.client}
	d, err := c.client.Describe(ctx, &wire.DescribeRequest{KernelBrokerId: c.kernel})
	if err != nil {
		err = fmt.Errorf("start %s: describe: %w", cfg.Name, p.fault(ctx, err))
		return nil, errors.Join(err, proc.Stop(ctx))
	}
	p.desc = Description{Name: d.Name, Version: d.Version, Functions: slices.Sorted(slices.Values(d.Functions)), Protocol: proc.Version()}
	return p, nil
}

// Description is what the plugin said of itself when it started.
func (p *Plugin) Description() Description { return p.desc }

// Call runs a function. call is the number that the plugin's syscalls for it
// will carry. Errors: [ErrNoFunction], *[FunctionError], [ErrExited] when the
// process ends meanwhile, or that of ctx.
func (p *Plugin) Call(ctx context.Context, call uint64, function string, input []byte) ([]byte, error) {
	r, err := p.client.Call(ctx, &wire.CallRequest{Call: call, Function: function, Input: input})
	if err != nil {
		return nil, p.fault(ctx, err)
	}
	switch e := r.Error; {
	case e == nil:
		return r.Output, nil
	case e.UnknownFunction:
		return nil, fmt.Errorf("%w: %s has no function %q; it has %s", ErrNoFunction, p.name, function, strings.Join(p.desc.Functions, ", "))
	default:
		return nil, &FunctionError{Function: function, Code: e.Code, Message: e.Message}
	}
}

// Lifecycle tells the plugin of an event. Errors: as [Plugin.Call].
func (p *Plugin) Lifecycle(ctx context.Context, call uint64, event Event) error {
	e, ok := events[event]
	if !ok {
		return fmt.Errorf("native: %q is not a lifecycle event", string(event))
	}
	r, err := p.client.Lifecycle(ctx, &wire.LifecycleRequest{Call: call, Event: e})
	if err != nil {
		return p.fault(ctx, err)
	}
	if r.Error != nil {
		return &FunctionError{Function: string(event), Code: r.Error.Code, Message: r.Error.Message}
	}
	return nil
}

// Health asks the plugin whether it serves.
func (p *Plugin) Health(ctx context.Context) error { return p.proc.Health(ctx) }

// PID is the id of the process.
func (p *Plugin) PID() int { return p.proc.PID() }

// Exited is closed when the process has ended.
func (p *Plugin) Exited() <-chan struct{} { return p.proc.Exited() }

// ExitError says how the process ended; nil while it runs.
func (p *Plugin) ExitError() error { return p.proc.ExitError() }

// Stop ends the process, gracefully if it lets itself be ended so.
func (p *Plugin) Stop(ctx context.Context) error { return p.proc.Stop(ctx) }

// Kill ends the process at once.
func (p *Plugin) Kill() { p.proc.Kill() }

// settle is how long a lost connection waits to learn that the process ended.
const settle = time.Second

// fault turns a gRPC error into what it means.
func (p *Plugin) fault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.Unknown:
		select {
		case <-p.proc.Exited():
			return p.proc.ExitError()
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
		case <-time.After(settle):
		}
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", p.name, context.DeadlineExceeded)
	case codes.ResourceExhausted:
		return fmt.Errorf("%s: a message is larger than the %d bytes that are taken: %w", p.name, wire.MaxMessage, err)
	}
	return fmt.Errorf("%s: %w", p.name, err)
}

// connection is what the handshake leads to.
type connection struct {
	client wire.PluginClient
	kernel uint32 // broker id of the kernel service
}

// service is version 1 of the protocol.
type service struct{ gate Gate }

// Client implements child.Service.
func (s service) Client(_ context.Context, conn grpc.ClientConnInterface, serve func(register func(*grpc.Server)) uint32) (any, error) {
	id := serve(func(server *grpc.Server) { wire.RegisterKernelServer(server, &kernel{gate: s.gate}) })
	return &connection{client: wire.NewPluginClient(conn), kernel: id}, nil
}

// kernel serves a plugin's syscalls.
type kernel struct {
	wire.UnimplementedKernelServer
	gate Gate
}

var statuses = map[Status]wire.Status{
	Success: wire.Status_STATUS_SUCCESS, Failure: wire.Status_STATUS_FAILURE,
	Blocked: wire.Status_STATUS_BLOCKED, Quarantined: wire.Status_STATUS_QUARANTINED,
}

// Syscall implements wire.KernelServer.
func (k *kernel) Syscall(ctx context.Context, r *wire.SyscallRequest) (*wire.SyscallResponse, error) {
	args := make([]string, len(r.Args))
	for i, a := range r.Args {
		args[i] = string(a)
	}
	res := k.gate(ctx, Syscall{Call: r.Call, Name: r.Name, Args: args, Handle: r.Handle, Payload: r.Payload})
	return &wire.SyscallResponse{Status: statuses[res.Status], Data: res.Data, Code: res.Code,
		Message: strings.ToValidUTF8(res.Message, "\ufffd"), Context: validContext(res.Context)}, nil
}

// validContext makes a context fit for protobuf, whose strings are UTF-8.
func validContext(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[strings.ToValidUTF8(k, "\ufffd")] = strings.ToValidUTF8(v, "\ufffd")
	}
	return out
}
