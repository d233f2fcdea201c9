package wasi

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"
)

// clocks are the arguments of time_get for the clock ids of preview 1. There is
// no clock of CPU time.
var clocks = [...]string{"wall", "monotonic"}

func clock(id uint64) (string, error) {
	switch {
	case uint32(id) < uint32(len(clocks)):
		return clocks[uint32(id)], nil
	case uint32(id) < 4:
		return "", enotsup
	}
	return "", einval
}

// now is what a clock says, in nanoseconds.
func (x frame) now(id uint64) (uint64, error) {
	name, err := clock(id)
	if err != nil {
		return 0, err
	}
	told, err := x.syscall("time_get", 0, nil, name)
	if err != nil {
		return 0, err
	}
	return number(told)
}

// clockTimeGet is clock_time_get(id, precision, time).
func clockTimeGet(x frame) error {
	ns, err := x.now(x.args[0])
	if err != nil {
		return err
	}
	return x.putUint64(x.args[2], ns)
}

// clockResGet is clock_res_get(id, resolution): that of the number, which tells
// nothing of the host.
func clockResGet(x frame) error {
	if _, err := clock(x.args[0]); err != nil {
		return err
	}
	return x.putUint64(x.args[1], 1)
}

// Layout of the records of poll_oneoff, in bytes.
const (
	subscriptionSize = 48
	eventSize        = 32
	maxSubscriptions = 4096
	maxSleep         = uint64(time.Hour) // of one syscall, in nanoseconds

	clockAbstime = 1 // flag of a subscription: the timeout is a point in time
	hangup       = 1 // flag of an event: nothing more will come
)

// Tags of subscriptions, and types of events.
const (
	eventClock = iota
	eventRead
	eventWrite
)

// subscription is one of poll_oneoff, as it is in guest memory.
type subscription []byte

func (s subscription) tag() byte       { return s[8] }
func (s subscription) fd() uint64      { return uint64(binary.LittleEndian.Uint32(s[16:])) }
func (s subscription) clock() uint64   { return uint64(binary.LittleEndian.Uint32(s[16:])) }
func (s subscription) timeout() uint64 { return binary.LittleEndian.Uint64(s[24:]) }
func (s subscription) abstime() bool {
	return binary.LittleEndian.Uint16(s[40:])&clockAbstime != 0
}

// event is the event of a subscription. err is nil or an errno.
func (s subscription) event(err error, bytes uint64, flags uint16) []byte {
	code, _ := err.(errno) //nolint:errorlint // an errno is never wrapped
	e := make([]byte, eventSize)
	copy(e, s[:8]) // userdata
	binary.LittleEndian.PutUint16(e[8:], uint16(code))
	e[10] = s.tag()
	binary.LittleEndian.PutUint64(e[16:], bytes)
	binary.LittleEndian.PutUint16(e[24:], flags)
	return e
}

// pollOneoff is poll_oneoff(in, out, nsubscriptions, nevents). It waits for the
// earliest of the clocks and for standard input: nothing else has to be waited
// for.
func pollOneoff(x frame) error {
	count := uint32(x.args[2])
	if count == 0 || count > maxSubscriptions {
		return einval
	}
	if err := x.room(x.args[1], count*eventSize); err != nil {
		return err
	}
	if err := x.room(x.args[3], 4); err != nil {
		return err
	}
	all, err := x.read(uint32(x.args[0]), count*subscriptionSize, nil)
	if err != nil {
		return err
	}
	q := poll{frame: x, wait: math.MaxUint64}
	for ; len(all) > 0; all = all[subscriptionSize:] {
		if err := q.add(all[:subscriptionSize]); err != nil {
			return err
		}
	}
	if err := q.run(); err != nil {
		return err
	}
	if err := x.put(x.args[1], q.events); err != nil {
		return err
	}
	return x.putUint32(x.args[3], uint32(len(q.events)/eventSize))
}

// poll is one poll_oneoff.
type poll struct {
	frame
	events []byte         // that have happened
	wait   uint64         // until the earliest of the clocks, in nanoseconds; the greatest number for ever
	clocks []subscription // that are the earliest
	stdin  []subscription
}

// add looks at a subscription. An error ends the guest: what is wrong with a
// subscription is told by its event.
func (q *poll) add(s subscription) error {
	switch s.tag() {
	case eventClock:
		left, err := q.remaining(s)
		if err != nil {
			return q.happened(s, err, 0)
		}
		if left < q.wait {
			q.wait, q.clocks = left, q.clocks[:0]
		}
		if left == q.wait {
			q.clocks = append(q.clocks, s)
		}
		return nil
	case eventRead, eventWrite:
	default:
		return einval
	}
	d, err := q.p.descriptor(s.fd(), rightPoll)
	switch {
	case err != nil:
		return q.happened(s, err, 0)
	case s.tag() == eventRead && d.stream == "stdin":
		q.stdin = append(q.stdin, s)
		return nil
	case s.tag() == eventRead && d.stream != "", s.tag() == eventWrite && d.stream == "stdin":
		return q.happened(s, ebadf, 0)
	case s.tag() == eventRead && d.typ == typeRegular:
		left, err := q.unread(d)
		return q.happened(s, err, left)
	}
	return q.happened(s, nil, maxBytes) // files are always ready
}

// happened adds an event. An error that is no errno ends the guest.
func (q *poll) happened(s subscription, err error, bytes uint64) error {
	if _, ok := err.(errno); err != nil && !ok { //nolint:errorlint // an errno is never wrapped
		return err
	}
	q.events = append(q.events, s.event(err, bytes, 0)...)
	return nil
}

// unread is how much a file has after its position.
func (q *poll) unread(d *descriptor) (uint64, error) {
	at, err := q.position(d, 0, current)
	if err != nil {
		return 0, err
	}
	told, err := q.syscall("file_stat", d.handle, nil, d.path)
	if err != nil {
		return 0, err
	}
	if len(told) != filestatSize {
		return 0, eio
	}
	size := binary.LittleEndian.Uint64(told[32:])
	return size - min(size, at), nil
}

// remaining is how long a clock subscription has to wait, in nanoseconds.
func (q *poll) remaining(s subscription) (uint64, error) {
	if !s.abstime() {
		_, err := clock(s.clock())
		return s.timeout(), err
	}
	ns, err := q.now(s.clock())
	if err != nil || ns >= s.timeout() {
		return 0, err
	}
	return s.timeout() - ns, nil
}

// run waits, unless something has happened.
func (q *poll) run() error {
	if len(q.events) > 0 && q.wait > 0 {
		q.wait, q.clocks = 0, nil
	}
	if len(q.stdin) > 0 {
		return q.runStdin()
	}
	for left := q.wait; left > 0; {
		part := min(left, maxSleep)
		if err := q.do("time_sleep", 0, strconv.FormatUint(part, 10)); err != nil {
			return err
		}
		left -= part
	}
	return q.elapsed()
}

// elapsed adds the events of the earliest clocks.
func (q *poll) elapsed() error {
	for _, s := range q.clocks {
		if err := q.happened(s, nil, 0); err != nil {
			return err
		}
	}
	return nil
}

// runStdin waits for standard input, as long as the clocks let it.
func (q *poll) runStdin() error {
	switch err := q.await(q.wait); err { //nolint:errorlint // an errno is never wrapped
	case nil:
		var flags uint16
		if len(q.p.ahead.data) == 0 {
			flags = hangup
		}
		for _, s := range q.stdin {
			q.events = append(q.events, s.event(nil, uint64(len(q.p.ahead.data)), flags)...)
		}
		if q.wait > 0 {
			return nil
		}
		return q.elapsed()
	case eagain:
		return q.elapsed()
	default:
		for _, s := range q.stdin {
			if err := q.happened(s, err, 0); err != nil {
				return err
			}
		}
		return nil
	}
}
