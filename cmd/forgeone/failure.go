package main

import (
	"context"
	"errors"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/quarantine"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/zta"
)

// Exit codes, which scripts hold.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2 // or configuration
	exitBlocked     = 3
	exitQuarantined = 4
	exitLimit       = 5
)

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// silentError ends with the exit code of a kind; what there is to say was said.
type silentError struct{ kind control.Kind }

func (e *silentError) Error() string { return string(e.kind) }

// kindOf classes an error of any room of the kernel. It is the one place that
// does: errors of a running kernel were classed by its own kindOf.
func kindOf(err error) control.Kind {
	var (
		remote     *control.Error
		silent     *silentError
		denied     *abi.DeniedError
		transition *host.TransitionError
	)
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.As(err, &remote):
		return remote.Kind
	case errors.As(err, &silent):
		return silent.kind
	case errors.As(err, new(*usageError)):
		return control.Usage
	case errors.As(err, &denied):
		if denied.Status == abi.Quarantined {
			return control.Quarantined
		}
		return control.Blocked
	case errors.As(err, &transition):
		if transition.Status.Phase == host.PluginQuarantined {
			return control.Quarantined
		}
		return control.Conflict
	case is(host.ErrQuarantined):
		return control.Quarantined
	case errors.As(err, new(*host.LimitError)), errors.As(err, new(*forge.LimitError)), errors.As(err, new(*cache.LimitError)), is(context.DeadlineExceeded):
		return control.Limit
	case errors.As(err, new(*config.DiagnosticsError)), errors.As(err, new(*host.ConfigError)), errors.As(err, new(*zta.PolicyError)):
		return control.Config
	case is(host.ErrExists, quarantine.ErrReleased, state.ErrLocked, audit.ErrLocked, control.ErrInUse):
		return control.Conflict
	case is(host.ErrNotFound, quarantine.ErrNotFound), errors.As(err, new(*engines.ExportError)):
		return control.NotFound
	}
	return control.Failed
}

func exitCode(err error) int {
	switch kindOf(err) {
	case control.Usage, control.Config:
		return exitUsage
	case control.Blocked:
		return exitBlocked
	case control.Quarantined:
		return exitQuarantined
	case control.Limit:
		return exitLimit
	}
	return exitFailed
}
