package worker

import (
	"context"
	"errors"
	"strings"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
)

// op is what a frame is about.
type op byte

// What the kernel asks. Unless it says otherwise, the answer is opDone or
// opError. "call" stands for a [callHead]. A memory is named by a reference: an
// export's index, or callerRef plus the depth of a host call for the memory of
// who made it. With the answer to opCall is told what fuel the instance has used
// (a word, if its module counts fuel), and the globals that are watched.
const (
	opCompile      op = iota + 1 // call, module, options, binary
	opDropModule                 // module
	opDefine                     // binding, its name, functions: from now on they can be imported
	opForget                     // bindings; no answer
	opAhead                      // binding, function, parameters: what they point at is to come with its calls; no answer
	opInstantiate                // call, module, instance, whether it becomes the connection's, its imports: opWord (the fuel used)
	opAdopt                      // instance, which becomes the connection's; no answer
	opSync                       // of what has no answer
	opCallOf                     // call, instance, and as opCall: in a host call
	opCall                       // call, export, parameters: opResult or opError, and what is told with it
	opRead                       // memory, offset, length, length of the whole: opData or opFalse
	opWrite                      // memory, offset, length of the whole, data: opWord (the memory's size) or opFalse
	opPoke                       // memory, offset, data; no answer
	opSize                       // memory: opWord
	opGrow                       // memory, pages: opWord or opFalse
	opGet                        // export: opWord
	opSet                        // export, word
	opPut                        // export, word; no answer
	opWatch                      // export: its value is to be told with each answer to opCall; no answer
	opClose                      // the connection's instance
	opSnapshot                   // module, snapshot: of the connection's instance; opWord (its size) or opError
	opRevive                     // as opInstantiate, with a snapshot for the module
	opRestore                    // snapshot: opDone or opFalse
	opDropSnapshot               // snapshot
)

// What the worker answers, and asks in the middle of a call.
const (
	opDone     op = iota + 64
	opFalse       // it was out of bounds
	opWord        // a word
	opData        // bytes
	opResult      // results
	opError       // kind and what belongs to it
	opHostCall    // binding, function, size of the caller's memory, parameters, what they point at: opHostReturn or opHostFail
)

// How the kernel answers a host call.
const (
	opHostReturn op = iota + 128 // results
	opHostFail                   // the kernel holds the error
)

// callerRef is the flag of a memory reference that names a host call's caller.
const callerRef = 1 << 31

// maxAhead is how much of a memory comes with a host call for each pair of
// parameters that is an offset and a length, in bytes.
const maxAhead = 4 << 10

// maxWatched is how many globals of an instance are watched.
const maxWatched = 8

// noMemory is the size of the memory of a caller that has none.
const noMemory = ^uint64(0)

// Control frames all have one length; they go over a connection of their own,
// because the worker reads the others only when it waits.
const (
	controlSize   = 9
	controlOpen   = 1 // connection: its descriptor comes along
	controlCancel = 2 // connection, sequence
)

// Kinds of error.
const (
	errClosed byte = iota + 1
	errTrap
	errHost // of the host function that failed last
	errLink
	errCompile
	errUnsupported
	errLimit // of package meter, for what is compiled
	errSnapshot
	errOther
)

// maxText is how much of a text of an error is sent, in bytes.
const maxText = 16 << 10

func clip(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "\ufffd")
}

// hostFailed is what a host function's place-taker in the worker returns when
// the function failed.
type hostFailed struct{}

func (hostFailed) Error() string { return "the host function failed" }

// failure writes the body of an opError frame.
func (c *conn) failure(err error) {
	if errors.Is(err, engines.ErrClosed) {
		c.byte(errClosed)
		return
	}
	switch e := err.(type) {
	case *engines.Trap:
		c.byte(errTrap)
		c.byte(byte(e.Class))
		c.text(clip(e.Detail))
	case *engines.HostError:
		if _, ours := errors.AsType[hostFailed](e); ours {
			c.byte(errHost)
			return
		}
		c.byte(errOther)
		c.text(clip(err.Error()))
	case *engines.LinkError:
		c.byte(errLink)
		c.text(clip(e.Module))
		c.text(clip(e.Name))
		c.text(clip(e.Reason))
	case *engines.CompileError:
		if limit, ok := errors.AsType[*meter.LimitError](e); ok {
			c.byte(errLimit)
			c.text(clip(limit.What))
			c.uint64(uint64(limit.Got))
			c.uint64(uint64(limit.Limit))
			return
		}
		c.byte(errCompile)
		c.text(clip(e.Err.Error()))
	case *engines.SnapshotError:
		c.byte(errSnapshot)
		c.text(clip(e.Reason))
	case *engines.UnsupportedError:
		c.byte(errUnsupported)
		c.text(clip(e.Feature))
		c.text(clip(e.Reason))
	default:
		c.byte(errOther)
		c.text(clip(err.Error()))
	}
}

// failure is the error in the body of an opError frame. engine is the name of
// the engine that the error is of, ctx the context of what failed, host what
// the last host call that failed ended with.
func (d *decoder) failure(ctx context.Context, engine string, host error) (failure, broken error) {
	switch kind := d.byte(); kind {
	case errClosed:
		failure = engines.ErrClosed
	case errTrap:
		t := &engines.Trap{Class: engines.TrapClass(d.byte()), Detail: strings.ToValidUTF8(d.text(), "\ufffd")}
		if !known(t.Class) {
			t.Class = engines.TrapUnknown
		}
		if t.Class == engines.TrapInterrupted {
			if t.Cause = over(ctx); t.Cause == nil {
				return nil, violation("an interruption of a call that was not cancelled")
			}
		}
		failure = t
	case errHost:
		if host == nil {
			return nil, violation("the failure of a host function, and none has failed")
		}
		failure = host
	case errLink:
		failure = &engines.LinkError{Module: d.text(), Name: d.text(), Reason: d.text()}
	case errCompile:
		failure = &engines.CompileError{Engine: engine, Err: errors.New(d.text())}
	case errLimit:
		failure = &engines.CompileError{Engine: engine, Err: &meter.LimitError{What: d.text(), Got: int64(d.uint64()), Limit: int64(d.uint64())}}
	case errSnapshot:
		failure = &engines.SnapshotError{Reason: strings.ToValidUTF8(d.text(), "\ufffd")}
	case errUnsupported:
		failure = &engines.UnsupportedError{Engine: engine, Feature: d.text(), Reason: d.text()}
	case errOther:
		failure = errors.New(engine + ": " + d.text())
	default:
		return nil, violation("an error of kind %d", kind)
	}
	return failure, nil
}

// callHead begins a request that is to end with its context.
type callHead struct {
	seq         uint32
	cancellable bool
	left        time.Duration // until the deadline, 0 if there is none
}

// How a call may end before it is over.
const (
	callEndless byte = iota
	callCancellable
	callDeadline // the time that is left follows
)

// head writes a callHead. The worker is told the deadline, and not only when it
// has come: there may be no thread that is free to hear of it.
func (c *conn) head(ctx context.Context, seq uint32) {
	c.uint32(seq)
	if ctx.Done() == nil {
		c.byte(callEndless)
		return
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		c.byte(callCancellable)
		return
	}
	c.byte(callDeadline)
	c.uint64(uint64(max(time.Until(deadline), 1)))
}

func (d *decoder) head() (h callHead) {
	h.seq = d.uint32()
	switch d.byte() {
	case callEndless:
	case callCancellable:
		h.cancellable = true
	case callDeadline:
		h.cancellable, h.left = true, time.Duration(d.uint64())
	default:
		d.bad = true
	}
	return h
}

// over is why a call of the context may have been interrupted, nil if it must
// not have been. The worker may notice the deadline before the context does.
func over(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// known reports whether package engines has a name for the class.
func known(c engines.TrapClass) bool {
	return c == engines.TrapUnknown || c.String() != engines.TrapUnknown.String()
}

// wordCount is the number of words that values of these types take.
func wordCount(types []engines.ValueType) int { return engines.FuncType{Results: types}.Slots() }

// types writes a list of value types.
func (c *conn) types(ts []engines.ValueType) {
	c.uint32(uint32(len(ts)))
	for _, t := range ts {
		c.byte(byte(t))
	}
}

func (d *decoder) types() []engines.ValueType {
	b := d.take(int(d.uint32()))
	ts := make([]engines.ValueType, len(b))
	for i := range b {
		ts[i] = engines.ValueType(b[i])
	}
	return ts
}
