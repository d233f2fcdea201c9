package host

import "context"

// semaphore lets as many in as it has room for; waiting ends with a context.
type semaphore chan struct{}

func newSemaphore(room int) semaphore { return make(semaphore, room) }

func (s semaphore) acquire(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s semaphore) release() { <-s }
