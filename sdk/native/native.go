// Package native makes a native plugin of an [sdk.Plugin]: a program that the
// kernel starts as a process of its own and speaks gRPC with (go-plugin).
//
//	func main() {
//		native.Serve(sdk.Plugin{Name: "greet", Functions: map[string]sdk.Function{
//			"greet": func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
//				return append([]byte("hello, "), in...), nil
//			},
//		}})
//	}
//
// What is written to standard error becomes log lines of the kernel under the
// plugin's name.
package native

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/wire"
)

// Serve runs the plugin until the kernel ends it. Started by hand it says how
// it is meant to be run, and exits with 1.
func Serve(p sdk.Plugin) {
	if os.Getenv(wire.CookieKey) != wire.CookieValue {
		fmt.Fprintf(os.Stderr, "%s %s is a ForgeOne plugin and is started by the kernel: name it in a plugin block (native = %q) of the kernel's configuration\n", p.Name, p.Version, os.Args[0])
		os.Exit(1)
	}
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr, JSONFormat: true})
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{ProtocolVersion: wire.ProtocolVersion, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{
			wire.ProtocolVersion: {"plugin": &service{plugin: p, log: log}}, // go-plugin needs a name; it is not sent
		},
		Logger: log,
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(wire.MaxCall), grpc.MaxSendMsgSize(wire.MaxCall))...)
		},
	})
}

// maxStack bounds the trace of a panic in the log, in bytes: the kernel cuts
// longer lines.
const maxStack = 4 << 10

// service is the plugin as go-plugin and gRPC see it.
type service struct {
	plugin.NetRPCUnsupportedPlugin
	wire.UnimplementedPluginServer

	plugin sdk.Plugin
	log    hclog.Logger // to standard error as it was at the start: go-plugin puts a pipe in its place
	broker *plugin.GRPCBroker

	mu     sync.Mutex // guards kernel
	kernel wire.KernelClient
}

// GRPCServer implements plugin.GRPCPlugin.
func (s *service) GRPCServer(broker *plugin.GRPCBroker, server *grpc.Server) error {
	s.broker = broker
	wire.RegisterPluginServer(server, s)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin; it is the kernel's side, not this one.
func (s *service) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("sdk/native serves a plugin, it does not start one")
}

// Describe implements wire.PluginServer.
func (s *service) Describe(_ context.Context, r *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	conn, err := s.broker.DialWithOptions(r.KernelBrokerId,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxSyscall), grpc.MaxCallSendMsgSize(wire.MaxSyscall)))
	if err != nil {
		return nil, fmt.Errorf("connect to the kernel: %w", err)
	}
	s.mu.Lock()
	s.kernel = wire.NewKernelClient(conn)
	s.mu.Unlock()
	return &wire.DescribeResponse{Name: valid(s.plugin.Name), Version: valid(s.plugin.Version), Functions: slices.Sorted(maps.Keys(s.plugin.Functions))}, nil
}

// Call implements wire.PluginServer.
func (s *service) Call(ctx context.Context, r *wire.CallRequest) (*wire.CallResponse, error) {
	f := s.plugin.Functions[r.Function]
	if f == nil {
		return &wire.CallResponse{Error: &wire.FunctionError{Code: sdk.CodeNotFound, Message: "there is no such function"}}, nil
	}
	var out []byte
	err := s.guard(func() (err error) {
		out, err = f(ctx, s.kernelOf(r.Call), r.Input)
		return err
	})
	switch {
	case err == nil:
		return &wire.CallResponse{Output: out}, nil
	case ctx.Err() != nil: // that is why it failed, and no failure of the function's own
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &wire.CallResponse{Error: failure(err)}, nil
}

// Lifecycle implements wire.PluginServer.
func (s *service) Lifecycle(ctx context.Context, r *wire.LifecycleRequest) (*wire.LifecycleResponse, error) {
	var hook sdk.Hook
	switch p := &s.plugin; r.Event {
	case wire.Event_EVENT_INIT:
		hook = p.Init
	case wire.Event_EVENT_START:
		hook = p.Start
	case wire.Event_EVENT_PAUSE:
		hook = p.Pause
	case wire.Event_EVENT_RESUME:
		hook = p.Resume
	case wire.Event_EVENT_STOP:
		hook = p.Stop
	case wire.Event_EVENT_UNLOAD:
		hook = p.Unload
	}
	if hook == nil {
		return &wire.LifecycleResponse{}, nil
	}
	return &wire.LifecycleResponse{Error: failure(s.guard(func() error { return hook(ctx, s.kernelOf(r.Call)) }))}, nil
}

// guard makes an error of a panic: one bad call must not take the process, and
// with it every other call, down. Where it happened goes to the log.
func (s *service) guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			s.log.Error("panic", "value", fmt.Sprint(v), "stack", string(stack[:min(len(stack), maxStack)]))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return f()
}

// failure is the error of a function as it goes over the wire. The codes are
// those that a WASM plugin's errors have.
func failure(err error) *wire.FunctionError {
	if err == nil {
		return nil
	}
	e := &wire.FunctionError{Code: sdk.CodeIO, Message: valid(err.Error())}
	if failed, ok := errors.AsType[*sdk.SyscallError](err); ok {
		e.Code = failed.Code
	} else if _, blocked := errors.AsType[*sdk.BlockedError](err); blocked {
		e.Code = sdk.CodeAccess
	}
	return e
}

// valid makes text fit for protobuf, whose strings are UTF-8.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// kernelOf is the kernel for the syscalls of one call.
func (s *service) kernelOf(call uint64) *sdk.Kernel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sdk.NewKernel(transport{kernel: s.kernel, call: call})
}

// transport carries the syscalls of one call to the kernel.
type transport struct {
	kernel wire.KernelClient
	call   uint64
}

// Syscall implements sdk.Transport.
func (t transport) Syscall(ctx context.Context, r sdk.Request) sdk.Result {
	args := make([][]byte, len(r.Args))
	for i, a := range r.Args {
		args[i] = []byte(a)
	}
	res, err := t.kernel.Syscall(ctx, &wire.SyscallRequest{Call: t.call, Name: valid(r.Name), Args: args, Handle: r.Handle, Payload: r.Payload})
	if err != nil {
		return unanswered(err)
	}
	switch res.Status {
	case wire.Status_STATUS_SUCCESS:
		return sdk.Result{Status: sdk.Success, Data: res.Data}
	case wire.Status_STATUS_FAILURE:
		return sdk.Result{Status: sdk.Failure, Code: res.Code, Message: res.Message, Context: res.Context}
	case wire.Status_STATUS_QUARANTINED:
		return sdk.Result{Status: sdk.Quarantined, Message: res.Message}
	}
	return sdk.Result{Status: sdk.Blocked, Message: res.Message}
}

// unanswered is the result of a syscall whose answer did not arrive. Whether it
// had its effect is not known, except that one too large to send had none.
func unanswered(err error) sdk.Result {
	r := sdk.Result{Status: sdk.Failure, Code: sdk.CodeIO, Message: "the kernel did not answer: " + err.Error()}
	switch status.Code(err) {
	case codes.Canceled:
		r.Code, r.Message = sdk.CodeInterrupted, "the call was cancelled"
	case codes.DeadlineExceeded:
		r.Code, r.Message = sdk.CodeTimeout, "the call's time ran out"
	case codes.ResourceExhausted:
		r.Code, r.Message = sdk.CodeTooLarge, fmt.Sprintf("the syscall or its result is larger than the %d bytes that can be carried", wire.MaxSyscall)
	}
	return r
}
