// Package guest is what the bindings of WASM guests share: copying bytes out of
// and into a memory that is not to be trusted, and asking the gate for effects
// on behalf of the call that a context carries.
package guest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/engines"
)

// Errors of memory access, as host functions return them.
var (
	ErrNoMemory = errors.New("the module has no memory")
	ErrNoCall   = errors.New("a guest asks for effects only while it serves a call")
)

// Read copies the n bytes at ptr into buf, which it grows if it is too small,
// and returns what it copied. Nothing is allocated for a range that is out of
// bounds.
func Read(mem engines.Memory, ptr, n uint32, buf []byte) ([]byte, error) {
	if err := check(mem, ptr, n); err != nil {
		return nil, err
	}
	buf = slices.Grow(buf[:0], int(n))[:n]
	if n > 0 && !mem.Read(uint64(ptr), buf) {
		return nil, bounds(mem, ptr, n)
	}
	return buf, nil
}

// Write copies src to ptr, all of it or nothing.
func Write(mem engines.Memory, ptr uint32, src []byte) error {
	if err := check(mem, ptr, uint32(len(src))); err != nil {
		return err
	}
	if len(src) > 0 && !mem.Write(uint64(ptr), src) {
		return bounds(mem, ptr, uint32(len(src)))
	}
	return nil
}

// check reports whether n bytes at ptr are in bounds. An empty range may lie
// anywhere up to the end.
func check(mem engines.Memory, ptr, n uint32) error {
	if mem == nil {
		return ErrNoMemory
	}
	if uint64(ptr)+uint64(n) > mem.Size() {
		return bounds(mem, ptr, n)
	}
	return nil
}

func bounds(mem engines.Memory, ptr, n uint32) error {
	return fmt.Errorf("%d bytes at %#x are out of bounds: the memory has %d bytes", n, ptr, mem.Size())
}

// Syscall asks the gate for an effect on behalf of the call that ctx carries.
// The error ends the guest: *[abi.DeniedError] when it was quarantined.
func Syscall(ctx context.Context, name string, args []string, handle abi.Handle, payload []byte) (abi.SyscallResult, error) {
	return SyscallInto(ctx, nil, name, args, handle, payload)
}

// SyscallInto is [Syscall] with room for the result, as [abi.Call.SyscallInto]
// has it.
func SyscallInto(ctx context.Context, room []byte, name string, args []string, handle abi.Handle, payload []byte) (abi.SyscallResult, error) {
	call := abi.CallFrom(ctx)
	if call == nil {
		return abi.SyscallResult{}, ErrNoCall
	}
	res := call.SyscallInto(ctx, room, name, args, handle, payload)
	switch res.Status {
	case abi.Blocked:
		if d, ok := ctx.Value(denialsKey{}).(*Denials); ok {
			d.note(name, res.Reason)
		}
	case abi.Quarantined:
		return res, res.Error()
	}
	return res, nil
}

// Denials are the syscalls a guest was denied, for the diagnosis of one that
// could not go on without them: the latest reason for each of the first few
// names.
type Denials struct {
	names, reasons []string
}

const maxDenials = 4

func (d *Denials) note(name, reason string) {
	if i := slices.Index(d.names, name); i >= 0 {
		d.reasons[i] = reason
	} else if len(d.names) < maxDenials {
		d.names, d.reasons = append(d.names, name), append(d.reasons, reason)
	}
}

// Explain adds to the error of a guest that ended what it had been denied.
func (d *Denials) Explain(err error) error {
	if len(d.reasons) == 0 {
		return err
	}
	return fmt.Errorf("%w; before, it was denied: %s", err, strings.Join(d.reasons, "; "))
}

// Run lets a guest run on behalf of a call, which the context carries, and
// explains how it ended. what is the function that runs.
func Run(call *abi.Call, what string, f func(context.Context) error) error {
	ctx, denials := WatchDenials(abi.WithCall(call.Context(), call))
	err := f(ctx)
	if err == nil {
		return nil
	}
	err = denials.Explain(err)
	// A container that dies takes its guests with it, by way of their context.
	if died, ok := errors.AsType[*abi.DeniedError](context.Cause(call.Context())); ok {
		if _, said := errors.AsType[*abi.DeniedError](err); !said {
			return fmt.Errorf("%s: %w (%w)", what, died, err)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

type denialsKey struct{}

// WatchDenials collects what [Syscall] is denied under the returned context.
func WatchDenials(ctx context.Context) (context.Context, *Denials) {
	d := new(Denials)
	return context.WithValue(ctx, denialsKey{}, d), d
}

// Types reads a list of value types: "i" is an i32, "I" an i64.
func Types(s string) []engines.ValueType {
	types := make([]engines.ValueType, len(s))
	for i, c := range []byte(s) {
		types[i] = engines.I32
		if c == 'I' {
			types[i] = engines.I64
		}
	}
	return types
}
