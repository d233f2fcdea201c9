package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/zta"
)

// WasmHost loads WebAssembly modules and calls their exports. A module keeps
// its state between calls, which are served one after the other; different
// modules run at the same time. What a module imports of an ABI leads to the
// gate, where it is granted what [WithCeiling] gives: nothing by default.
type WasmHost struct {
	k     *kernel
	id    uuid.UUID
	calls atomic.Int64
	loads sync.WaitGroup // in progress; Add under mu, while not closed

	mu      sync.Mutex // guards what follows, never held across a guest
	closed  bool
	modules map[string]*wasmModule
}

type wasmModule struct {
	name    string
	hash    string
	code    *code
	subject *abi.Subject
	process *wasi.Process
	loaded  time.Time
	memory  atomic.Uint64 // size after the last call

	turn   semaphore // serialises the instance, and guards what follows
	inst   engines.Instance
	ended  bool
	broken error // why the instance serves no more
}

// WasmModule describes a loaded module.
type WasmModule struct {
	Name        string
	Hash        string // SHA-256 of the binary, hexadecimal
	ABI         ABI
	Exports     []engines.ExportType
	Imports     []engines.ImportType
	MemoryUsage uint64 // bytes of linear memory, after the last call
	LoadTime    time.Time
}

// NewWasmHost makes a host on an engine, for instance
// NewWasmHost(wazero.New).
func NewWasmHost(newEngine NewEngine, opts ...Option) (*WasmHost, error) {
	o := options{}
	WithEngine(newEngine)(&o)
	for _, opt := range opts {
		opt(&o)
	}
	k, err := newKernel(o, nil)
	if err != nil {
		return nil, fmt.Errorf("wasm host: %w", err)
	}
	return &WasmHost{k: k, id: uuid.New(), modules: map[string]*wasmModule{}}, nil
}

// ID identifies the host.
func (h *WasmHost) ID() uuid.UUID { return h.id }

// Engine is the engine it runs on.
func (h *WasmHost) Engine() engines.Info { return h.k.engines[0].Info() }

// MemoryLimit is the linear memory an instance may have, in bytes; 0 where the
// engine cannot hold a limit.
func (h *WasmHost) MemoryLimit() uint64 {
	if !h.Engine().MemoryLimit {
		return 0
	}
	return h.k.memory
}

// ExecutionTimeout is how long a call may take; 0 for ever.
func (h *WasmHost) ExecutionTimeout() time.Duration {
	switch {
	case !h.Engine().Interrupt || h.k.timeout == NoTimeout:
		return 0
	case h.k.timeout == 0:
		return DefaultExecutionTimeout
	}
	return h.k.timeout
}

// Status is the state of the host.
func (h *WasmHost) Status() HostStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.k.status(h.closed, h.calls.Load())
}

// AuditDir is the directory of the private log that the host opened for
// itself, or "" if one was given.
func (h *WasmHost) AuditDir() string { return h.k.ownDir }

// LoadModule compiles and instantiates a module under a name. Errors:
// [ErrExists], *engines.CompileError, *engines.LinkError, *engines.Trap and
// what the module's initialisation met.
func (h *WasmHost) LoadModule(ctx context.Context, name string, wasm []byte) (WasmModule, error) {
	return h.load(ctx, name, wasm, false)
}

// ReloadModule replaces a module by another binary: calls in flight end on the
// old one, later calls are served by the new one. If the new one does not come
// up, the old one stays.
func (h *WasmHost) ReloadModule(ctx context.Context, name string, wasm []byte) (WasmModule, error) {
	return h.load(ctx, name, wasm, true)
}

func (h *WasmHost) load(ctx context.Context, name string, wasm []byte, reload bool) (WasmModule, error) {
	verb := "load"
	if reload {
		verb = "reload"
	}
	m, err := h.replace(ctx, name, wasm, verb, reload)
	if err != nil {
		_ = h.k.record(&audit.Record{Kind: audit.KindModule, Plugin: name, Digest: digest(wasm), Outcome: audit.OutcomeFailed,
			Error: audit.Clip(err.Error()), Details: map[string]string{"verb": verb}})
		return WasmModule{}, fmt.Errorf("%s module %q: %w", verb, name, err)
	}
	return m.describe(), nil
}

// replace prepares a module aside and puts it in its place, on record.
func (h *WasmHost) replace(ctx context.Context, name string, wasm []byte, verb string, reload bool) (*wasmModule, error) {
	h.mu.Lock()
	if err := h.conflict(name, reload); err != nil {
		h.mu.Unlock()
		return nil, err
	}
	h.loads.Add(1)
	h.mu.Unlock()
	defer h.loads.Done()

	m, err := h.prepare(ctx, name, wasm)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	old := h.modules[name]
	// What changed while the module was prepared decides, not what was seen then.
	if err = h.conflict(name, reload); err == nil {
		err = h.k.record(h.moduleRecord(m, verb))
	}
	if err == nil {
		h.modules[name] = m
	}
	h.mu.Unlock()
	if err != nil {
		_ = m.close(ctx)
		return nil, err
	}
	if old != nil {
		_ = old.close(ctx)
	}
	return m, nil
}

// conflict is why a module cannot be loaded or reloaded under a name. It is
// called with mu held.
func (h *WasmHost) conflict(name string, reload bool) error {
	loaded := h.modules[name] != nil
	switch {
	case h.closed:
		return ErrClosed
	case loaded && !reload:
		return ErrExists
	case !loaded && reload:
		return ErrNotFound
	}
	return nil
}

// prepare does all of a load that can fail, without touching what is loaded.
func (h *WasmHost) prepare(ctx context.Context, name string, wasm []byte) (*wasmModule, error) {
	c, err := h.k.compile(ctx, h.k.engines[0], wasm, Limits{}, speech{}, engines.CompileOptions{})
	if err != nil {
		return nil, err
	}
	if c.abi == ABIExtism {
		_ = c.close()
		return nil, errors.New("this is an Extism plugin, whose functions take and return bytes and not numbers; load it into a PluginHost")
	}
	m := &wasmModule{
		name: name, hash: digest(wasm), code: c, loaded: h.k.clock().UTC(), turn: newSemaphore(1), process: wasi.NewProcess(&wasi.Config{Args: []string{name}}),
		subject: &abi.Subject{
			Plugin: name, Identity: zta.Identity{ID: "module:" + name, TrustVector: zta.Unverified},
			TrustLevel: capability.Standard, Capabilities: h.k.ceiling, Container: abi.NewContainer(uuid.NewString()),
		},
	}
	err = h.run(ctx, m, "_initialize", func(call *abi.Call) error {
		inst, err := c.instantiate(call)
		if err == nil {
			m.inst = inst
		}
		return err
	})
	if err != nil {
		_ = m.close(ctx)
		return nil, err
	}
	return m, nil
}

// run makes a call of a module and puts it on record.
func (h *WasmHost) run(ctx context.Context, m *wasmModule, function string, f func(*abi.Call) error) error {
	h.calls.Add(1)
	defer h.calls.Add(-1)
	call, err := h.k.gate.Begin(wasi.WithProcess(ctx, m.process), m.subject, function, nil)
	if err != nil {
		return err
	}
	if m.code.timeout > 0 {
		defer call.Limit(m.code.timeout)()
	}
	err = f(call)
	if trap, ok := errors.AsType[*engines.Trap](err); ok && trap.Class == engines.TrapInterrupted {
		m.broken = fmt.Errorf("the instance was ended by an earlier call (%w); reload the module", err)
	}
	if m.inst != nil {
		m.memory.Store(memorySize(m.inst, m.code.memories))
	}
	if err != nil {
		err = cmp.Or(denial(call, err), limitError(m.name, err))
	}
	return call.End(nil, err)
}

// CallFunction calls an exported function. A module that had to be interrupted
// serves no more until it is reloaded. Errors: [ErrNotFound],
// [ErrClosed], *engines.ExportError, *engines.Trap, *engines.HostError,
// *[LimitError], *abi.DeniedError.
func (h *WasmHost) CallFunction(ctx context.Context, module, function string, args ...engines.Value) ([]engines.Value, error) {
	results, err := h.call(ctx, module, function, args)
	if err != nil {
		return nil, fmt.Errorf("call %s.%s: %w", module, function, err)
	}
	return results, nil
}

func (h *WasmHost) call(ctx context.Context, module, function string, args []engines.Value) (results []engines.Value, err error) {
	m, err := h.take(ctx, module)
	if err != nil {
		return nil, err
	}
	defer m.turn.release()
	err = h.run(ctx, m, function, func(call *abi.Call) error {
		if m.broken != nil {
			return m.broken
		}
		f, err := m.inst.Func(function)
		if err != nil {
			return err
		}
		results, err = callValues(abi.WithCall(call.Context(), call), f, args)
		return err
	})
	return results, err
}

// take waits for a module's turn, which the caller must release.
func (h *WasmHost) take(ctx context.Context, name string) (*wasmModule, error) {
	for {
		h.mu.Lock()
		m, closed := h.modules[name], h.closed
		h.mu.Unlock()
		switch {
		case closed:
			return nil, ErrClosed
		case m == nil:
			return nil, fmt.Errorf("module %q: %w", name, ErrNotFound)
		}
		if err := m.turn.acquire(ctx); err != nil {
			return nil, fmt.Errorf("waiting for the call before to end: %w", err)
		}
		if !m.ended {
			return m, nil
		}
		m.turn.release() // it was replaced or unloaded meanwhile
	}
}

// UnloadModule ends a module, after the call in flight, which is cancelled when
// ctx ends. Errors: [ErrNotFound].
func (h *WasmHost) UnloadModule(ctx context.Context, name string) error {
	h.mu.Lock()
	m := h.modules[name]
	err := ErrNotFound
	if m != nil {
		if err = h.k.record(h.moduleRecord(m, "unload")); err == nil {
			delete(h.modules, name)
		}
	}
	h.mu.Unlock()
	if err == nil {
		err = m.close(ctx)
	}
	if err != nil {
		return fmt.Errorf("unload module %q: %w", name, err)
	}
	return nil
}

// Modules describes what is loaded, in name order.
func (h *WasmHost) Modules() []WasmModule {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []WasmModule
	for _, name := range slices.Sorted(maps.Keys(h.modules)) {
		out = append(out, h.modules[name].describe())
	}
	return out
}

// Close unloads everything, after the calls and loads in flight, and frees the
// engine. Closing twice is a no-op.
func (h *WasmHost) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	modules := h.modules
	h.modules = nil
	h.mu.Unlock()
	h.loads.Wait()
	var errs []error
	for _, m := range modules {
		errs = append(errs, h.k.record(h.moduleRecord(m, "unload")), m.close(context.Background()))
	}
	return errors.Join(append(errs, h.k.close())...)
}

func (h *WasmHost) moduleRecord(m *wasmModule, verb string) *audit.Record {
	return &audit.Record{
		Kind: audit.KindModule, Plugin: m.name, Container: m.subject.Container.ID(), Digest: m.hash, Outcome: audit.OutcomeOK,
		Details: map[string]string{"verb": verb, "engine": m.code.engine.Info().Name, "abi": string(m.code.abi)},
	}
}

func (m *wasmModule) describe() WasmModule {
	return WasmModule{
		Name: m.name, Hash: m.hash, ABI: m.code.abi, Exports: m.code.module.Exports(), Imports: m.code.module.Imports(),
		MemoryUsage: m.memory.Load(), LoadTime: m.loaded,
	}
}

// close ends the module after its call in flight, which is cancelled when ctx
// ends.
func (m *wasmModule) close(ctx context.Context) error {
	end := func() { m.subject.Container.Close("module " + m.name + " was unloaded") }
	stop := context.AfterFunc(ctx, end)
	defer stop()
	_ = m.turn.acquire(context.Background())
	defer m.turn.release()
	end()
	m.ended = true
	var err error
	if m.inst != nil {
		err = m.inst.Close()
	}
	return errors.Join(err, m.code.close())
}

// memorySize is the linear memory of an instance that its exports show.
func memorySize(inst engines.Instance, exported []string) uint64 {
	var n uint64
	for _, name := range exported {
		if mem := inst.Memory(name); mem != nil {
			n += mem.Size()
		}
	}
	return n
}
