//go:build wasmer

package wasmer

import (
	"errors"
	"fmt"
	"strings"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
)

// trapClasses are wasmer's own messages for its traps.
var trapClasses = map[string]engines.TrapClass{
	"unreachable":                                   engines.TrapUnreachable,
	"out of bounds memory access":                   engines.TrapMemoryBounds,
	"misaligned heap":                               engines.TrapMemoryBounds,
	"out of bounds table access":                    engines.TrapTableBounds,
	"undefined element: out of bounds table access": engines.TrapTableBounds,
	"uninitialized element":                         engines.TrapTableBounds,
	"indirect call type mismatch":                   engines.TrapIndirectType,
	"integer divide by zero":                        engines.TrapDivideByZero,
	"integer overflow":                              engines.TrapIntegerOverflow,
	"invalid conversion to integer":                 engines.TrapInvalidConversion,
	"call stack exhausted":                          engines.TrapStackExhausted,
}

// maxFrames bounds the stack trace in a trap's detail: an exhausted stack has
// hundreds of thousands.
const maxFrames = 30

// trap types the error that a guest call, or an active segment, ended with.
func trap(err error) *engines.Trap {
	t := &engines.Trap{Class: trapClasses[err.Error()], Detail: err.Error()}
	if upstreamTrap, ok := errors.AsType[*upstream.TrapError](err); ok {
		t.Detail += stackTrace(upstreamTrap.Trace())
	}
	return t
}

func stackTrace(frames []*upstream.Frame) string {
	var b strings.Builder
	for i, f := range frames {
		if i == maxFrames {
			fmt.Fprintf(&b, "\n\t… and %d more frames", len(frames)-i)
			break
		}
		fmt.Fprintf(&b, "\n\tfunction %d at byte %#x of the module", f.FunctionIndex(), f.ModuleOffset())
	}
	return b.String()
}
