package wasi

import (
	"math"
	"strconv"
)

// ahead is what was read of standard input and not yet by the guest. Without
// data it is the end.
type ahead struct{ data []byte }

// maxAhead is how much is read ahead, in bytes.
const maxAhead = 4 << 10

// readStdin reads up to n bytes of standard input; none is its end. Errors:
// EAGAIN if nothing is there and the guest does not wait for it.
func (x frame) readStdin(n uint32, nonblock bool) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if x.p.ahead == nil {
		wait := uint64(math.MaxUint64)
		if nonblock {
			wait = 0
		}
		return x.askStdin(n, wait)
	}
	data := x.p.ahead.data
	if uint64(len(data)) <= uint64(n) {
		x.p.ahead = nil
		return data, nil
	}
	x.p.ahead.data = data[n:]
	return data[:n], nil
}

// await waits until there is something of standard input, or its end. Errors:
// EAGAIN when the time, in nanoseconds, has passed.
func (x frame) await(wait uint64) error {
	if x.p.ahead != nil {
		return nil
	}
	data, err := x.askStdin(maxAhead, wait)
	if err == nil {
		x.p.ahead = &ahead{data}
	}
	return err
}

// askStdin asks for standard input. It waits for as long as is said, in
// nanoseconds; the greatest number is for ever.
func (x frame) askStdin(n uint32, wait uint64) ([]byte, error) {
	args := []string{"stdin", strconv.FormatUint(uint64(n), 10)}
	if wait != math.MaxUint64 {
		args = append(args, strconv.FormatUint(min(wait, math.MaxInt64), 10))
	}
	return x.syscall("stdio_read", 0, nil, args...)
}
