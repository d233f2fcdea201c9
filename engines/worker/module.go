package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"sync"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
	"forgeone.dev/forgeone/engines/internal/link"
	"forgeone.dev/forgeone/engines/meter"
)

var _ engines.Module = (*module)(nil)

// module is a binary, and where it is compiled.
type module struct {
	engine  *engine
	id      uint32
	wasm    []byte
	opts    engines.CompileOptions
	iface   *binfmt.Interface
	exports map[string]engines.ExternType
	index   map[string]uint32 // of each export

	mu     sync.Mutex // guards closed
	closed bool
}

// compiled is a module in a worker.
type compiled struct {
	mu   sync.Mutex // held while it is compiled or dropped
	done bool
}

// Compile implements engines.WasmEngine.
func (e *engine) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	if e.closed() {
		return nil, engines.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, e.compileError(err)
	}
	if limit := e.cfg.MaxModuleBytes; len(wasm) > limit {
		return nil, e.compileError(&meter.LimitError{What: "bytes", Got: int64(len(wasm)), Limit: int64(limit)})
	}
	if opts.MappedMemory {
		return nil, &engines.UnsupportedError{Engine: e.info.Name, Feature: "MappedMemory", Reason: "the memory is that of another process"}
	}
	m := &module{engine: e, id: e.newID(), wasm: bytes.Clone(wasm), opts: opts}
	w, err := e.place(ctx, nil)
	if err != nil {
		return nil, e.compileError(err)
	}
	defer w.release()
	t, err := w.take()
	if err == nil {
		err = t.compile(ctx, m)
		w.give(t)
	}
	if err != nil {
		_ = m.Close() // forgets it: no worker has it
		return nil, e.compileError(cut(ctx, err))
	}
	if m.iface, err = binfmt.Decode(m.wasm); err != nil {
		return nil, errors.Join(e.compileError(err), m.Close())
	}
	m.exports = link.Exports(m.iface.Exports)
	m.index = make(map[string]uint32, len(m.iface.Exports))
	for i, ex := range m.iface.Exports {
		m.index[ex.Name] = uint32(i)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.modules[m] = struct{}{}
	return m, nil
}

// compileError is the contract's error for a compilation that failed with err.
func (e *engine) compileError(err error) error {
	if errors.Is(err, engines.ErrClosed) {
		return engines.ErrClosed
	}
	switch err.(type) {
	case *engines.CompileError, *engines.UnsupportedError:
		return err
	}
	return &engines.CompileError{Engine: e.info.Name, Err: err}
}

func isCrash(err error) bool {
	_, ok := errors.AsType[*CrashError](err)
	return ok || errors.Is(err, engines.ErrClosed)
}

// compile compiles m in the worker, unless it was already.
func (t *wire) compile(ctx context.Context, m *module) error {
	w := t.worker
	w.mu.Lock()
	if w.compiled == nil {
		w.mu.Unlock()
		return w.lost(errors.New("it has ended"))
	}
	c := w.compiled[m]
	if c == nil {
		c = new(compiled)
		w.compiled[m] = c
	}
	w.mu.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if m.isClosed() {
		return engines.ErrClosed
	}
	if c.done {
		return nil
	}
	seq := t.beginCall(ctx, opCompile)
	t.uint32(m.id)
	t.uint32(m.opts.MemoryLimitPages)
	t.bool(m.opts.Interruptible)
	t.uint64(m.opts.Fuel)
	t.uint32(m.opts.CallDepth)
	t.bool(m.opts.Snapshots)
	t.endWith(m.wasm)
	op, n, err := t.exchange(ctx, seq, nil)
	if err == nil {
		err = t.done(ctx, op, n)
	}
	w.countCompile()
	c.done = err == nil
	return err
}

// Imports implements engines.Module.
func (m *module) Imports() []engines.ImportType { return m.iface.Imports }

// Exports implements engines.Module.
func (m *module) Exports() []engines.ExportType { return m.iface.Exports }

func (m *module) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed || m.engine.closed()
}

// Close implements engines.Module.
func (m *module) Close() error {
	m.mu.Lock()
	again := m.closed
	m.closed = true
	m.mu.Unlock()
	if again {
		return nil
	}
	e := m.engine
	e.mu.Lock()
	delete(e.modules, m)
	var workers []*worker
	for w := range e.all {
		workers = append(workers, w)
	}
	e.mu.Unlock()
	var errs []error
	for _, w := range workers {
		errs = append(errs, w.drop(m))
	}
	return errors.Join(errs...)
}

// drop has the worker free a module.
func (w *worker) drop(m *module) error {
	w.mu.Lock()
	c := w.compiled[m]
	delete(w.compiled, m)
	w.mu.Unlock()
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done {
		return nil
	}
	c.done = false
	return w.tell(opDropModule, m.id)
}

// tell has the worker drop what has that number.
func (w *worker) tell(op op, id uint32) error {
	t, err := w.take()
	if err != nil {
		return gone(err)
	}
	t.begin(op)
	t.uint32(id)
	t.end()
	op, n, err := t.await()
	if err == nil {
		err = t.done(context.Background(), op, n)
	}
	w.give(t)
	return gone(err)
}

// gone is the error of freeing what a worker held: with the worker, it is free.
func gone(err error) error {
	if err != nil && isCrash(err) {
		return nil
	}
	return err
}

// Instantiate implements engines.Module.
func (m *module) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	return m.instantiate(ctx, imports, nil)
}

// instantiate makes an instance, from a snapshot if that is not nil.
func (m *module) instantiate(ctx context.Context, imports engines.Imports, from *snapshot) (engines.Instance, error) {
	if m.isClosed() {
		return nil, engines.ErrClosed
	}
	if err := m.interrupted(ctx); err != nil {
		return nil, err
	}
	if err := link.Check(m.iface.Imports, imports, m.lend); err != nil {
		return nil, err
	}
	lenders, err := m.lenders(imports)
	if err != nil {
		return nil, err
	}
	var pinned *worker
	if from != nil {
		pinned = from.worker
	}
	for name, l := range lenders {
		if from != nil && l.wire.worker != pinned {
			return nil, &engines.LinkError{Module: name, Reason: "the lending instance is in another worker than the snapshot"}
		}
		pinned = l.wire.worker
	}
	w, err := m.engine.place(ctx, pinned)
	if err != nil {
		return nil, m.placeError(ctx, err)
	}
	w.grant(m.memoryLimit())
	inst, err := m.instantiateIn(ctx, w, imports, lenders, from)
	if err != nil {
		w.giveBack(m.memoryLimit())
		w.release()
		return nil, cut(ctx, err)
	}
	if m.engine.info.Metering {
		return meteredInstance{inst}, nil
	}
	return inst, nil
}

// memoryLimit is how much memory an instance may have, in bytes.
func (m *module) memoryLimit() uint64 {
	return uint64(cmp.Or(m.opts.MemoryLimitPages, engines.PageSize)) * engines.PageSize // there are at most as many pages
}

// interrupted is the trap of what must not begin because its context is done,
// nil if it may.
func (m *module) interrupted(ctx context.Context) error {
	if !m.opts.Interruptible && m.opts.Fuel == 0 && m.opts.CallDepth == 0 {
		return nil // those make it interruptible too
	}
	if err := over(ctx); err != nil {
		return &engines.Trap{Class: engines.TrapInterrupted, Cause: err}
	}
	return nil
}

func (m *module) placeError(ctx context.Context, err error) error {
	if trap := m.interrupted(ctx); trap != nil {
		return trap
	}
	return err
}

// lend is the [link.Lender] for m.
func (m *module) lend(lender engines.Instance) (map[string]engines.ExternType, string) {
	inst := ours(lender)
	switch {
	case inst == nil:
		return nil, "the lending instance is not of the engine " + m.engine.info.Name + " in a worker"
	case inst.module.engine != m.engine:
		return nil, "the lending instance is of another engine; load both with the same"
	case inst.closed.Load():
		return nil, "the lending instance is closed"
	}
	return inst.module.exports, ""
}

// lenders are the instances that m imports from, by name; they must be in one
// worker.
func (m *module) lenders(imports engines.Imports) (map[string]*instance, error) {
	lenders := make(map[string]*instance)
	var first *worker
	for _, im := range m.iface.Imports {
		lender := ours(imports.Instances[im.Module])
		if lender == nil {
			continue
		}
		w := lender.wire.worker
		if first == nil {
			first = w
		}
		if w != first {
			return nil, &engines.LinkError{Module: im.Module, Name: im.Name, Reason: "the lending instances are in two workers; make those that are to be linked while one links to the other, or run one worker"}
		}
		lenders[im.Module] = lender
	}
	return lenders, nil
}

func (m *module) instantiateIn(ctx context.Context, w *worker, imports engines.Imports, lenders map[string]*instance, from *snapshot) (*instance, error) {
	t, err := w.take()
	if err != nil {
		return nil, err
	}
	inst := &instance{module: m, origin: from, wire: t, id: m.engine.newID(), imports: imports, bindings: make(map[uint32]*binding)}
	if err := inst.create(ctx, lenders); err != nil {
		w.give(t)
		return nil, err
	}
	w.countInstance()
	return inst, nil
}
