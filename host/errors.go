package host

import (
	"errors"
	"fmt"
)

// Errors that callers match with errors.Is.
var (
	ErrNotFound    = errors.New("not loaded")
	ErrExists      = errors.New("already loaded")
	ErrClosed      = errors.New("host is closed")
	ErrChecksum    = errors.New("checksum does not match")
	ErrQuarantined = errors.New("quarantined")
)

// ConfigError is a plugin configuration that cannot be taken. It may join
// several errors.
type ConfigError struct {
	Plugin string
	Origin string // "file:line" where known
	Err    error
}

func (e *ConfigError) Error() string {
	if e.Origin != "" {
		return e.Origin + ": " + e.Err.Error()
	}
	return e.Err.Error()
}

func (e *ConfigError) Unwrap() error { return e.Err }

// TransitionError is a lifecycle verb that the plugin's status does not allow.
type TransitionError struct {
	Plugin string
	Verb   string // start, pause, …
	Status PluginStatus
	Remedy string
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("cannot %s plugin %q: it is %s; %s", e.Verb, e.Plugin, e.Status, e.Remedy)
}

// LimitError is a call that ran into one of its limits.
type LimitError struct {
	Plugin string
	Limit  string // "timeout", "fuel", "output", …
	Err    error
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("plugin %q exceeded its %s limit: %v", e.Plugin, e.Limit, e.Err)
}

func (e *LimitError) Unwrap() error { return e.Err }

// unreachedError is a call that ended before anything of the guest ran for it.
type unreachedError struct{ error }

func (e *unreachedError) Unwrap() error { return e.error }

// FunctionError is a function that ran and reported failure.
type FunctionError struct {
	Plugin   string
	Function string
	Code     int32
	Message  string
}

func (e *FunctionError) Error() string {
	return fmt.Sprintf("%s.%s failed: %s (code %d)", e.Plugin, e.Function, e.Message, e.Code)
}
