// Package abi is the one gate that every effect of every plugin passes.
//
// A guest binding (WASM import or native RPC) turns what a plugin asks for into
// a [SyscallContext] whose [Subject] the host bound, and hands it to
// [Gate.SecureSyscall]. There, and nowhere else, it is resolved, checked
// against the capability set, decided by policy, put on record and carried out.
package abi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// Subject is who asks. The host binds it when a plugin starts; a guest can
// neither supply nor change any of it. It is read-only once a call was made.
type Subject struct {
	Plugin       string
	Identity     zta.Identity
	TrustLevel   capability.TrustLevel // configured ceiling; the trust score can only lower it
	Capabilities capability.Set
	ExecutionDNA *zta.ExecutionDNA // nil keeps no history
	Container    *Container        // never nil in a call that is to pass
	Mounts       []Mount

	// CallHandles makes each handle the call's that opened it, not the
	// container's: for plugins whose calls are to know nothing of each other.
	CallHandles bool
}

// TrustVector is how the identity is known, as verified when it was loaded.
func (s *Subject) TrustVector() zta.TrustVector { return s.Identity.TrustVector }

// Mount lends a host directory to a plugin.
type Mount struct {
	Guest    string   // absolute, clean guest path
	Root     *os.Root // the directory, owned by who bound the subject
	ReadOnly bool
}

// SyscallContext is one request for an effect.
type SyscallContext struct {
	*Subject
	Call *Call // the plugin call it is made from; nil for none

	Syscall string   // canonical name or alias
	Args    []string // see the syscall's registration
	Handle  Handle   // for syscalls on something open; 0 for none
	Payload []byte   // bulk data; on record as length and hash. Valid until the syscall returns.

	// Room is memory of the caller's that the handler may put its result in, up to
	// its length: what the result is then good for ends with the next use of it.
	Room []byte

	Timestamp time.Time // when it was asked; zero means now, by the gate's clock
}

// Status is how a syscall ended.
type Status uint8

// Statuses. The zero value is Blocked.
const (
	Blocked Status = iota
	Quarantined
	Failure
	Success
)

// String is the name of the status.
func (s Status) String() string {
	switch s {
	case Quarantined:
		return "quarantined"
	case Failure:
		return "failure"
	case Success:
		return "success"
	}
	return "blocked"
}

// decision is the status of a refusal as a record has it.
func (s Status) decision() string {
	if s == Quarantined {
		return zta.Quarantine.String()
	}
	return zta.Block.String()
}

// SyscallResult is the answer, one of four: the zero value is Blocked.
type SyscallResult struct {
	Status Status
	Data   []byte        // Success; may be nil
	Err    *SyscallError // Failure
	Reason string        // Blocked and Quarantined
}

// Error is nil for Success and otherwise an error that says what happened: the
// *[SyscallError] of a Failure, a *[DeniedError] for the rest.
func (r SyscallResult) Error() error {
	switch r.Status {
	case Success:
		return nil
	case Failure:
		return r.Err
	}
	return &DeniedError{Status: r.Status, Reason: r.Reason}
}

// DeniedError is a syscall or call that was refused, as an error.
type DeniedError struct {
	Status Status // Blocked or Quarantined
	Reason string
}

func (e *DeniedError) Error() string { return e.Status.String() + ": " + e.Reason }

// SyscallError is an effect that was allowed and failed.
type SyscallError struct {
	Code    int32 // Linux errno number where one fits, on every system; 5 (EIO) otherwise
	Message string
	Context map[string]string
}

func (e *SyscallError) Error() string {
	if len(e.Context) == 0 {
		return fmt.Sprintf("%s (errno %d)", e.Message, e.Code)
	}
	keys := make([]string, 0, len(e.Context))
	for k := range e.Context {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, " %s=%q", k, e.Context[k])
	}
	return fmt.Sprintf("%s (errno %d)%s", e.Message, e.Code, b.String())
}

// Codes of [SyscallError]: Linux errno numbers, the same on every system.
const (
	CodePermission  = 1  // EPERM
	CodeNotFound    = 2  // ENOENT
	CodeInterrupted = 4  // EINTR
	CodeIO          = 5  // EIO
	CodeBadHandle   = 9  // EBADF
	CodeExists      = 17 // EEXIST
	CodeNotDir      = 20 // ENOTDIR
	CodeIsDir       = 21 // EISDIR
	CodeInvalid     = 22 // EINVAL
	CodeTooMany     = 24 // EMFILE
	CodeTooLarge    = 27 // EFBIG
	CodeNoSpace     = 28 // ENOSPC
	CodeReadOnly    = 30 // EROFS
	CodeUnsupported = 95 // EOPNOTSUPP
	CodeTimeout     = 110
)

// Fail is a *[SyscallError] with that code and formatted message.
func Fail(code int32, format string, args ...any) *SyscallError {
	return &SyscallError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// failure turns what a handler returned into a *SyscallError.
func failure(err error) *SyscallError {
	var se *SyscallError
	var en syscall.Errno
	switch {
	case errors.As(err, &se):
		return se
	case errors.Is(err, fs.ErrNotExist):
		return Fail(CodeNotFound, "%v", err)
	case errors.Is(err, fs.ErrExist):
		return Fail(CodeExists, "%v", err)
	case errors.Is(err, fs.ErrPermission):
		return Fail(CodePermission, "%v", err)
	case errors.Is(err, fs.ErrClosed):
		return Fail(CodeBadHandle, "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return Fail(CodeTimeout, "%v", err)
	case errors.Is(err, context.Canceled):
		return Fail(CodeInterrupted, "%v", err)
	case errors.As(err, &en) && en == syscall.ENOSPC:
		return Fail(CodeNoSpace, "%v", err)
	}
	return Fail(CodeIO, "%v", err)
}
