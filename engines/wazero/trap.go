package wazero

import (
	"context"
	"errors"
	"strings"

	"github.com/tetratelabs/wazero/sys"

	"forgeone.dev/forgeone/engines"
)

var errImmutable = errors.New("wazero: the global is immutable")

// trapClasses are wazero's own messages for its traps: the error values are
// internal to it.
var trapClasses = map[string]engines.TrapClass{
	"unreachable":                   engines.TrapUnreachable,
	"out of bounds memory access":   engines.TrapMemoryBounds,
	"invalid table access":          engines.TrapTableBounds,
	"indirect call type mismatch":   engines.TrapIndirectType,
	"integer divide by zero":        engines.TrapDivideByZero,
	"integer overflow":              engines.TrapIntegerOverflow,
	"invalid conversion to integer": engines.TrapInvalidConversion,
	"stack overflow":                engines.TrapStackExhausted,
}

// interrupted is the trap of an interruptible call that must not begin because
// its context is done, nil if it may.
func interrupted(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &engines.Trap{Class: engines.TrapInterrupted, Cause: err}
	}
	return nil
}

// callError types the error that a guest call, whose context was ctx, ended with.
func callError(ctx context.Context, err error) error {
	if host, ok := errors.AsType[*engines.HostError](err); ok {
		return host
	}
	if exit, ok := errors.AsType[*sys.ExitError](err); ok {
		cause := ctx.Err()
		if code := exit.ExitCode(); cause == nil || code != sys.ExitCodeContextCanceled && code != sys.ExitCodeDeadlineExceeded {
			return engines.ErrClosed
		}
		return &engines.Trap{Class: engines.TrapInterrupted, Detail: err.Error(), Cause: cause}
	}
	root := err
	for next := errors.Unwrap(root); next != nil; next = errors.Unwrap(root) {
		root = next
	}
	message := root.Error()
	if i := strings.LastIndex(message, ": "); i >= 0 {
		message = message[i+2:] // an active segment's trap has the segment before it
	}
	return &engines.Trap{Class: trapClasses[message], Detail: err.Error()}
}
