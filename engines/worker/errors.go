package worker

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

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
		return fmt.Sprintf("the worker %d of the engine %s was killed, because %s (%s); load the plugin again for a new instance", e.PID, e.Engine, e.Killed, e.How)
	}
	return fmt.Sprintf("the worker %d of the engine %s ended (%s); load the plugin again for a new instance", e.PID, e.Engine, e.How)
}

// crashLog passes on what a worker writes, and keeps the line by which Go says
// which signal or error ends the process: an account of registers follows it,
// longer than what package child keeps.
type crashLog struct {
	hclog.Logger

	mu    sync.Mutex // guards what follows
	cause string
}

// Log implements hclog.Logger; package child logs each line by it.
func (l *crashLog) Log(level hclog.Level, line string, args ...any) {
	l.Logger.Log(level, line, args...)
	for _, begin := range []string{"SIG", "fatal error: ", "panic: "} {
		if strings.HasPrefix(line, begin) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.cause = cmp.Or(l.cause, line[:min(len(line), 200)])
			return
		}
	}
}

// how says how a process ended, from what package child says of it.
func (l *crashLog) how(err error) string {
	reason := fmt.Sprint(err)
	if e, ok := errors.AsType[*child.Error](err); ok {
		reason = e.Reason // without name and path, which are given apart
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == "" || strings.Contains(reason, l.cause) {
		return reason
	}
	return l.cause + ": " + reason
}
