//go:build !linux

package versus

import "time"

var begin = time.Now()

// now is the time since the process began.
func now() time.Duration { return time.Since(begin) }
