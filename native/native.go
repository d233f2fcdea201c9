// Package native runs native plugins: child processes that serve the plugin
// protocol of sdk/wire, and whose syscalls lead into a gate that is given as a
// function.
//
// A plugin's claims are taken for what they are: the gate knows the plugin by
// the process that a syscall came from, and what a plugin says of itself, of
// its errors and of the call that it serves is bounded and made harmless here,
// or handed on as a claim.
package native

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"forgeone.dev/forgeone/child"
	"forgeone.dev/forgeone/sdk/wire"
)

// Kinds of errors with which a start or a call may end, for errors.Is. All but
// the last two come as an *[Error].
var (
	ErrChecksum         = child.ErrChecksum
	ErrNotAPlugin       = child.ErrNotAPlugin
	ErrVersion          = child.ErrVersion
	ErrHandshakeTimeout = child.ErrHandshakeTimeout
	ErrExited           = child.ErrExited
	ErrUnsupported      = child.ErrUnsupported

	// ErrNoFunction is a call of a function that the plugin does not have.
	ErrNoFunction = errors.New("no such function")
	// ErrTooLarge is an input or output that cannot be carried.
	ErrTooLarge = errors.New("too large to be carried")
)

// Error is what is wrong with a plugin's process, with what happened and what
// to do.
type Error = child.Error

// FunctionError is a function that ran and reported failure.
type FunctionError struct {
	Function string
	Code     int32  // the plugin's own
	Message  string // the plugin's own bytes, at most maxMessage
}

// Error quotes a message that is not plain text, since a plugin is free to aim
// it at the reader's terminal.
func (e *FunctionError) Error() string {
	m := e.Message
	if strings.ContainsFunc(m, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		m = strconv.Quote(m)
	}
	return fmt.Sprintf("function %q failed: %s (code %d)", e.Function, m, e.Code)
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

func (e Event) wire() wire.Event {
	switch e {
	case Init:
		return wire.Event_EVENT_INIT
	case Begin:
		return wire.Event_EVENT_START
	case Pause:
		return wire.Event_EVENT_PAUSE
	case Resume:
		return wire.Event_EVENT_RESUME
	case Stop:
		return wire.Event_EVENT_STOP
	case Unload:
		return wire.Event_EVENT_UNLOAD
	}
	return wire.Event_EVENT_UNSPECIFIED
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

// Statuses, with their numbers on the wire. The zero value is Blocked.
const (
	Blocked Status = iota
	Quarantined
	Failure
	Success
)

// Result is the answer to a syscall.
type Result struct {
	Status  Status
	Data    []byte // of a Success
	Code    int32  // of a Failure
	Message string // of a Failure; the reason of Blocked and Quarantined
	Context map[string]string
}

// Gate decides and carries out the syscalls of a plugin; it is called from
// several goroutines. ctx ends with the plugin's request, with the call that it
// names, if that runs, and with the plugin.
type Gate func(ctx context.Context, s Syscall) Result

// Config is what is started, and how.
type Config struct {
	Name         string
	Path         string
	SHA256       string            // required, hexadecimal
	Args         []string          // none by default
	Env          map[string]string // the plugin's whole environment
	StartTimeout time.Duration     // default [child.DefaultStartTimeout]
	Logger       hclog.Logger      // takes the plugin's output, at most at level Warn; named by the caller
	Gate         Gate              // required
}

// Limits of what a plugin may say.
const (
	maxName      = 256      // bytes, of its name, version and each function
	maxFunctions = 4096     // in number
	maxMessage   = 64 << 10 // bytes, of a function's error; longer ones are cut
	maxArgs      = 1<<16 - 1
)

// Plugin is a native plugin that is up. Its methods are safe for concurrent
// use.
type Plugin struct {
	name   string
	proc   *child.Process
	client wire.PluginClient
	kernel *kernel
	desc   Description
}

// Description is what a plugin says of itself.
type Description struct {
	Name, Version string
	Functions     []string // in name order
	Protocol      int      // negotiated
}

// Start starts a plugin and asks it what it is. Errors: those of
// [child.Start], or an *[Error] of kind [ErrNotAPlugin] if the description is
// no good.
func Start(ctx context.Context, cfg Config) (*Plugin, error) {
	if cfg.Gate == nil {
		return nil, errors.New("native: a plugin needs a gate")
	}
	proc, err := child.Start(ctx, child.Config{
		Name: cfg.Name, Path: cfg.Path, SHA256: cfg.SHA256, Args: cfg.Args, Env: cfg.Env,
		CookieKey: wire.CookieKey, CookieValue: wire.CookieValue, Versions: []int{wire.ProtocolVersion},
		MaxMessage: wire.MaxCall, StartTimeout: cfg.StartTimeout, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	p := &Plugin{name: cfg.Name, proc: proc, client: wire.NewPluginClient(proc.Conn()), kernel: &kernel{gate: cfg.Gate, calls: map[uint64]*inFlight{}}}
	if err := p.describe(ctx, cfg); err != nil {
		return nil, errors.Join(err, proc.Kill(), proc.Stop(ctx))
	}
	return p, nil
}

// describe offers the gate to the plugin and asks what it is.
func (p *Plugin) describe(ctx context.Context, cfg Config) error {
	id, err := p.proc.Serve(wire.MaxSyscall, func(s grpc.ServiceRegistrar) { wire.RegisterKernelServer(s, p.kernel) })
	if err != nil {
		return err
	}
	timeout := cfg.StartTimeout
	if timeout == 0 {
		timeout = child.DefaultStartTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrHandshakeTimeout)
	defer cancel()
	d, err := p.client.Describe(ctx, &wire.DescribeRequest{KernelBrokerId: id})
	if err != nil {
		return fmt.Errorf("ask what it is: %w", p.fault(ctx, err))
	}
	p.desc = Description{Name: d.Name, Version: d.Version, Functions: d.Functions, Protocol: p.proc.Version()}
	slices.Sort(p.desc.Functions)
	if bad := p.desc.check(); bad != "" {
		return &Error{Kind: ErrNotAPlugin, Name: cfg.Name, Path: cfg.Path, Reason: "it describes itself with " + bad, Remedy: "rename it in the plugin"}
	}
	return nil
}

// check says what is wrong with a description in name order, if anything is.
func (d *Description) check() string {
	if len(d.Functions) > maxFunctions {
		return fmt.Sprintf("%d functions; there may be %d", len(d.Functions), maxFunctions)
	}
	for i, s := range append([]string{d.Name, d.Version}, d.Functions...) {
		if len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Sprintf("the name or version %.80q; each has at most %d bytes, all printable", s, maxName)
		}
		if i >= 2 && s == "" {
			return "a function without a name"
		}
	}
	for i := 1; i < len(d.Functions); i++ {
		if d.Functions[i] == d.Functions[i-1] {
			return fmt.Sprintf("two functions %q", d.Functions[i])
		}
	}
	return ""
}

// Description is what the plugin said of itself when it started.
func (p *Plugin) Description() Description { return p.desc }

// Call runs a function. call is the number that the plugin's syscalls for it
// will carry; no two calls that run together have the same. ctx and its deadline
// are the function's too. Syscalls end with the call that they are for: when
// Call returns, none of them is still served.
//
// Errors: [ErrNoFunction], [ErrTooLarge], *[FunctionError], [ErrExited] when
// the process ends meanwhile, or the cause of ctx.
func (p *Plugin) Call(ctx context.Context, call uint64, function string, input []byte) ([]byte, error) {
	if _, ok := slices.BinarySearch(p.desc.Functions, function); !ok {
		has := "none"
		if len(p.desc.Functions) > 0 {
			has = strings.Join(p.desc.Functions, ", ")
		}
		return nil, fmt.Errorf("%w: plugin %s has no %q; its functions: %s", ErrNoFunction, p.name, function, has)
	}
	ctx, end, err := p.kernel.begin(ctx, call)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	defer end()
	r, err := p.client.Call(ctx, &wire.CallRequest{Call: call, Function: function, Input: input})
	if err != nil {
		return nil, p.fault(ctx, err)
	}
	if r.Error != nil {
		return nil, functionError(function, r.Error)
	}
	return r.Output, nil
}

// Lifecycle tells the plugin of an event. Errors: as [Plugin.Call].
func (p *Plugin) Lifecycle(ctx context.Context, call uint64, event Event) error {
	e := event.wire()
	if e == wire.Event_EVENT_UNSPECIFIED {
		return fmt.Errorf("native: %q is not a lifecycle event", string(event))
	}
	ctx, end, err := p.kernel.begin(ctx, call)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	defer end()
	r, err := p.client.Lifecycle(ctx, &wire.LifecycleRequest{Call: call, Event: e})
	if err != nil {
		return p.fault(ctx, err)
	}
	if r.Error != nil {
		return functionError(string(event), r.Error)
	}
	return nil
}

func functionError(function string, e *wire.FunctionError) *FunctionError {
	m := e.Message
	if len(m) > maxMessage {
		m = strings.ToValidUTF8(m[:maxMessage], "")
	}
	return &FunctionError{Function: function, Code: e.Code, Message: m}
}

// Health asks the plugin whether it serves.
func (p *Plugin) Health(ctx context.Context) error { return p.proc.Health(ctx) }

// PID is the id of the process.
func (p *Plugin) PID() int { return p.proc.PID() }

// Exited is closed when the process has ended.
func (p *Plugin) Exited() <-chan struct{} { return p.proc.Exited() }

// ExitError says how the process ended: an *[Error] of kind [ErrExited]; nil
// while it runs.
func (p *Plugin) ExitError() error { return p.proc.ExitError() }

// Stop ends the process, gracefully if it lets itself be ended so; see
// [child.Process.Stop].
func (p *Plugin) Stop(ctx context.Context) error { return p.proc.Stop(ctx) }

// Kill ends the process at once; see [child.Process.Kill].
func (p *Plugin) Kill() error { return p.proc.Kill() }

// settle is how long a request that was not served waits to learn that the
// process has ended: the connection is seen to break before the process is
// reaped.
const settle = 5 * time.Second

// fault is what a gRPC error means.
func (p *Plugin) fault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled:
		t := time.NewTimer(settle)
		defer t.Stop()
		select {
		case <-p.proc.Exited():
			return p.proc.ExitError()
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
		case <-t.C:
		}
	case codes.DeadlineExceeded: // gRPC's clock may be a little ahead of ctx's
		return fmt.Errorf("%s: %w", p.name, context.DeadlineExceeded)
	case codes.ResourceExhausted:
		return fmt.Errorf("%s: input or output: %w: the limit is %d bytes", p.name, ErrTooLarge, wire.MaxCall)
	}
	return fmt.Errorf("%s: %q", p.name, err.Error()) // partly the plugin's own words
}

// kernel serves a plugin's syscalls.
type kernel struct {
	wire.UnimplementedKernelServer
	gate Gate

	mu    sync.Mutex // guards calls
	calls map[uint64]*inFlight
}

// inFlight is a call that runs.
type inFlight struct {
	ctx      context.Context
	syscalls sync.WaitGroup // Add under kernel.mu, while it is in kernel.calls
}

// begin enters a call, until end: that takes no more of its syscalls, cancels
// those that are served and waits for them.
func (k *kernel) begin(ctx context.Context, call uint64) (_ context.Context, end func(), _ error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &inFlight{ctx: ctx}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.calls[call] != nil {
		cancel()
		return nil, nil, fmt.Errorf("a call with the number %d is running already", call)
	}
	k.calls[call] = c
	return ctx, func() {
		k.mu.Lock()
		delete(k.calls, call)
		k.mu.Unlock()
		cancel()
		c.syscalls.Wait()
	}, nil
}

// join makes a syscall part of the call that it names, if that runs.
func (k *kernel) join(ctx context.Context, call uint64) (_ context.Context, done func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.calls[call]
	if c == nil {
		return ctx, func() {}
	}
	c.syscalls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
		c.syscalls.Done()
	}
}

// Syscall implements wire.KernelServer.
func (k *kernel) Syscall(ctx context.Context, r *wire.SyscallRequest) (*wire.SyscallResponse, error) {
	if len(r.Args) > maxArgs {
		return &wire.SyscallResponse{Message: fmt.Sprintf("a syscall takes at most %d arguments", maxArgs)}, nil
	}
	args := make([]string, len(r.Args))
	for i, a := range r.Args {
		args[i] = string(a)
	}
	ctx, done := k.join(ctx, r.Call)
	defer done()
	res := k.gate(ctx, Syscall{Call: r.Call, Name: r.Name, Args: args, Handle: r.Handle, Payload: r.Payload})
	out := &wire.SyscallResponse{Status: wire.Status(res.Status), Data: res.Data, Code: res.Code, Message: valid(res.Message)}
	if len(res.Context) > 0 {
		out.Context = make(map[string]string, len(res.Context))
		for k, v := range res.Context {
			out.Context[valid(k)] = valid(v)
		}
	}
	return out, nil
}

// valid makes text fit for protobuf, whose strings are UTF-8.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
