package host

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
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
	k      *kernel
	id     uuid.UUID
	closed atomic.Bool
	calls  atomic.Int64

	mu      sync.Mutex // guards modules, never held across a guest
	modules map[string]*wasmModule
}

type wasmModule struct {
	name    string
	hash    string
	code    *code
	subject *abi.Subject
	loaded  time.Time

	mu     sync.Mutex // serialises the instance; held during a call
	inst   engines.Instance
	memory atomic.Uint64 // size after the last call
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
func (h *WasmHost) Status() HostStatus { return h.k.status(h.closed.Load(), h.calls.Load()) }

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
	m, err := h.prepare(ctx, name, wasm, reload)
	if err == nil {
		err = h.k.record(h.moduleRecord(m, verb))
		if err != nil {
			_ = m.close()
		}
	} else {
		r := audit.Record{Kind: audit.KindModule, Plugin: name, Digest: digest(wasm), Outcome: audit.OutcomeFailed, Error: audit.Clip(err.Error()), Details: map[string]string{"verb": verb}}
		_ = h.k.record(&r)
	}
	if err != nil {
		return WasmModule{}, fmt.Errorf("%s module %q: %w", verb, name, err)
	}

	h.mu.Lock()
	old := h.modules[name]
	// What changed while the module was prepared decides, not what was seen then.
	if (old != nil) != reload || h.closed.Load() {
		h.mu.Unlock()
		_ = m.close()
		return WasmModule{}, fmt.Errorf("%s module %q: %w", verb, name, h.conflict(old != nil))
	}
	h.modules[name] = m
	h.mu.Unlock()
	if old != nil {
		_ = old.close()
	}
	return m.describe(), nil
}

func (h *WasmHost) conflict(loaded bool) error {
	switch {
	case h.closed.Load():
		return ErrClosed
	case loaded:
		return ErrExists
	}
	return ErrNotFound
}

// prepare does all of a load that can fail, without touching what is loaded.
func (h *WasmHost) prepare(ctx context.Context, name string, wasm []byte, reload bool) (*wasmModule, error) {
	if h.closed.Load() {
		return nil, ErrClosed
	}
	h.mu.Lock()
	_, loaded := h.modules[name]
	h.mu.Unlock()
	if loaded != reload {
		return nil, h.conflict(loaded)
	}
	c, err := h.k.compile(ctx, h.k.engines[0], wasm, Limits{}, false)
	if err != nil {
		return nil, err
	}
	m := &wasmModule{name: name, hash: digest(wasm), code: c, loaded: h.k.clock().UTC(), subject: &abi.Subject{
		Plugin: name, Identity: zta.Identity{ID: "module:" + name, TrustVector: zta.Unverified},
		TrustLevel: capability.Standard, Capabilities: h.k.ceiling, Container: abi.NewContainer(uuid.NewString()),
	}}
	err = h.run(ctx, m, "_initialize", func(call *abi.Call) (err error) {
		m.inst, err = c.instantiate(call)
		return err
	})
	if err != nil {
		_ = m.close()
		return nil, err
	}
	return m, nil
}

// run makes a call of a module and puts it on record.
func (h *WasmHost) run(ctx context.Context, m *wasmModule, function string, f func(*abi.Call) error) error {
	h.calls.Add(1)
	defer h.calls.Add(-1)
	call, err := h.k.gate.Begin(ctx, m.subject, function, nil)
	if err != nil {
		return err
	}
	if m.code.timeout > 0 {
		defer call.Limit(m.code.timeout)()
	}
	err = f(call)
	if m.inst != nil {
		m.memory.Store(memorySize(m.inst, m.code.module))
	}
	return call.End(nil, limitError(m.name, err))
}

// CallFunction calls an exported function. Errors: [ErrNotFound],
// *engines.ExportError, *engines.Trap, *engines.HostError, *[LimitError].
func (h *WasmHost) CallFunction(ctx context.Context, module, function string, args ...engines.Value) ([]engines.Value, error) {
	h.mu.Lock()
	m := h.modules[module]
	h.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("call %s.%s: module %q: %w", module, function, module, ErrNotFound)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inst == nil {
		return nil, fmt.Errorf("call %s.%s: module %q: %w", module, function, module, ErrNotFound)
	}
	var results []engines.Value
	err := h.run(ctx, m, function, func(call *abi.Call) error {
		f, err := m.inst.Func(function)
		if err != nil {
			return err
		}
		results, err = callValues(abi.WithCall(call.Context(), call), f, args)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("call %s.%s: %w", module, function, err)
	}
	return results, nil
}

// UnloadModule ends a module, after the call in flight. Errors: [ErrNotFound].
func (h *WasmHost) UnloadModule(_ context.Context, name string) error {
	h.mu.Lock()
	m := h.modules[name]
	if m == nil {
		h.mu.Unlock()
		return fmt.Errorf("unload module %q: %w", name, ErrNotFound)
	}
	if err := h.k.record(h.moduleRecord(m, "unload")); err != nil {
		h.mu.Unlock()
		return fmt.Errorf("unload module %q: %w", name, err)
	}
	delete(h.modules, name)
	h.mu.Unlock()
	return m.close()
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

// Close unloads everything and frees the engine. Closing twice is a no-op.
func (h *WasmHost) Close() error {
	if h.closed.Swap(true) {
		return nil
	}
	h.mu.Lock()
	modules := h.modules
	h.modules = map[string]*wasmModule{}
	h.mu.Unlock()
	for _, m := range modules {
		_ = m.close()
	}
	return h.k.close()
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

// close ends the module once its call in flight has ended.
func (m *wasmModule) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subject.Container.Close("module " + m.name + " was unloaded")
	if m.inst != nil {
		_ = m.inst.Close()
		m.inst = nil
	}
	return m.code.module.Close()
}

// memorySize is the linear memory of an instance that its exports show.
func memorySize(inst engines.Instance, m engines.Module) uint64 {
	var n uint64
	for _, ex := range m.Exports() {
		if ex.Type.Kind == engines.KindMemory {
			if mem := inst.Memory(ex.Name); mem != nil {
				n += mem.Size()
			}
		}
	}
	return n
}
