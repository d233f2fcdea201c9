//go:build wasmtime

package wasmtime

import (
	"sync/atomic"
	"time"
)

// tick is how often running guests look whether their context is done, and so
// the longest that an interruption takes to be noticed.
const tick = time.Millisecond

// ticker calls a function each tick while calls are under way, and rests when
// none is.
type ticker struct {
	active atomic.Int64  // calls under way
	wake   chan struct{} // holds one word: a call may have begun
	done   chan struct{} // closed to end it
	ended  chan struct{} // closed when it has ended
}

func startTicker(f func()) *ticker {
	t := &ticker{
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		ended: make(chan struct{}),
	}
	go t.run(f)
	return t
}

func (t *ticker) run(f func()) {
	defer close(t.ended)
	for {
		select {
		case <-t.wake:
		case <-t.done:
			return
		}
		clock := time.NewTicker(tick)
		for t.active.Load() > 0 {
			select {
			case <-clock.C:
				f()
			case <-t.done:
				clock.Stop()
				return
			}
		}
		clock.Stop()
	}
}

// begin says that a call begins. A word left over from an earlier one makes
// run look in vain; one is never missing.
func (t *ticker) begin() {
	if t.active.Add(1) == 1 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

func (t *ticker) end() { t.active.Add(-1) }

// stop ends the ticker and waits for it.
func (t *ticker) stop() {
	close(t.done)
	<-t.ended
}
