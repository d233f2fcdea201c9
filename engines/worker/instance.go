package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"forgeone.dev/forgeone/engines"
)

var (
	_ engines.Instance  = (*instance)(nil)
	_ engines.FuelMeter = meteredInstance{}
	_ engines.Func      = (*function)(nil)
	_ engines.Memory    = (*memory)(nil)
	_ engines.Global    = (*global)(nil)
	_ engines.Caller    = caller{}
)

var errImmutable = errors.New("worker: the global is immutable")

// maxPending is how much is written to memories and globals before it is sent,
// in bytes.
const maxPending = 32 << 10

// instance is one in a worker, and the connection to it.
type instance struct {
	module *module
	wire   *wire
	id     uint32
	origin *snapshot // that it was made from, nil if from none
	// imports keeps the host modules, and with them their bindings, from being
	// collected.
	imports  engines.Imports
	bindings map[uint32]*binding // by id; of the lenders too, whose code runs in this one's calls
	closed   atomic.Bool
	kin      *kin             // those that it is linked to, nil if to none; guarded by engine.mu
	watched  []*watchedGlobal // in the order in which the worker was told
	fuelUsed uint64

	// direct marks one of whose memory nothing may be supposed and nothing put
	// off, nor of its globals: it lends or borrows, so that another connection may
	// lead to who reads or changes them, or it was interrupted, which may have closed it.
	direct atomic.Bool
}

// meteredInstance is one of an engine that counts fuel.
type meteredInstance struct{ *instance }

// FuelUsed implements engines.FuelMeter. What a call spent whose worker ended is
// not known: it is 0.
func (i meteredInstance) FuelUsed() uint64 { return i.fuelUsed }

// ours is the instance of this package that i is, nil if it is another's.
func ours(i engines.Instance) *instance {
	switch i := i.(type) {
	case *instance:
		return i
	case meteredInstance:
		return i.instance
	}
	return nil
}

// binding is the one of that number that code of i may call, nil if there is none.
func (i *instance) binding(id uint32) *binding {
	if i == nil {
		return nil // a module is being compiled
	}
	return i.bindings[id]
}

// create makes the instance in the worker.
func (i *instance) create(ctx context.Context, lenders map[string]*instance) error {
	t := i.wire
	if err := t.compile(ctx, i.module); err != nil {
		return err
	}
	var hosts []uint32
	for _, name := range hostNames(i.module.iface.Imports, i.imports) {
		b, err := t.bind(name, i.imports.Host[name])
		if err != nil {
			return err
		}
		i.bindings[b.id] = b
		hosts = append(hosts, b.id)
	}
	if err := i.borrow(lenders); err != nil {
		return err
	}
	t.tellForgotten()
	via, err := i.route(ctx)
	if err != nil {
		return err
	}
	var seq uint32
	if i.origin != nil {
		seq = via.beginCall(ctx, opRevive)
		via.uint32(i.origin.id)
	} else {
		seq = via.beginCall(ctx, opInstantiate)
		via.uint32(i.module.id)
	}
	via.uint32(i.id)
	via.bool(via == t)
	via.uint32(uint32(len(hosts)))
	for _, id := range hosts {
		via.uint32(id)
	}
	via.uint32(uint32(len(lenders)))
	for name, l := range lenders {
		via.text(name)
		via.uint32(l.id)
	}
	via.end()
	op, n, err := via.exchange(ctx, seq, i)
	if err != nil {
		return err
	}
	if op == opError {
		return via.failed(ctx, n, nil)
	}
	if i.fuelUsed, err = via.answeredWord(op, n); err != nil || via == t {
		return err
	}
	t.begin(opAdopt)
	t.uint32(i.id)
	t.end()
	return nil
}

// borrow makes i one that has kin, if there are lenders. What they were still to
// be told is done when it returns.
func (i *instance) borrow(lenders map[string]*instance) error {
	if len(lenders) == 0 {
		return nil
	}
	i.module.engine.join(i, lenders)
	i.direct.Store(true)
	for _, l := range lenders {
		for id, b := range l.bindings {
			i.bindings[id] = b
		}
		l.direct.Store(true)
		if err := l.wire.sync(); err != nil {
			return err
		}
	}
	return nil
}

// hostNames are the modules that are imported from the host, each once.
func hostNames(wanted []engines.ImportType, given engines.Imports) []string {
	var names []string
	seen := make(map[string]bool)
	for _, im := range wanted {
		if given.Host[im.Module] != nil && !seen[im.Module] {
			names = append(names, im.Module)
			seen[im.Module] = true
		}
	}
	return names
}

// usable is an error if the instance is no more.
func (i *instance) usable() error {
	if i.closed.Load() || i.module.engine.closed() {
		return engines.ErrClosed
	}
	select {
	case <-i.wire.worker.ended:
		return i.wire.worker.err
	default:
		return nil
	}
}

// Close implements engines.Instance.
func (i *instance) Close() error {
	if i.closed.Swap(true) {
		return nil
	}
	t := i.wire
	defer t.worker.release()
	defer t.worker.giveBack(i.module.memoryLimit())
	select {
	case <-t.worker.ended:
		return nil
	default:
	}
	t.begin(opClose)
	t.end()
	op, n, err := t.await()
	if err == nil {
		err = t.done(context.Background(), op, n)
	}
	t.failure = nil
	t.worker.give(t)
	return gone(err)
}

// Func implements engines.Instance.
func (i *instance) Func(name string) (engines.Func, error) {
	if err := i.usable(); err != nil {
		return nil, err
	}
	t, ok := i.module.exports[name]
	if !ok {
		return nil, &engines.ExportError{Name: name, Reason: "the module exports nothing of that name"}
	}
	if t.Kind != engines.KindFunc {
		return nil, &engines.ExportError{Name: name, Reason: fmt.Sprintf("it is a %s, not a func", t.Kind)}
	}
	return &function{
		instance: i, name: name, export: i.module.index[name], typ: t.Func, slots: t.Func.Slots(),
		params: wordCount(t.Func.Params), results: wordCount(t.Func.Results), narrow: narrowWords(t.Func.Results),
	}, nil
}

// Memory implements engines.Instance.
func (i *instance) Memory(name string) engines.Memory {
	if i.usable() != nil || i.module.exports[name].Kind != engines.KindMemory {
		return nil
	}
	return &memory{instance: i, wire: i.wire, ref: i.module.index[name]}
}

// Global implements engines.Instance.
func (i *instance) Global(name string) engines.Global {
	t := i.module.exports[name]
	if i.usable() != nil || t.Kind != engines.KindGlobal {
		return nil
	}
	return &global{i, i.module.index[name], t.Global}
}

type function struct {
	instance        *instance
	name            string
	export          uint32
	typ             engines.FuncType
	slots           int
	params, results int   // words
	narrow          []int // of the results
}

// Type implements engines.Func.
func (f *function) Type() engines.FuncType { return f.typ }

// Call implements engines.Func.
func (f *function) Call(ctx context.Context, stack []uint64) error {
	if len(stack) < f.slots {
		return &engines.ArgumentError{Func: f.name, Want: f.slots, Got: len(stack)}
	}
	i := f.instance
	if err := i.usable(); err != nil {
		return err
	}
	if err := i.module.interrupted(ctx); err != nil {
		return err
	}
	t, err := i.route(ctx)
	if err != nil {
		return err
	}
	var seq uint32
	if t == i.wire {
		seq = t.beginCall(ctx, opCall)
	} else {
		seq = t.beginCall(ctx, opCallOf)
		t.uint32(i.id)
	}
	t.uint32(f.export)
	t.words(stack[:f.params])
	t.end()
	op, n, err := t.exchange(ctx, seq, i)
	if err != nil {
		i.fuelUsed = 0
		return cut(ctx, err)
	}
	if op == opError {
		err := t.failed(ctx, n, i)
		if trap, ok := err.(*engines.Trap); ok && trap.Class == engines.TrapInterrupted || err == engines.ErrClosed {
			i.direct.Store(true)
		}
		if trap := i.module.interrupted(ctx); trap != nil && err == engines.ErrClosed {
			// The call round this one was interrupted first, which closed the
			// instance. The context is done for both.
			return trap
		}
		return cut(ctx, err)
	}
	body, err := t.take(n)
	if err != nil {
		return cut(ctx, err)
	}
	d := decoder{b: body}
	d.words(stack[:f.results])
	i.told(&d)
	if op != opResult || d.done(op) != nil {
		return cut(ctx, t.worker.lost(violation("operation %d of %d bytes, where %d results were expected", op, n, f.results)))
	}
	clean(stack, f.narrow)
	return nil
}

// memory is one of an instance, or of the caller of a host function.
type memory struct {
	instance *instance
	wire     *wire
	ref      uint32

	// floor is a size that the memory had, in bytes, and therefore has; it is
	// its size if exact, unless a call was made since the one it was seen in.
	floor uint64
	exact bool
	calls uint64

	call *callSite // that it was lent to; nil for an export
	dead bool      // that has ended
}

func (m *memory) usable() bool { return !m.dead && m.instance.usable() == nil }

// saw takes note of the memory's size.
func (m *memory) saw(size uint64) {
	m.floor, m.exact, m.calls = size, !m.instance.direct.Load(), m.wire.calls
}

// Size implements engines.Memory.
func (m *memory) Size() uint64 {
	if !m.usable() {
		return 0
	}
	t := m.wire
	if m.exact && m.calls == t.calls {
		return m.floor
	}
	t.begin(opSize)
	t.uint32(m.ref)
	t.end()
	op, n, err := t.await()
	if err != nil {
		return 0
	}
	size, _, err := t.word(op, n)
	if err != nil {
		return 0
	}
	m.saw(size)
	return size
}

// Read implements engines.Memory.
func (m *memory) Read(offset uint64, dst []byte) bool {
	if !m.usable() {
		return false
	}
	t := m.wire
	if m.call.known(t.calls+t.writes, offset, dst) {
		return true
	}
	at, n := offset, len(dst)
	whole := uint64(len(dst))
	for first := true; first || len(dst) > 0; first = false {
		n := min(len(dst), maxData)
		if !m.read(offset, dst[:n], whole) {
			return false
		}
		offset, dst, whole = offset+uint64(n), dst[n:], whole-uint64(n)
	}
	t.learn(m.call, at, n)
	return true
}

// read reads a part; whole is what is left to be read with it.
func (m *memory) read(offset uint64, dst []byte, whole uint64) bool {
	t := m.wire
	t.begin(opRead)
	t.uint32(m.ref)
	t.uint64(offset)
	t.uint32(uint32(len(dst)))
	t.uint64(whole)
	t.end()
	op, n, err := t.await()
	switch {
	case err != nil:
		return false
	case op == opFalse && n == 0:
		return false
	case op != opData || n != len(dst):
		_ = t.worker.lost(violation("operation %d of %d bytes, where %d were read", op, n, len(dst)))
		return false
	}
	if err := t.readInto(dst); err != nil {
		_ = t.worker.lost(err)
		return false
	}
	return true
}

// Write implements engines.Memory. What is known to fit is sent together with
// what the instance is asked next.
func (m *memory) Write(offset uint64, src []byte) bool {
	if !m.usable() {
		return false
	}
	t := m.wire
	t.writes++
	n := uint64(len(src))
	if !m.instance.direct.Load() && len(t.out)+len(src) <= maxPending && offset <= m.floor && n <= m.floor-offset {
		t.begin(opPoke)
		t.uint32(m.ref)
		t.uint64(offset)
		t.out = append(t.out, src...)
		t.end()
		return true
	}
	for first := true; first || len(src) > 0; first = false {
		part := src[:min(len(src), maxData)]
		if !m.write(offset, part, uint64(len(src))) {
			return false
		}
		offset, src = offset+uint64(len(part)), src[len(part):]
	}
	return true
}

// write writes a part; whole is what is left to be written with it.
func (m *memory) write(offset uint64, src []byte, whole uint64) bool {
	t := m.wire
	t.begin(opWrite)
	t.uint32(m.ref)
	t.uint64(offset)
	t.uint64(whole)
	t.endWith(src)
	op, n, err := t.await()
	if err != nil {
		return false
	}
	size, ok, err := t.word(op, n)
	if err != nil || !ok {
		return false
	}
	m.saw(size)
	return true
}

// Grow implements engines.Memory.
func (m *memory) Grow(pages uint32) (uint32, bool) {
	if !m.usable() {
		return 0, false
	}
	t := m.wire
	t.begin(opGrow)
	t.uint32(m.ref)
	t.uint32(pages)
	t.end()
	op, n, err := t.await()
	if err != nil {
		return 0, false
	}
	previous, ok, err := t.word(op, n)
	if err != nil || !ok || previous > math.MaxUint32 {
		return 0, false
	}
	m.exact = false
	return uint32(previous), true
}

type global struct {
	instance *instance
	export   uint32
	typ      engines.GlobalType
}

// watchedGlobal is a global that was asked for once: its value comes with the
// answer to each call from then on.
type watchedGlobal struct {
	export uint32
	value  uint64
	calls  uint64 // of the connection, when it had the value
}

// told takes off the end of an answer what is told with it.
func (i *instance) told(d *decoder) {
	if i.module.opts.Fuel > 0 {
		i.fuelUsed = d.uint64()
	}
	for _, w := range i.watched {
		w.value, w.calls = d.uint64(), i.wire.calls
	}
}

// known is what is known of the global, nil if nothing.
func (g *global) known() *watchedGlobal {
	for _, w := range g.instance.watched {
		if w.export == g.export {
			return w
		}
	}
	return nil
}

// watch has the worker tell the global's value after each call.
func (g *global) watch() *watchedGlobal {
	i := g.instance
	if len(i.watched) == maxWatched || i.direct.Load() {
		return nil
	}
	w := &watchedGlobal{export: g.export}
	i.watched = append(i.watched, w)
	i.wire.begin(opWatch)
	i.wire.uint32(g.export)
	i.wire.end()
	return w
}

// Type implements engines.Global.
func (g *global) Type() engines.GlobalType { return g.typ }

// Get implements engines.Global.
func (g *global) Get() uint64 {
	i := g.instance
	if i.usable() != nil {
		return 0
	}
	t := i.wire
	w := g.known()
	if w != nil && w.calls == t.calls && !i.direct.Load() {
		return g.clean(w.value)
	}
	if w == nil && t.depth == 0 {
		w = g.watch()
	}
	t.begin(opGet)
	t.uint32(g.export)
	t.end()
	op, n, err := t.await()
	if err != nil {
		return 0
	}
	v, _, err := t.word(op, n)
	if err != nil {
		return 0
	}
	if w != nil {
		w.value, w.calls = v, t.calls
	}
	return g.clean(v)
}

// clean clears what is above a 32-bit value in its word.
func (g *global) clean(v uint64) uint64 {
	if g.typ.Value == engines.I32 || g.typ.Value == engines.F32 {
		v &= math.MaxUint32
	}
	return v
}

// Set implements engines.Global.
func (g *global) Set(v uint64) error {
	i := g.instance
	if err := i.usable(); err != nil {
		return err
	}
	if !g.typ.Mutable {
		return errImmutable
	}
	t := i.wire
	w := g.known()
	if w != nil {
		w.value, w.calls = v, t.calls
	}
	if w != nil && !i.direct.Load() && len(t.out) <= maxPending {
		t.begin(opPut)
		t.uint32(g.export)
		t.uint64(v)
		t.end()
		return nil
	}
	t.begin(opSet)
	t.uint32(g.export)
	t.uint64(v)
	t.end()
	op, n, err := t.await()
	if err != nil {
		return err
	}
	return t.done(context.Background(), op, n)
}
