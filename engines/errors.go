package engines

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by everything that is used after Close.
var ErrClosed = errors.New("engines: used after close")

// TrapClass says why a guest call ended. Every engine reports the same class
// for the same trap.
type TrapClass int

// Trap classes.
const (
	TrapUnknown           TrapClass = iota // a trap the adapter could not class
	TrapUnreachable                        // the unreachable instruction
	TrapMemoryBounds                       // memory access out of bounds
	TrapTableBounds                        // table access or call_indirect out of bounds, or a null element called
	TrapIndirectType                       // call_indirect to a function of another type
	TrapDivideByZero                       // integer division by zero
	TrapIntegerOverflow                    // integer overflow in division or conversion
	TrapInvalidConversion                  // NaN converted to an integer
	TrapStackExhausted                     // call stack exhausted
	TrapInterrupted                        // the call's context was done
	TrapFuel                               // the call's fuel was spent (CompileOptions.Fuel)
)

var trapNames = [...]string{
	"unknown trap", "unreachable executed", "memory access out of bounds", "table access out of bounds",
	"indirect call type mismatch", "integer divide by zero", "integer overflow",
	"invalid conversion to integer", "call stack exhausted", "interrupted",
	"out of fuel",
}

// String describes the class in a few words.
func (c TrapClass) String() string {
	if c < 0 || int(c) >= len(trapNames) {
		return trapNames[0]
	}
	return trapNames[c]
}

// Trap is a guest call that ended abnormally. The instance must not be
// trusted to be in a consistent state afterwards.
type Trap struct {
	Class TrapClass
	// Detail is the engine's own message and guest stack trace, for people.
	Detail string
	// Cause is the context's error for TrapInterrupted, else nil.
	Cause error
}

func (t *Trap) Error() string {
	if t.Cause != nil {
		return fmt.Sprintf("wasm trap: %s: %v", t.Class, t.Cause)
	}
	if t.Class == TrapUnknown && t.Detail != "" {
		return "wasm trap: " + t.Detail
	}
	return "wasm trap: " + t.Class.String()
}

func (t *Trap) Unwrap() error { return t.Cause }

// HostError is a guest call that a host function ended, by an error or a panic.
type HostError struct {
	Module, Name string // the import
	Err          error
}

func (e *HostError) Error() string {
	return fmt.Sprintf("host function %s.%s: %v", e.Module, e.Name, e.Err)
}

func (e *HostError) Unwrap() error { return e.Err }

// CompileError is a binary that cannot be compiled.
type CompileError struct {
	Engine string
	Err    error
}

func (e *CompileError) Error() string { return fmt.Sprintf("%s: compile: %v", e.Engine, e.Err) }

func (e *CompileError) Unwrap() error { return e.Err }

// LinkError is an import that was not satisfied.
type LinkError struct {
	Module, Name string
	Reason       string
}

func (e *LinkError) Error() string {
	return fmt.Sprintf("import %s.%s: %s", e.Module, e.Name, e.Reason)
}

// ExportError is an export that is not there or not of the kind asked for.
type ExportError struct {
	Name   string
	Reason string
}

func (e *ExportError) Error() string { return fmt.Sprintf("export %q: %s", e.Name, e.Reason) }

// ArgumentError is a call whose stack does not fit the function's type.
type ArgumentError struct {
	Func      string
	Want, Got int // words
}

func (e *ArgumentError) Error() string {
	return fmt.Sprintf("function %q takes a stack of at least %d words, got %d", e.Func, e.Want, e.Got)
}

// UnsupportedError is an option or feature that an engine lacks.
type UnsupportedError struct {
	Engine  string
	Feature string
	Reason  string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("engine %s does not support %s: %s", e.Engine, e.Feature, e.Reason)
}

// RefuseUnmetered is the error of an engine that runs modules as they are, for
// options that only a rewritten module can hold, nil for others: what is not
// held is not taken.
func (o CompileOptions) RefuseUnmetered(engine string) error {
	if o.Fuel == 0 && o.CallDepth == 0 && !o.Snapshots {
		return nil
	}
	return &UnsupportedError{Engine: engine, Feature: "Fuel, CallDepth and Snapshots", Reason: "they need what engines/meter writes into a module; wrap the engine with it"}
}

// Panicked turns a recovered value into the error a [HostError] carries.
func Panicked(v any) error {
	if err, ok := v.(error); ok {
		return fmt.Errorf("panic: %w", err)
	}
	return fmt.Errorf("panic: %v", v)
}

// SnapshotError says why the state of an instance cannot be captured.
type SnapshotError struct{ Reason string }

func (e *SnapshotError) Error() string { return "the instance cannot be captured: " + e.Reason }
