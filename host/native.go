package host

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/native"
)

// nativeUnit runs a native plugin. Its syscalls name the call they belong to;
// one that names none in flight belongs to the container alone.
type nativeUnit struct {
	run    *running
	plugin *native.Plugin
	calls  sync.Map // call id → *abi.Call in flight
}

func startNative(call *abi.Call, r *running, logger hclog.Logger) (*nativeUnit, error) {
	u := &nativeUnit{run: r}
	defer u.serving(call)()
	p, err := native.Start(call.Context(), native.Config{
		Name: r.plugin.name, Path: r.art.cfg.NativeLibrary, SHA256: r.art.digest,
		Logger: logger.Named(r.plugin.name), Gate: u.syscall,
	})
	if err != nil {
		return nil, err
	}
	u.plugin = p
	return u, nil
}

// serving makes a call known to the plugin's syscalls.
func (u *nativeUnit) serving(call *abi.Call) (done func()) {
	u.calls.Store(call.ID(), call)
	return func() { u.calls.Delete(call.ID()) }
}

// syscall is the gate as package native sees it. Whose syscall it is follows
// from the process it came from, not from anything that the process says.
func (u *nativeUnit) syscall(ctx context.Context, s native.Syscall) native.Result {
	sc := &abi.SyscallContext{Subject: u.run.subject, Syscall: s.Name, Args: s.Args, Handle: abi.Handle(s.Handle), Payload: s.Payload}
	if c, ok := u.calls.Load(s.Call); ok {
		sc.Call = c.(*abi.Call) //nolint:errcheck // serving stores nothing else
		// The effect ends with the plugin's request and with the call.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(sc.Call.Context(), cancel)()
	}
	res := u.run.plugin.host.k.gate.SecureSyscall(ctx, sc)
	out := native.Result{Data: res.Data, Message: res.Reason}
	switch res.Status {
	case abi.Success:
		out.Status = native.Success
	case abi.Failure:
		out.Status, out.Code, out.Message, out.Context = native.Failure, res.Err.Code, res.Err.Message, res.Err.Context
	case abi.Quarantined:
		out.Status = native.Quarantined
	}
	return out
}

func (u *nativeUnit) call(call *abi.Call, function string, input []byte) ([]byte, error) {
	defer u.serving(call)()
	return u.plugin.Call(call.Context(), call.ID(), function, input)
}

func (u *nativeUnit) event(call *abi.Call, name forge.Event) error {
	defer u.serving(call)()
	return u.plugin.Lifecycle(call.Context(), call.ID(), native.Event(name))
}

func (u *nativeUnit) functions() []string { return u.plugin.Description().Functions }

func (u *nativeUnit) stop(ctx context.Context) error { return u.plugin.Stop(ctx) }

func (u *nativeUnit) kill() error { return u.plugin.Kill() }

func (u *nativeUnit) exited() <-chan struct{} { return u.plugin.Exited() }

func (u *nativeUnit) exitError() error { return u.plugin.ExitError() }
