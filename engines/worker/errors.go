package worker

import (
	"errors"
	"fmt"

	"forgeone.dev/forgeone/child"
)

// CrashError is what everything that a worker held is answered with once the
// worker has ended, whether by itself or because the kernel killed it.
type CrashError struct {
	Engine string // the engine that the worker ran
	PID    int    // of the process
	// Killed says why the kernel killed the worker; "" if it ended by itself.
	Killed string
	// How is the way in which the process ended, such as "signal: aborted", and
	// what it wrote last.
	How string
}

func (e *CrashError) Error() string {
	if e.Killed != "" {
		return fmt.Sprintf("the worker %d of the engine %s was killed, because %s (%s); its instances are lost, and the next one is of another worker: stop and start a plugin that keeps its state", e.PID, e.Engine, e.Killed, e.How)
	}
	return fmt.Sprintf("the worker %d of the engine %s ended (%s); its instances are lost, and the next one is of another worker: stop and start a plugin that keeps its state", e.PID, e.Engine, e.How)
}

// ReentryError is a call of an instance while one that is linked to it waits for
// a host function, with another context than the host function was given: that
// says which call it is part of.
type ReentryError struct{ Engine string }

func (e *ReentryError) Error() string {
	return e.Engine + ": an instance is called while one that is linked to it waits for a host function; from a host function, call with the context that it was given"
}

// how says how a process ended, from what package child says of it.
func how(err error) string {
	if e, ok := errors.AsType[*child.Error](err); ok {
		return e.Reason // without name and path, which are given apart
	}
	return fmt.Sprint(err)
}
