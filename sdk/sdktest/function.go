package sdktest

import (
	"context"
	"fmt"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/sdk"
)

// Call calls a function of a plugin, as the kernel would. The error is the
// function's own, or an *[abi.DeniedError] if the plugin takes no calls any
// more. A panic of the function is an error.
func Call(t testing.TB, k *Kernel, f sdk.Function, input []byte) (output []byte, err error) {
	t.Helper()
	return run(t, k, "function", input, func(ctx context.Context, kernel *sdk.Kernel) ([]byte, error) {
		return f(ctx, kernel, input)
	})
}

// Hook runs a lifecycle hook of a plugin, as the kernel would. Errors: as [Call].
func Hook(t testing.TB, k *Kernel, h sdk.Hook) error {
	t.Helper()
	_, err := run(t, k, "hook", nil, func(ctx context.Context, kernel *sdk.Kernel) ([]byte, error) {
		return nil, h(ctx, kernel)
	})
	return err
}

func run(t testing.TB, k *Kernel, what string, input []byte, f func(context.Context, *sdk.Kernel) ([]byte, error)) (output []byte, err error) {
	t.Helper()
	call, err := k.begin(t, what, input)
	if err != nil {
		return nil, err
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
		if err = call.End(output, err); err != nil {
			output = nil
		}
	}()
	return f(call.Context(), sdk.NewKernel(transport{call}))
}

// transport carries the syscalls of a Go function to the gate.
type transport struct{ call *abi.Call }

// Syscall implements sdk.Transport.
func (t transport) Syscall(ctx context.Context, r sdk.Request) sdk.Result {
	res := t.call.Syscall(ctx, r.Name, r.Args, abi.Handle(r.Handle), r.Payload)
	switch res.Status {
	case abi.Success:
		return sdk.Result{Status: sdk.Success, Data: res.Data}
	case abi.Failure:
		return sdk.Result{Status: sdk.Failure, Code: res.Err.Code, Message: res.Err.Message, Context: res.Err.Context}
	case abi.Quarantined:
		return sdk.Result{Status: sdk.Quarantined, Message: res.Reason}
	}
	return sdk.Result{Status: sdk.Blocked, Message: res.Reason}
}
