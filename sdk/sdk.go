// Package sdk is what authors of ForgeOne plugins write against, the same for
// WASM and native ones: functions that take bytes and give bytes, and a
// [Kernel] that they ask for effects. Package sdk/guest makes a WASM plugin of
// them, package sdk/native a native one.
//
// It uses the standard library alone.
package sdk

import (
	"context"
	"fmt"
	"sort"
	"strings"
)

// Function is a function of a plugin that the kernel calls.
type Function func(ctx context.Context, k *Kernel, input []byte) ([]byte, error)

// Hook is a function for a moment in a plugin's life. An error refuses it.
type Hook func(ctx context.Context, k *Kernel) error

// Plugin is what an author supplies. Hooks may be nil.
type Plugin struct {
	Name      string
	Version   string
	Functions map[string]Function

	Init, Start, Pause, Resume, Stop, Unload Hook
}

// Request is one syscall.
type Request struct {
	Name    string
	Args    []string // any bytes
	Handle  uint64   // 0 for none
	Payload []byte
}

// Status says how a syscall ended.
type Status uint32

// Statuses, with their numbers on the wire.
const (
	Success Status = iota
	Failure
	Blocked
	Quarantined
)

// Result is the answer to a syscall.
type Result struct {
	Status  Status
	Data    []byte            // Success
	Code    int32             // Failure: a Linux errno number where one fits
	Message string            // Failure; the reason of Blocked and Quarantined
	Context map[string]string // Failure
}

// Transport carries syscalls to the kernel. Plugin authors do not need it.
type Transport interface {
	Syscall(ctx context.Context, r Request) Result
}

// Codes of [SyscallError]: Linux errno numbers, the same on every system.
const (
	CodePermission  = 1
	CodeNotFound    = 2
	CodeInterrupted = 4
	CodeIO          = 5
	CodeBadHandle   = 9
	CodeAccess      = 13
	CodeExists      = 17
	CodeInvalid     = 22
	CodeTooLarge    = 27
	CodeNoSpace     = 28
	CodeReadOnly    = 30
	CodeUnsupported = 95
	CodeTimeout     = 110
)

// SyscallError is an effect that was allowed and failed.
type SyscallError struct {
	Syscall string
	Code    int32
	Message string
	Context map[string]string
}

func (e *SyscallError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (errno %d)", e.Syscall, e.Message, e.Code)
	keys := make([]string, 0, len(e.Context))
	for k := range e.Context {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, " %s=%q", k, e.Context[k])
	}
	return b.String()
}

// BlockedError is a syscall that was refused: nothing happened.
type BlockedError struct {
	Syscall string
	Reason  string
}

func (e *BlockedError) Error() string { return e.Syscall + " was blocked: " + e.Reason }

// QuarantinedError is a syscall that was refused and ended the plugin: its
// container takes no further calls.
type QuarantinedError struct {
	Syscall string
	Reason  string
}

func (e *QuarantinedError) Error() string {
	return e.Syscall + " was refused and the plugin quarantined: " + e.Reason
}

// Kernel is what a plugin asks for effects. Each method is one syscall or a
// few, and fails with *[BlockedError], *[QuarantinedError] or *[SyscallError].
type Kernel struct{ t Transport }

// NewKernel makes a kernel on a transport.
func NewKernel(t Transport) *Kernel { return &Kernel{t: t} }

// Syscall asks for an effect by name, for what has no method here. Arguments
// may hold any bytes; payload is for bulk data.
func (k *Kernel) Syscall(ctx context.Context, name string, args []string, handle uint64, payload []byte) ([]byte, error) {
	r := k.t.Syscall(ctx, Request{Name: name, Args: args, Handle: handle, Payload: payload})
	switch r.Status {
	case Success:
		return r.Data, nil
	case Failure:
		return nil, &SyscallError{Syscall: name, Code: r.Code, Message: r.Message, Context: r.Context}
	case Quarantined:
		return nil, &QuarantinedError{Syscall: name, Reason: r.Message}
	}
	return nil, &BlockedError{Syscall: name, Reason: r.Message}
}
