//go:build linux || darwin

package cache

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// limitBySystem has the system hold what it can: no core dumps, no writing of
// files, time by what all processors compute, memory by the data that is mapped.
// (The last counts on Linux alone. Address space would not do: engines reserve
// gigabytes that they do not use.)
func limitBySystem(req request) error {
	seconds := uint64(req.Timeout/time.Second+1) * uint64(runtime.NumCPU())
	for _, l := range []struct {
		resource int
		max      uint64
	}{
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_FSIZE, 0},
		{unix.RLIMIT_CPU, seconds},
		{unix.RLIMIT_DATA, uint64(req.Memory)},
	} {
		var have unix.Rlimit
		if err := unix.Getrlimit(l.resource, &have); err != nil {
			return err
		}
		l.max = min(l.max, uint64(have.Max))
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return err
		}
	}
	return nil
}
