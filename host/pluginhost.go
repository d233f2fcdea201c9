package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/quarantine"
	"forgeone.dev/forgeone/zta"
)

// PluginHost runs configured plugins of both kinds.
type PluginHost struct {
	k       *kernel
	id      uuid.UUID
	history histories
	calls   atomic.Int64
	running sync.Map // container id → *running, from before the first call to after the last

	policies sync.Mutex // so that they come into force in the order of their records

	stop context.CancelFunc // ends the background work
	bg   sync.WaitGroup

	mu      sync.Mutex // guards what follows; never held across a guest, a process or a record
	closed  bool
	plugins map[uuid.UUID]*plugin
	names   map[string]*plugin
}

// NewPluginHost makes a host. Without options it has no engine, no syscalls
// and no policy: native and WASM plugins are refused what they need, by name.
// Its ceiling is everything.
func NewPluginHost(opts ...Option) (*PluginHost, error) {
	o := options{ceiling: capability.All()}
	for _, opt := range opts {
		opt(&o)
	}
	h := &PluginHost{id: uuid.New(), plugins: map[uuid.UUID]*plugin{}, names: map[string]*plugin{}}
	k, err := newKernel(o, h.isolate)
	if err != nil {
		return nil, fmt.Errorf("plugin host: %w", err)
	}
	h.k, h.history = k, histories{db: k.state, clock: k.clock, dnas: map[string]*zta.ExecutionDNA{}, stored: map[string]mark{}}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	h.bg.Add(1)
	go h.keepHistories(ctx)
	return h, nil
}

// ID identifies the host.
func (h *PluginHost) ID() uuid.UUID { return h.id }

// Capabilities is the ceiling of what any plugin may be granted.
func (h *PluginHost) Capabilities() capability.Set { return h.k.ceiling }

// Engines are the engines that WASM plugins can run on, the default first.
func (h *PluginHost) Engines() []engines.Info {
	out := make([]engines.Info, len(h.k.engines))
	for i, e := range h.k.engines {
		out[i] = e.Info()
	}
	return out
}

// Gate is the gate that every plugin's syscalls pass.
func (h *PluginHost) Gate() *abi.Gate { return h.k.gate }

// Cases is the register of quarantine cases. Release through
// [PluginHost.ReleaseCase], which lifts the hold as well.
func (h *PluginHost) Cases() *quarantine.Cases { return h.k.cases }

// AuditDir is the directory of the private log that the host opened for
// itself, or "" if one was given.
func (h *PluginHost) AuditDir() string { return h.k.ownDir }

// Status is the state of the host.
func (h *PluginHost) Status() HostStatus {
	h.mu.Lock()
	closed := h.closed
	h.mu.Unlock()
	return h.k.status(closed, h.calls.Load())
}

// LoadPlugin reads, verifies and compiles a plugin; it is then Stopped, or
// Quarantined where a case of its artifact is open. Errors: *[ConfigError],
// [ErrExists].
func (h *PluginHost) LoadPlugin(ctx context.Context, cfg PluginConfig) (uuid.UUID, error) {
	p := &plugin{host: h, id: uuid.New(), name: cfg.Name, own: PluginStatus{Phase: PluginLoading}, verbs: newSemaphore(1)}
	p.verbs <- struct{}{} // until the plugin is loaded, other verbs wait
	defer p.verbs.release()

	art, err := h.load(ctx, p, cfg)
	if err != nil {
		_ = h.k.record(&audit.Record{Kind: audit.KindPlugin, Plugin: cfg.Name, Subject: cfg.Identity.ID, Outcome: audit.OutcomeFailed, Error: audit.Clip(err.Error()), Details: map[string]string{"verb": "load"}})
		return uuid.Nil, fmt.Errorf("load plugin %q: %w", cfg.Name, err)
	}
	h.k.logger.Info("plugin loaded", "plugin", p.name, "kind", art.kind(), "sha256", art.digest)
	return p.id, nil
}

// load gives a new plugin its artifact. On an error the plugin is forgotten.
func (h *PluginHost) load(ctx context.Context, p *plugin, cfg PluginConfig) (_ *artifact, err error) {
	h.mu.Lock()
	switch {
	case h.closed:
		err = ErrClosed
	case h.names[p.name] != nil:
		err = ErrExists
	default:
		h.plugins[p.id], h.names[p.name] = p, p
	}
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	art, err := h.prepare(ctx, cfg)
	if err == nil {
		rec := p.loadRecord("load", art)
		rec.Outcome = audit.OutcomeOK
		if err = h.k.recordSync(ctx, rec); err != nil {
			_ = art.close()
		}
	}
	if err != nil {
		h.forget(p)
		return nil, err
	}
	p.set(func() { p.art, p.own = art, PluginStatus{Phase: PluginStopped} })
	return art, nil
}

// StartPlugin brings a stopped or failed plugin up: Active, or Paused where a
// freeze of its artifact is still open.
func (h *PluginHost) StartPlugin(ctx context.Context, id uuid.UUID) error {
	return h.verb(ctx, id, "start", (*plugin).start)
}

// PausePlugin refuses new calls of an active plugin until it is resumed; calls
// in flight go on.
func (h *PluginHost) PausePlugin(ctx context.Context, id uuid.UUID) error {
	return h.verb(ctx, id, "pause", (*plugin).pause)
}

// ResumePlugin lets a paused plugin take calls again. A freeze is lifted by
// [PluginHost.ReleaseCase] alone.
func (h *PluginHost) ResumePlugin(ctx context.Context, id uuid.UUID) error {
	return h.verb(ctx, id, "resume", (*plugin).resume)
}

// StopPlugin ends a plugin after its calls in flight; what is still running
// after [DefaultDrainTimeout], or when ctx ends, is cancelled.
func (h *PluginHost) StopPlugin(ctx context.Context, id uuid.UUID) error {
	return h.verb(ctx, id, "stop", (*plugin).stop)
}

// UnloadPlugin forgets a plugin that is not running.
func (h *PluginHost) UnloadPlugin(ctx context.Context, id uuid.UUID) error {
	return h.verb(ctx, id, "unload", (*plugin).unload)
}

// ReloadPlugin replaces a plugin by what cfg describes (a nil cfg reads the
// same configuration's artifact again). The new one is loaded and started
// aside, then takes over in one step; calls in flight end on the old one. If
// the new one does not come up, the old one stays and goes on.
func (h *PluginHost) ReloadPlugin(ctx context.Context, id uuid.UUID, cfg *PluginConfig) error {
	return h.verb(ctx, id, "reload", func(p *plugin, ctx context.Context, v *verb) error { return p.reload(ctx, v, cfg) })
}

func (h *PluginHost) verb(ctx context.Context, id uuid.UUID, name string, f func(*plugin, context.Context, *verb) error) error {
	p, err := h.plugin(id)
	if err != nil {
		return fmt.Errorf("%s %w", name, err)
	}
	if err := p.verbs.acquire(ctx); err != nil {
		return fmt.Errorf("%s plugin %q: waiting for another verb: %w", name, p.name, err)
	}
	defer p.verbs.release()
	v := &verb{k: h.k, name: name}
	err = v.end(p, f(p, ctx, v))
	if _, illegal := errors.AsType[*TransitionError](err); illegal {
		return err // which says of which verb and plugin
	}
	if err != nil {
		return fmt.Errorf("%s plugin %q: %w", name, p.name, err)
	}
	h.k.logger.Info("plugin "+name, "plugin", p.name, "status", p.status().Phase)
	return nil
}

// plugin is the plugin of that id. Errors: [ErrClosed], [ErrNotFound].
func (h *PluginHost) plugin(id uuid.UUID) (*plugin, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.plugins[id]
	switch {
	case h.closed:
		return nil, fmt.Errorf("plugin %s: %w", id, ErrClosed)
	case p == nil:
		return nil, fmt.Errorf("plugin %s: %w", id, ErrNotFound)
	}
	return p, nil
}

// all are the plugins, in no order.
func (h *PluginHost) all() []*plugin {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.plugins))
}

// Call calls a function of an active plugin. Errors: [ErrNotFound],
// *[TransitionError] when it takes no calls, *abi.DeniedError when it was
// blocked or quarantined, *[LimitError], *[FunctionError], *engines.Trap.
func (h *PluginHost) Call(ctx context.Context, id uuid.UUID, function string, input []byte) ([]byte, error) {
	p, err := h.plugin(id)
	if err != nil {
		return nil, fmt.Errorf("call %w", err)
	}
	h.calls.Add(1)
	defer h.calls.Add(-1)
	return p.call(ctx, function, input)
}

// CallForPlugin is [PluginHost.Call] for another plugin, by name alone, as grants
// name it. Errors: *[abi.SyscallError], which says what a plugin may know.
func (h *PluginHost) CallForPlugin(ctx context.Context, name, function string, input []byte) ([]byte, error) {
	h.mu.Lock()
	p := h.names[name]
	h.mu.Unlock()
	if p == nil {
		return nil, abi.Fail(abi.CodeNotFound, "plugin %q is not loaded", name)
	}
	out, err := h.Call(ctx, p.id, function, input)
	var denied *abi.DeniedError
	var failed *FunctionError
	switch {
	case err == nil:
		return out, nil
	case errors.As(err, &failed):
		return nil, &abi.SyscallError{Code: abi.CodeIO, Message: failed.Error(), Context: map[string]string{
			"plugin": name, "function": function, "code": strconv.Itoa(int(failed.Code)), "message": failed.Message,
		}}
	case errors.As(err, &denied):
		return nil, abi.Fail(abi.CodePermission, "plugin %s takes no calls, or was stopped in this one", name)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, abi.Fail(abi.CodeTimeout, "%v", err)
	}
	return nil, abi.Fail(abi.CodeIO, "%v", err)
}

// Lookup is the id of the plugin of that name or id text.
func (h *PluginHost) Lookup(ref string) (uuid.UUID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.names[ref]; p != nil {
		return p.id, nil
	}
	if id, err := uuid.Parse(ref); err == nil && h.plugins[id] != nil {
		return id, nil
	}
	return uuid.Nil, fmt.Errorf("plugin %q: %w; loaded are %v", ref, ErrNotFound, slices.Sorted(maps.Keys(h.names)))
}

// Plugin describes a plugin. Errors: [ErrNotFound].
func (h *PluginHost) Plugin(id uuid.UUID) (Plugin, error) {
	h.mu.Lock()
	p := h.plugins[id]
	h.mu.Unlock()
	if p == nil {
		return Plugin{}, fmt.Errorf("plugin %s: %w", id, ErrNotFound)
	}
	return p.describe(), nil
}

// Plugins describes every plugin, in name order.
func (h *PluginHost) Plugins() []Plugin {
	ps := h.all()
	out := make([]Plugin, len(ps))
	for i, p := range ps {
		out[i] = p.describe()
	}
	slices.SortFunc(out, func(a, b Plugin) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// SetPolicies compiles policies, with those of the registry, and puts them in
// force. On an error the policy in force stays. When it has returned, nothing
// is decided by the old policy.
func (h *PluginHost) SetPolicies(ctx context.Context, mode zta.Mode, policies ...zta.Policy) error {
	h.policies.Lock()
	defer h.policies.Unlock()
	old := h.k.gate.GetPolicyGraph().Digest()
	graph, err := h.k.registry.Compile(policies, mode)
	if err == nil {
		err = h.k.recordSync(ctx, &audit.Record{Kind: audit.KindPolicy, Outcome: audit.OutcomeOK, Policy: graph.Digest(),
			Details: map[string]string{"mode": mode.String(), "replaces": old}})
	}
	if err != nil {
		_ = h.k.record(&audit.Record{Kind: audit.KindPolicy, Outcome: audit.OutcomeFailed, Error: audit.Clip(err.Error()), Policy: old})
		return fmt.Errorf("policies: %w; the policy in force stays", err)
	}
	h.k.gate.SetPolicyGraph(graph)
	return nil
}

// ReleaseCase closes a quarantine case: the artifact's integrity is set to
// zta.ReleasedIntegrity and a freeze of its plugins is lifted; one that was
// paused before stays so. A quarantined plugin is then Stopped, and can be
// started.
func (h *PluginHost) ReleaseCase(ctx context.Context, caseID, by, reason string) (quarantine.Case, error) {
	k, err := h.k.cases.Release(ctx, caseID, by, reason)
	if err != nil {
		return quarantine.Case{}, err
	}
	err = h.history.release(k.Artifact)
	for _, p := range h.all() {
		p.set(func() {
			if p.run != nil && p.run.art.digest == k.Artifact {
				p.run.settle()
			}
		})
	}
	return k, err
}

// Close stops every plugin and frees the engines. When ctx ends, what is still
// in flight is cancelled. Closing twice is a no-op.
func (h *PluginHost) Close(ctx context.Context) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	// A verb on its way is waited for, so what it waits for must end as well.
	defer context.AfterFunc(ctx, func() {
		h.running.Range(func(_, r any) bool {
			r.(*running).subject.Container.Close("the host is closed")
			return true
		})
	})()

	ps := h.all()
	var wg sync.WaitGroup
	errs := make([]error, len(ps))
	for i, p := range ps {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_ = p.verbs.acquire(context.Background())
			defer p.verbs.release()
			errs[i] = p.shutdown(ctx)
		}()
	}
	wg.Wait()
	h.stop()
	h.bg.Wait()
	return errors.Join(append(errs, h.history.store(), h.k.close())...)
}

func (h *PluginHost) forget(p *plugin) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.plugins, p.id)
	if h.names[p.name] == p {
		delete(h.names, p.name)
	}
}

// isolate is told by the gate that a container is to be isolated: so is every
// one that runs the same artifact.
func (h *PluginHost) isolate(s *abi.Subject, d zta.Decision) string {
	v, ok := h.running.Load(s.Container.ID())
	if !ok {
		return "" // it has ended
	}
	r := v.(*running)
	k, opened := h.k.cases.Open(quarantine.Case{
		Outcome: d.Outcome.String(), Plugin: s.Plugin, Container: s.Container.ID(), Identity: s.Identity.ID,
		Artifact: r.art.digest, Publisher: s.Identity.Publisher,
		Rule: d.Rule, Reason: d.Reason, Policy: d.Policy, Score: d.Score, History: s.ExecutionDNA.Snapshot(h.k.clock()),
	})
	if !opened {
		return k.ID
	}
	var held []quarantine.Container
	h.running.Range(func(_, v any) bool {
		if other := v.(*running); other.art.digest == k.Artifact {
			held = append(held, other)
		}
		return true
	})
	ctx, cancel := context.WithTimeout(context.Background(), isolateTimeout)
	defer cancel()
	if err := errors.Join(h.k.cases.Isolate(ctx, k, held...), h.history.store()); err != nil {
		h.k.logger.Error("isolation", "case", k.ID, "error", err)
	}
	h.k.logger.Warn("plugin isolated", "plugin", s.Plugin, "case", k.ID, "outcome", k.Outcome, "containers", len(held), "reason", k.Reason)
	return k.ID
}

// keepHistories stores the histories while plugins run, so that a crash loses
// little of them.
func (h *PluginHost) keepHistories(ctx context.Context) {
	defer h.bg.Done()
	tick := time.NewTicker(historyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := h.history.store(); err != nil {
				h.k.logger.Error("histories are not stored", "error", err)
			}
		}
	}
}
