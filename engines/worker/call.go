package worker

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/bits"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"weak"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/link"
)

// wire is the kernel's end of a connection. Who uses the instance that it is
// of, uses it; so it needs no lock.
type wire struct {
	conn
	file   *os.File
	worker *worker
	id     uint32

	seq     uint32      // of the last call
	calls   uint64      // how often guest code was let run, which makes stale what was known
	writes  uint64      // to its memories, by the kernel
	depth   uint32      // of host calls under way
	failure error       // what the last host call that failed ended with
	stacks  []uint64    // the stacks of the host calls under way
	waiting atomic.Bool // for the worker, not for a host function
}

// await sends what was written and reads the header of what comes next.
func (t *wire) await() (op, int, error) {
	t.waiting.Store(true)
	defer t.waiting.Store(false)
	if err := t.flush(); err != nil {
		return 0, 0, t.worker.lost(err)
	}
	op, n, err := t.next()
	if err != nil {
		return 0, 0, t.worker.lost(err)
	}
	return op, n, nil
}

// take reads the rest of a frame, after which there must be none.
func (t *wire) take(n int) ([]byte, error) {
	b, err := t.body(n)
	if err != nil {
		return nil, t.worker.lost(err)
	}
	if !t.idle() {
		return nil, t.worker.lost(violation("more than was asked for"))
	}
	return b, nil
}

// done is the end of a request that is answered with opDone or opError.
func (t *wire) done(ctx context.Context, op op, n int) error {
	switch {
	case op == opError:
		return t.failed(ctx, n, nil)
	case op != opDone || n != 0:
		return t.worker.lost(violation("operation %d of %d bytes, where the end of a request was expected", op, n))
	}
	return nil
}

// failed reads the error of an opError frame, which ends with what is told of
// inst if that is not nil.
func (t *wire) failed(ctx context.Context, n int, inst *instance) error {
	body, err := t.take(n)
	if err != nil {
		return err
	}
	d := decoder{b: body}
	failure, broken := d.failure(ctx, t.worker.info.Name, t.failure)
	if inst != nil && broken == nil {
		inst.told(&d)
	}
	if broken == nil {
		broken = d.done(opError)
	}
	if broken != nil {
		return t.worker.lost(broken)
	}
	return failure
}

// sync has the worker do what it was not told yet.
func (t *wire) sync() error {
	if len(t.out) == 0 {
		return nil
	}
	t.answer(opSync)
	op, n, err := t.await()
	if err == nil {
		err = t.done(context.Background(), op, n)
	}
	return err
}

// word reads the answer to a request for a word; false if it was opFalse.
func (t *wire) word(op op, n int) (v uint64, ok bool, err error) {
	body, err := t.take(n)
	if err != nil {
		return 0, false, err
	}
	d := decoder{b: body}
	if op == opWord {
		v, ok = d.uint64(), true
	}
	if op != opWord && op != opFalse || d.done(op) != nil {
		return 0, false, t.worker.lost(violation("operation %d of %d bytes, where a word was expected", op, n))
	}
	return v, ok, nil
}

// answeredWord reads the answer to a request that must be answered by a word.
func (t *wire) answeredWord(op op, n int) (uint64, error) {
	v, ok, err := t.word(op, n)
	if err == nil && !ok {
		err = t.worker.lost(violation("operation %d, where a word was expected", op))
	}
	return v, err
}

// beginCall opens the frame of a request that runs guest code, or is otherwise
// to end with its context.
func (t *wire) beginCall(ctx context.Context, op op) (seq uint32) {
	t.seq++
	t.calls++
	t.begin(op)
	t.head(ctx, t.seq)
	return t.seq
}

// exchange sends a request begun with beginCall, and makes the host calls of
// inst that come before its answer, whose header it returns.
func (t *wire) exchange(ctx context.Context, seq uint32, inst *instance) (op, int, error) {
	if ctx.Done() != nil {
		over := t.cancelWith(ctx, seq)
		defer over()
	}
	for {
		op, n, err := t.await()
		if err != nil || op != opHostCall {
			return op, n, err
		}
		body, err := t.take(n)
		if err == nil {
			err = t.hostCall(ctx, inst, body)
		}
		if err != nil {
			return 0, 0, err
		}
	}
}

// cancelWith cancels a call when its context is done, and kills the worker if
// the guest goes on for the grace time. What it returns must be called when the
// call is over, and waits until nothing of this is left.
func (t *wire) cancelWith(ctx context.Context, seq uint32) (over func()) {
	ended := make(chan struct{})
	gone := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(gone)
		// Where it cannot be sent the worker hangs, and is killed below.
		_ = t.worker.command(controlCancel, t.id, seq, nil)
		t.expire(ended)
	})
	return func() {
		close(ended)
		if !stop() {
			<-gone
		}
	}
}

// expire kills the worker when it was waited for, for the grace time in all,
// and the call has not ended.
func (t *wire) expire(ended <-chan struct{}) {
	const steps = 8
	tick := time.NewTicker(max(t.worker.engine.cfg.Grace/steps, time.Millisecond))
	defer tick.Stop()
	for waited := 0; waited < steps; {
		select {
		case <-ended:
			return
		case <-t.worker.ended:
			return
		case <-tick.C:
			if t.waiting.Load() {
				waited++
			}
		}
	}
	t.worker.kill("a cancelled call did not end")
}

// cut is the error of a call that ended with err, whose context was ctx: a
// call that was cancelled, and whose worker had to be killed for that, was
// interrupted.
func cut(ctx context.Context, err error) error {
	crash, ok := err.(*CrashError)
	if !ok || ctx.Err() == nil {
		return err
	}
	return &engines.Trap{Class: engines.TrapInterrupted, Detail: crash.Error(), Cause: errors.Join(ctx.Err(), crash)}
}

// binding is a set of host functions that a worker knows of, under the name
// that it is imported by.
type binding struct {
	id      uint32
	name    string
	funcs   []*boundFunc
	cleanup runtime.Cleanup
}

type boundFunc struct {
	engines.HostFunction
	slots, params, results int   // words
	narrow                 []int // of the parameters

	pairs uint32        // the parameters, a bit each, that could be an offset and have a length after them
	ahead atomic.Uint32 // of them, those that were seen to be: what they point at comes with the call
}

func bound(fn engines.HostFunction) *boundFunc {
	f := &boundFunc{
		HostFunction: fn, slots: fn.Type.Slots(),
		params: wordCount(fn.Type.Params), results: wordCount(fn.Type.Results), narrow: narrowWords(fn.Type.Params),
	}
	for i := range min(len(fn.Type.Params)-1, 32) {
		if fn.Type.Params[i] == engines.V128 {
			break // from here on a parameter is not its word
		}
		if fn.Type.Params[i] == engines.I32 && fn.Type.Params[i+1] == engines.I32 {
			f.pairs |= 1 << i
		}
	}
	return f
}

// hostKey is what a binding is made from.
type hostKey struct {
	from weak.Pointer[engines.HostModule]
	name string
}

// bind tells the worker of hm, if it does not know it yet. The binding is
// forgotten when hm is collected.
func (t *wire) bind(name string, hm *engines.HostModule) (*binding, error) {
	w := t.worker
	key := hostKey{weak.Make(hm), name}
	w.defining.Lock() // the worker knows a binding by the time that others find it
	defer w.defining.Unlock()
	w.mu.Lock()
	b := w.hosts[key]
	w.mu.Unlock()
	if b != nil {
		return b, nil
	}
	b = &binding{id: w.engine.newID(), name: name}
	t.begin(opDefine)
	t.uint32(b.id)
	t.text(name)
	t.uint32(uint32(len(hm.Functions)))
	for _, fn := range hm.Functions {
		b.funcs = append(b.funcs, bound(fn))
		t.text(fn.Name)
		t.types(fn.Type.Params)
		t.types(fn.Type.Results)
	}
	t.end()
	op, n, err := t.await()
	if err == nil {
		err = t.done(context.Background(), op, n)
	}
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hosts == nil {
		return nil, w.err
	}
	b.cleanup = runtime.AddCleanup(hm, w.forget, key)
	w.hosts[key] = b
	return b, nil
}

// forget drops the binding of a host module that was collected.
func (w *worker) forget(key hostKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b, ok := w.hosts[key]; ok {
		delete(w.hosts, key)
		w.forgotten = append(w.forgotten, b.id)
	}
}

// tellForgotten writes what the worker is to forget.
func (t *wire) tellForgotten() {
	w := t.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.forgotten) == 0 {
		return
	}
	t.begin(opForget)
	for _, id := range w.forgotten {
		t.uint32(id)
	}
	t.end()
	w.forgotten = nil
}

// hostCall makes the host call in body and writes its answer. An error is that
// of a worker that is no more.
func (t *wire) hostCall(ctx context.Context, inst *instance, body []byte) error {
	d := decoder{b: body}
	id, index, size := d.uint32(), d.uint32(), d.uint64()
	b := inst.binding(id)
	if b == nil || uint64(index) >= uint64(len(b.funcs)) {
		return t.worker.lost(violation("a call of the host function %d of %d, which the instance was not linked to", index, id))
	}
	fn := b.funcs[index]
	base := len(t.stacks)
	for range fn.slots {
		t.stacks = append(t.stacks, 0)
	}
	stack := t.stacks[base : base+fn.slots : base+fn.slots]
	d.words(stack[:fn.params])
	clean(stack, fn.narrow)
	caller := caller{}
	if size != noMemory {
		caller.memory = &memory{
			instance: inst, wire: t, ref: callerRef | t.depth, floor: size, exact: !inst.direct.Load(), calls: t.calls,
			call: &callSite{binding: b.id, index: index, fn: fn, params: stack[:fn.params]},
		}
	}
	if err := t.takeAhead(&d, caller.memory, fn, stack); err != nil {
		return t.worker.lost(err)
	}
	if err := inst.module.interrupted(ctx); err != nil {
		// The guest may call more often than it looks at its deadline.
		t.stacks, t.failure = t.stacks[:base], err
		t.answer(opHostFail)
		return nil
	}
	t.depth++
	ctx, end := inst.enterHost(ctx, t)
	err := link.Call(ctx, &fn.HostFunction, caller, stack)
	end()
	t.depth--
	t.calls++ // the guest goes on
	if caller.memory != nil {
		caller.memory.dead = true
	}
	t.stacks = t.stacks[:base]
	if err != nil {
		t.failure = &engines.HostError{Module: b.name, Name: fn.Name, Err: err}
		t.answer(opHostFail)
		return nil
	}
	t.begin(opHostReturn)
	t.words(stack[:fn.results])
	t.end()
	return nil
}

// callSite is the host call that a memory was lent to.
type callSite struct {
	binding, index uint32
	fn             *boundFunc
	params         []uint64

	pieces []piece // that came with the call
	state  uint64  // of the connection, as of which they are true
}

// piece is a part of a memory.
type piece struct {
	offset uint64
	data   []byte
}

// takeAhead takes what the parameters point at off the end of an opHostCall
// frame.
func (t *wire) takeAhead(d *decoder, m *memory, fn *boundFunc, stack []uint64) error {
	sent := d.uint32()
	if sent&^fn.ahead.Load() != 0 || sent != 0 && m == nil {
		return violation("a part of a memory that was not asked for")
	}
	for ; sent != 0; sent &= sent - 1 {
		i := bits.TrailingZeros32(sent)
		if stack[i+1] > maxAhead {
			return violation("a part of a memory that is too large")
		}
		data := d.take(int(stack[i+1]))
		if !m.instance.direct.Load() {
			m.call.pieces = append(m.call.pieces, piece{stack[i], bytes.Clone(data)})
		}
	}
	if m != nil {
		m.call.state = t.calls + t.writes
	}
	return d.done(opHostCall)
}

// known copies what came with the call to dst, if it is that and still true.
func (c *callSite) known(state, offset uint64, dst []byte) bool {
	if c == nil || c.state != state {
		return false
	}
	for _, p := range c.pieces {
		if offset >= p.offset && offset-p.offset <= uint64(len(p.data)) && uint64(len(dst)) <= uint64(len(p.data))-(offset-p.offset) {
			copy(dst, p.data[offset-p.offset:])
			return true
		}
	}
	return false
}

// learn takes note that the function reads what its parameters point at: from
// now on that comes with its calls.
func (t *wire) learn(c *callSite, offset uint64, n int) {
	if c == nil || n > maxAhead {
		return
	}
	for pairs := c.fn.pairs &^ c.fn.ahead.Load(); pairs != 0; pairs &= pairs - 1 {
		i := bits.TrailingZeros32(pairs)
		if c.params[i] == offset && c.params[i+1] == uint64(n) {
			t.begin(opAhead)
			t.uint32(c.binding)
			t.uint32(c.index)
			t.uint32(c.fn.ahead.Or(1<<i) | 1<<i)
			t.end()
			return
		}
	}
}

// caller is the instance that made a host call, as the host function sees it.
type caller struct{ memory *memory }

// Memory implements engines.Caller.
func (c caller) Memory() engines.Memory {
	if c.memory == nil {
		return nil
	}
	return c.memory
}

// narrowWords are the words that 32-bit values of a list take on the stack.
func narrowWords(types []engines.ValueType) []int {
	var narrow []int
	word := 0
	for _, t := range types {
		switch t {
		case engines.I32, engines.F32:
			narrow = append(narrow, word)
		case engines.V128:
			word++
		}
		word++
	}
	return narrow
}

// clean clears what is above 32-bit values in their words: an engine leaves it
// clear, a worker need not.
func clean(stack []uint64, narrow []int) {
	for _, word := range narrow {
		stack[word] &= math.MaxUint32
	}
}
