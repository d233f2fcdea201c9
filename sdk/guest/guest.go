//go:build wasip1

package guest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"forgeone.dev/forgeone/sdk"
)

// version is what this package speaks, major<<16 | minor.
const version = 1 << 16

// maxOutput is the ABI's limit: beyond it the host ends the guest.
const maxOutput = 64 << 20

// forgeABI answers the host's highest version with the one to use.
//
//go:wasmexport forge_abi
func forgeABI(host uint32) uint32 {
	if host>>16 != version>>16 || host < version {
		return 0
	}
	return version
}

// Call serves an exported function: it fetches the input of n bytes, runs f and
// hands its output or its error to the host. The result is the export's own.
//
// An error that wraps a *[sdk.SyscallError] has its code, one that wraps a
// *[sdk.BlockedError] has [sdk.CodeAccess], any other has [sdk.CodeIO]. A panic
// of f is an error.
func Call(n uint32, f sdk.Function) uint32 {
	return report(func(ctx context.Context, k *sdk.Kernel) error {
		input := make([]byte, n)
		hostInput(at(input), n)
		output, err := f(ctx, k, input)
		if err != nil {
			return err
		}
		if len(output) > maxOutput {
			return fmt.Errorf("the output of %d bytes is above the limit of %d", len(output), maxOutput)
		}
		hostOutput(at(output), uint32(len(output)))
		return nil
	})
}

// Hook serves an exported lifecycle function. Errors are as in [Call].
func Hook(f sdk.Hook) uint32 { return report(f) }

// Reseed serves an exported forge_reseed: it hands the call's own entropy to f,
// for generators that live from one call to the next and would otherwise begin
// each call where initialisation left them. It is run before the call, or
// lifecycle event, that it is of.
func Reseed(n uint32, f func(seed [32]byte)) uint32 {
	return report(func(context.Context, *sdk.Kernel) error {
		var seed [32]byte
		if hostInput(at(seed[:]), uint32(len(seed))); n < uint32(len(seed)) {
			return fmt.Errorf("the host gives %d bytes of entropy, %d are needed", n, len(seed))
		}
		f(seed)
		return nil
	})
}

// report runs f and tells the host of its error. It returns the status.
func report(f sdk.Hook) uint32 {
	err := protect(f)
	if err == nil {
		return 0
	}
	code := int32(sdk.CodeIO)
	if failed, ok := errors.AsType[*sdk.SyscallError](err); ok {
		code = failed.Code
	} else if _, blocked := errors.AsType[*sdk.BlockedError](err); blocked {
		code = sdk.CodeAccess
	}
	message := []byte(err.Error())
	hostFail(code, at(message), uint32(len(message)))
	return 1
}

func protect(f sdk.Hook) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v%s", v, panicked())
		}
	}()
	return f(context.Background(), sdk.NewKernel(kernel))
}

// panicked is where the panic happened that a deferred function recovers from.
func panicked() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for unwinding := false; ; {
		frame, more := frames.Next()
		if unwinding && !strings.HasPrefix(frame.Function, "runtime.") {
			return fmt.Sprintf(" (in %s, %s:%d)", frame.Function, frame.File[strings.LastIndexByte(frame.File, '/')+1:], frame.Line)
		}
		unwinding = unwinding || frame.Function == "runtime.gopanic"
		if !more {
			return ""
		}
	}
}
