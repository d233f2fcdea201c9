package forge

import (
	"context"
	"fmt"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// execution is one run of an exported function: what its imports read and
// write. Only the goroutine that runs the guest touches it.
type execution struct {
	input  []byte
	output []byte
	failed *FunctionError // set by the import fail
	result []byte         // of the latest syscall

	// Reused from one syscall to the next: the gate keeps neither.
	request, payload []byte
}

type executionKey struct{}

// hostModules are what a guest may import. They hold no state of their own: all
// of it is in the context of the guest's call.
var hostModules = map[string]*engines.HostModule{
	ModuleName: {Functions: []engines.HostFunction{
		function("input", (*execution).importInput, "ii", "i"),
		function("output", (*execution).importOutput, "ii", ""),
		function("fail", (*execution).importFail, "iii", ""),
		function("syscall", (*execution).importSyscall, "iiiiii", "I"),
		function("result", (*execution).importResult, "ii", "i"),
	}},
	wasi.ModuleName: wasi.HostModule(),
}

// function makes a host function of a method. In params and results an "i" is
// an i32 and an "I" an i64.
func function(name string, method func(*execution, context.Context, engines.Memory, []uint64) error, params, results string) engines.HostFunction {
	return engines.HostFunction{
		Name: name,
		Type: engines.FuncType{Params: guest.Types(params), Results: guest.Types(results)},
		Call: func(ctx context.Context, caller engines.Caller, stack []uint64) error {
			x, ok := ctx.Value(executionKey{}).(*execution)
			if !ok {
				return guest.ErrNoCall
			}
			return method(x, ctx, caller.Memory(), stack)
		},
	}
}

// importInput is input(ptr, cap) -> length.
func (x *execution) importInput(_ context.Context, mem engines.Memory, stack []uint64) error {
	return copyOut(mem, stack, x.input)
}

// importResult is result(ptr, cap) -> length.
func (x *execution) importResult(_ context.Context, mem engines.Memory, stack []uint64) error {
	return copyOut(mem, stack, x.result)
}

// copyOut writes what fits of data, and returns the length of it all.
func copyOut(mem engines.Memory, stack []uint64, data []byte) error {
	ptr, room := uint32(stack[0]), uint32(stack[1])
	stack[0] = uint64(len(data))
	return guest.Write(mem, ptr, data[:min(uint64(room), uint64(len(data)))])
}

// importOutput is output(ptr, len).
func (x *execution) importOutput(_ context.Context, mem engines.Memory, stack []uint64) (err error) {
	n := uint32(stack[1])
	if n > MaxOutput {
		return &LimitError{What: "output", Limit: MaxOutput, Got: uint64(n)}
	}
	x.output, err = guest.Read(mem, uint32(stack[0]), n, x.output)
	return err
}

// importFail is fail(code, ptr, len).
func (x *execution) importFail(_ context.Context, mem engines.Memory, stack []uint64) error {
	message, err := guest.Read(mem, uint32(stack[1]), min(uint32(stack[2]), MaxMessage), nil)
	if err != nil {
		return err
	}
	x.failed = &FunctionError{Code: int32(uint32(stack[0])), Message: string(message)}
	return nil
}

// Statuses of a syscall, as a guest sees them. It never sees quarantine.
const (
	statusSuccess = 0
	statusFailure = 1
	statusBlocked = 2
)

// importSyscall is syscall(req, req_len, payload, payload_len, buf, cap) -> status<<32 | length.
func (x *execution) importSyscall(ctx context.Context, mem engines.Memory, stack []uint64) (err error) {
	arg := func(i int) uint32 { return uint32(stack[i]) }
	if n := arg(1); n > MaxRequest {
		return &LimitError{What: "syscall request", Limit: MaxRequest, Got: uint64(n)}
	}
	if n := arg(3); n > MaxPayload {
		return &LimitError{What: "syscall payload", Limit: MaxPayload, Got: uint64(n)}
	}
	if x.request, err = guest.Read(mem, arg(0), arg(1), x.request); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	q, err := decodeRequest(x.request)
	if err != nil {
		return err
	}
	if x.payload, err = guest.Read(mem, arg(2), arg(3), x.payload); err != nil {
		return fmt.Errorf("payload: %w", err)
	}

	res, err := guest.Syscall(ctx, q.name, q.args, q.handle, x.payload)
	if err != nil {
		return err
	}
	var status uint64
	status, x.result = answer(res)
	if n := len(x.result); n <= int(arg(5)) {
		if err := guest.Write(mem, arg(4), x.result); err != nil {
			return fmt.Errorf("result: %w", err)
		}
	}
	stack[0] = status<<32 | uint64(len(x.result))
	return nil
}

// answer is a result as the guest gets it.
func answer(res abi.SyscallResult) (status uint64, data []byte) {
	switch res.Status {
	case abi.Success:
		if len(res.Data) <= MaxResult {
			return statusSuccess, res.Data
		}
		return statusFailure, encodeFailure(abi.Fail(abi.CodeTooLarge, "the result of %d bytes is above the limit of %d; ask for less at a time", len(res.Data), MaxResult))
	case abi.Failure:
		return statusFailure, encodeFailure(res.Err)
	}
	return statusBlocked, []byte(res.Reason)
}
