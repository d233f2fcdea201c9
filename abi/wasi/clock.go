package wasi

import (
	"context"
	"encoding/binary"
	"strconv"
	"time"

	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/engines"
)

// clocks are the arguments of time_get for the clock ids of preview 1. There is
// no clock of CPU time.
var clocks = map[uint32]string{0: "wall", 1: "monotonic"}

// now is what a clock says, in nanoseconds.
func now(ctx context.Context, clock uint32) (uint64, errno, error) {
	name, ok := clocks[clock]
	if !ok {
		return 0, einval, nil
	}
	data, code, err := syscall(ctx, "time_get", []string{name}, nil)
	if err != nil || code != success {
		return 0, code, err
	}
	ns, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return 0, eio, nil
	}
	return ns, success, nil
}

// clockTimeGet is clock_time_get(id, precision, time).
func clockTimeGet(ctx context.Context, mem engines.Memory, args []uint64) (errno, error) {
	ns, code, err := now(ctx, uint32(args[0]))
	if err != nil || code != success {
		return code, err
	}
	return putUint64(mem, uint32(args[2]), ns), nil
}

// Layout of the records of poll_oneoff, in bytes.
const (
	subscriptionSize = 48
	eventSize        = 32
	maxSubscriptions = 4096
	maxSleep         = uint64(time.Hour) // of one time_sleep, in nanoseconds

	eventClock   = 0 // tag of a subscription and type of an event
	clockAbstime = 1 // flag: the timeout is a point in time
)

// pollOneoff is poll_oneoff(in, out, nsubscriptions, nevents). It waits for the
// earliest of the clocks. There is no file to wait for, so a subscription to
// one is answered at once, with ENOSYS in its event.
func pollOneoff(ctx context.Context, mem engines.Memory, args []uint64) (errno, error) {
	in, out, count, events := uint32(args[0]), uint32(args[1]), uint32(args[2]), uint32(args[3])
	if count == 0 || count > maxSubscriptions {
		return einval, nil
	}
	subs, err := guest.Read(mem, in, count*subscriptionSize, nil)
	if err != nil {
		return efault, nil
	}

	var wait uint64
	var due []byte // events of what wait is the earliest of
	for ; len(subs) > 0; subs = subs[subscriptionSize:] {
		left, code := uint64(0), enosys
		if subs[8] == eventClock {
			if left, code, err = remaining(ctx, subs); err != nil {
				return 0, err
			}
		}
		if due == nil || left < wait {
			wait, due = left, due[:0]
		}
		if left == wait {
			due = append(due, event(subs, code)...)
		}
	}
	for wait > 0 {
		part := min(wait, maxSleep)
		_, code, err := syscall(ctx, "time_sleep", []string{strconv.FormatUint(part, 10)}, nil)
		if err != nil || code != success {
			return code, err
		}
		wait -= part
	}
	if code := put(mem, out, due); code != success {
		return code, nil
	}
	return putUint32(mem, events, uint32(len(due)/eventSize)), nil
}

// remaining is how long a clock subscription has to wait, in nanoseconds.
func remaining(ctx context.Context, sub []byte) (uint64, errno, error) {
	clock, timeout := binary.LittleEndian.Uint32(sub[16:]), binary.LittleEndian.Uint64(sub[24:])
	if binary.LittleEndian.Uint16(sub[40:])&clockAbstime == 0 {
		if _, ok := clocks[clock]; !ok {
			return 0, einval, nil
		}
		return timeout, success, nil
	}
	ns, code, err := now(ctx, clock)
	if err != nil || code != success || ns >= timeout {
		return 0, code, err
	}
	return timeout - ns, success, nil
}

// event is the event of a subscription.
func event(sub []byte, code errno) []byte {
	e := make([]byte, eventSize)
	copy(e, sub[:8]) // userdata
	binary.LittleEndian.PutUint16(e[8:], uint16(code))
	e[10] = sub[8]
	return e
}
