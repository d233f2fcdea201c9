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

	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/wire"
)

// Serve runs the plugin until the kernel ends it, and does not return. Started
// by hand it says how it is meant to be run, and exits with 1.
func Serve(p sdk.Plugin) {
	if os.Getenv(wire.CookieKey) != wire.CookieValue {
		fmt.Fprintf(os.Stderr, "%s %s is a ForgeOne plugin and is started by the kernel: name it in a plugin block (native = %q) of the kernel's configuration\n", p.Name, p.Version, os.Args[0])
		os.Exit(1)
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{ProtocolVersion: wire.ProtocolVersion, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{
			wire.ProtocolVersion: {wire.Service: &service{plugin: p}},
		},
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(wire.MaxMessage), grpc.MaxSendMsgSize(wire.MaxMessage))...)
		},
	})
}

// service is the plugin as go-plugin and gRPC see it.
type service struct {
	plugin.NetRPCUnsupportedPlugin
	wire.UnimplementedPluginServer

	plugin sdk.Plugin
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
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxMessage), grpc.MaxCallSendMsgSize(wire.MaxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connect to the kernel: %w", err)
	}
	s.mu.Lock()
	s.kernel = wire.NewKernelClient(conn)
	s.mu.Unlock()
	return &wire.DescribeResponse{Name: s.plugin.Name, Version: s.plugin.Version, Functions: s.functions()}, nil
}

func (s *service) functions() []string { return slices.Sorted(maps.Keys(s.plugin.Functions)) }

// Call implements wire.PluginServer.
func (s *service) Call(ctx context.Context, r *wire.CallRequest) (*wire.CallResponse, error) {
	f := s.plugin.Functions[r.Function]
	if f == nil {
		return &wire.CallResponse{Error: &wire.FunctionError{UnknownFunction: true, Message: strings.Join(s.functions(), ", ")}}, nil
	}
	var out []byte
	err := guard(func() (err error) {
		out, err = f(ctx, s.kernelOf(r.Call), r.Input)
		return err
	})
	return &wire.CallResponse{Output: out, Error: failure(err)}, nil
}

// Lifecycle implements wire.PluginServer.
func (s *service) Lifecycle(ctx context.Context, r *wire.LifecycleRequest) (*wire.LifecycleResponse, error) {
	hook := map[wire.Event]sdk.Hook{
		wire.Event_EVENT_INIT: s.plugin.Init, wire.Event_EVENT_START: s.plugin.Start, wire.Event_EVENT_PAUSE: s.plugin.Pause,
		wire.Event_EVENT_RESUME: s.plugin.Resume, wire.Event_EVENT_STOP: s.plugin.Stop, wire.Event_EVENT_UNLOAD: s.plugin.Unload,
	}[r.Event]
	if hook == nil {
		return &wire.LifecycleResponse{}, nil
	}
	return &wire.LifecycleResponse{Error: failure(guard(func() error { return hook(ctx, s.kernelOf(r.Call)) }))}, nil
}

// guard makes an error of a panic: one bad call must not take the process, and
// with it every other call, down.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n%s", v, debug.Stack())
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return f()
}

// failure is the error of a function as it goes over the wire.
func failure(err error) *wire.FunctionError {
	if err == nil {
		return nil
	}
	e := &wire.FunctionError{Code: 1, Message: err.Error()}
	var se *sdk.SyscallError
	if errors.As(err, &se) {
		e.Code = se.Code
	}
	return e
}

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
	res, err := t.kernel.Syscall(ctx, &wire.SyscallRequest{Call: t.call, Name: r.Name, Args: args, Handle: r.Handle, Payload: r.Payload})
	if err != nil {
		return sdk.Result{Status: sdk.Failure, Code: sdk.CodeIO, Message: "the kernel cannot be reached: " + err.Error()}
	}
	return sdk.Result{Status: sdk.Status(res.Status), Data: res.Data, Code: res.Code, Message: res.Message, Context: res.Context}
}
