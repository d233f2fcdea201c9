package abi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/zta"
)

// Limits of folding.
const (
	foldEvery = time.Second // an open run is brought up to date at least this often
	maxFolds  = 256         // distinct runs a call may have open; what is beyond is recorded one by one
)

// Call is one call of a plugin's function. Syscalls made from it end with it,
// and repeats among them may share records.
type Call struct {
	gate    *Gate
	subject *Subject
	id      uint64
	intent  uint64 // seq of its intent record
	begun   time.Time
	name    string

	ctx    context.Context // lives as long as the call: it is the call
	cancel context.CancelCauseFunc

	unrecorded atomic.Bool // a syscall was refused because it could not be recorded

	handles int  // of its own that are open; guarded by the container's mu, as is ended
	ended   bool // no more are opened

	mu     sync.Mutex // guards the folds; held across the append of a fold record, never across an effect
	folds  map[foldKey]*fold
	timer  *time.Timer
	closed bool
}

// foldKey is what was decided about a syscall; repeats that share it fold.
type foldKey struct {
	syscall  string
	resource string // the first; a syscall with several is never folded
	handle   Handle
	rule     string
}

type fold struct {
	open     uint64 // seq of the opening record
	record   audit.Record
	count    uint64
	failed   uint64
	bytes    uint64
	duration time.Duration
	lastErr  string
}

// Begin starts a call: the container must be live and the intent is put on
// record. Errors: *[DeniedError] when the container takes no calls or the
// record cannot be written. A call that was begun must be ended.
func (g *Gate) Begin(ctx context.Context, s *Subject, function string, input []byte) (*Call, error) {
	now := g.clock()
	r := g.callRecord(s, audit.PhaseIntent, function, input)
	defer putRecord(r)
	if err := s.Container.Live(); err != nil {
		d := err.(*DeniedError) //nolint:errorlint // Live returns nothing else
		r.Phase, r.Decision, r.Reason = audit.PhaseEvent, d.Status.decision(), audit.Clip(d.Reason)
		_, _ = g.log.Append(r) // the call is refused whether or not this can be written
		return nil, d
	}
	c := &Call{gate: g, subject: s, id: g.calls.Add(1), begun: now, name: function}
	r.Call, r.Decision = c.id, zta.Allow.String()
	var err error
	if c.intent, err = g.log.Append(r); err != nil {
		return nil, &DeniedError{Status: Blocked, Reason: unrecorded(err)}
	}
	c.ctx, c.cancel = s.Container.bind(ctx)
	return c, nil
}

// callRecord is a record of a call with what goes in or comes out of it.
func (g *Gate) callRecord(s *Subject, phase audit.Phase, function string, data []byte) *audit.Record {
	r := records.Get().(*audit.Record)
	r.Kind, r.Phase, r.Function, r.Bytes = audit.KindCall, phase, audit.Clip(function), uint64(len(data))
	g.subjectOf(r, s)
	if len(data) > 0 {
		sum := sha256.Sum256(data)
		r.Digest = hex.EncodeToString(sum[:])
	}
	return r
}

// ID is the number of the call, unique within the gate. It is never 0.
func (c *Call) ID() uint64 { return c.id }

// Context ends with the call, with the caller's context, and when the
// container dies (its cause is then a *[DeniedError]).
func (c *Call) Context() context.Context { return c.ctx }

// Limit gives the call a deadline from now on. It is called before the call is
// served, and the returned function after.
func (c *Call) Limit(d time.Duration) (done func()) {
	var cancel context.CancelFunc
	c.ctx, cancel = context.WithTimeout(c.ctx, d)
	return cancel
}

// Subject is who the call runs as.
func (c *Call) Subject() *Subject { return c.subject }

// Unrecorded reports whether a syscall of the call was refused because the log
// could not be written: what became of the guest then is not its own doing.
func (c *Call) Unrecorded() bool { return c.unrecorded.Load() }

// Syscall asks the gate for an effect on behalf of the call. ctx must be
// derived from [Call.Context].
func (c *Call) Syscall(ctx context.Context, name string, args []string, handle Handle, payload []byte) SyscallResult {
	return c.SyscallInto(ctx, nil, name, args, handle, payload)
}

// SyscallInto is [Call.Syscall] with room for the result (see
// [SyscallContext.Room]), for bulk data that is copied on at once.
func (c *Call) SyscallInto(ctx context.Context, room []byte, name string, args []string, handle Handle, payload []byte) SyscallResult {
	return c.gate.SecureSyscall(ctx, &SyscallContext{
		Subject: c.subject, Call: c, Syscall: name, Args: args, Handle: handle, Payload: payload, Room: room,
	})
}

// End closes the call's own handles and its runs, and records its outcome. callErr is how the
// guest ended. The returned error is callErr, or why the end could not be
// recorded.
func (c *Call) End(output []byte, callErr error) error {
	c.cancel(nil)
	left := 0
	if c.subject.CallHandles {
		left = c.subject.Container.disown(c)
	}
	flushErr := c.flush(true)
	r := c.gate.callRecord(c.subject, audit.PhaseOutcome, c.name, output)
	defer putRecord(r)
	r.Call, r.Intent, r.Outcome, r.Duration = c.id, audit.Closes(c.intent), audit.OutcomeOK, c.gate.clock().Sub(c.begun)
	if callErr != nil {
		r.Outcome, r.Error = audit.OutcomeFailed, audit.Clip(callErr.Error())
	}
	if left > 0 {
		r.Details = map[string]string{"handles_left_open": utoa(uint64(left))}
	}
	_, err := c.gate.log.Append(r)
	if callErr != nil {
		return callErr
	}
	if err = errors.Join(flushErr, err); err != nil {
		return &DeniedError{Status: Blocked, Reason: fmt.Sprintf("the call ended well, but that cannot be recorded, so its result is withheld: %v", err)}
	}
	return nil
}

// running is the run that a syscall belongs to, nil if none is open.
func (c *Call) running(key foldKey) *fold {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	return c.folds[key]
}

// enter finds or opens the run that a syscall belongs to. The opening record is
// written before enter returns, so before the first effect. A nil fold and no
// error means that the syscall is to be recorded by itself.
func (c *Call) enter(key foldKey, r *audit.Record) (*fold, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil
	}
	if f := c.folds[key]; f != nil {
		return f, nil
	}
	if len(c.folds) >= maxFolds {
		return nil, nil
	}
	r.Phase = audit.PhaseOpen
	seq, err := c.gate.log.Append(r)
	if err != nil {
		return nil, err
	}
	if c.folds == nil {
		c.folds = map[foldKey]*fold{}
		c.timer = time.AfterFunc(foldEvery, c.tick)
	}
	f := &fold{open: seq, record: *r}
	f.record.Args, f.record.Digest = nil, ""
	c.folds[key] = f
	return f, nil
}

// leave counts one effect of a run. An effect that ends after its call is
// counted at once.
func (c *Call) leave(f *fold, bytes int, d time.Duration, err *SyscallError) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.count++
	f.bytes += uint64(bytes)
	f.duration += d
	if err != nil {
		f.failed++
		f.lastErr = err.Message
	}
	if c.closed {
		return c.account(f, true)
	}
	return nil
}

// tick brings the open runs up to date while the call goes on.
func (c *Call) tick() {
	if err := c.flush(false); err != nil {
		c.cancel(&DeniedError{Status: Blocked, Reason: unrecorded(err)}) // what cannot be recorded must not go on
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.timer.Reset(foldEvery)
	}
}

func (c *Call) flush(last bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last {
		c.closed = true
		if c.timer != nil {
			c.timer.Stop()
		}
	}
	var first error
	for _, f := range c.folds {
		if f.count == 0 && !last {
			continue
		}
		if err := c.account(f, last); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// account writes what a run has counted since its last record; last ends it.
func (c *Call) account(f *fold, last bool) error {
	r := f.record
	r.Phase, r.Intent = audit.PhaseFold, audit.Closes(f.open)
	if last {
		r.Phase = audit.PhaseClose
	}
	r.Count, r.Bytes, r.Duration = f.count, f.bytes, f.duration
	r.Outcome = audit.OutcomeOK
	if f.failed > 0 {
		r.Outcome, r.Error = audit.OutcomeFailed, audit.Clip(f.lastErr)
		r.Details = map[string]string{"failed": utoa(f.failed)}
	}
	if _, err := c.gate.log.Append(&r); err != nil {
		return err
	}
	f.count, f.failed, f.bytes, f.duration, f.lastErr = 0, 0, 0, 0, ""
	return nil
}

type callKey struct{}

// WithCall makes a call known to the bindings that serve it: the host
// functions of a guest find it with [CallFrom].
func WithCall(ctx context.Context, c *Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// CallFrom is the call that ctx carries, or nil.
func CallFrom(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}
