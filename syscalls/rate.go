package syscalls

import (
	"sync"
	"time"
)

// Rate of the lines that one plugin may put in the operator's log.
const (
	MaxLogRate  = 100  // lines a second
	MaxLogBurst = 1000 // lines at once
)

// maxPlugins bounds what a lineRate remembers. Forgetting favours the plugins:
// it gives them a whole burst.
const maxPlugins = 4096

// lineRate is a token bucket for each plugin.
type lineRate struct {
	mu      sync.Mutex
	plugins map[string]*bucket
}

type bucket struct {
	tokens  float64
	filled  time.Time
	dropped int // lines since the last that passed
}

// take reports whether the plugin may log a line now, and if so, how many were
// dropped before it.
func (r *lineRate) take(plugin string, now time.Time) (dropped int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.plugins[plugin]
	if b == nil {
		if r.plugins == nil || len(r.plugins) >= maxPlugins {
			r.plugins = map[string]*bucket{}
		}
		b = &bucket{tokens: MaxLogBurst, filled: now}
		r.plugins[plugin] = b
	}
	if d := now.Sub(b.filled); d > 0 {
		b.tokens = min(MaxLogBurst, b.tokens+d.Seconds()*MaxLogRate)
		b.filled = now
	}
	if b.tokens < 1 {
		b.dropped++
		return 0, false
	}
	b.tokens--
	dropped, b.dropped = b.dropped, 0
	return dropped, true
}
