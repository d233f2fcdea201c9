package host

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// Plugin describes a plugin.
type Plugin struct {
	ID            uuid.UUID
	Name          string
	Version       string
	WasmModule    string // path; one of the two
	NativeLibrary string
	ABI           ABI
	Engine        string // of a WASM plugin
	Sandbox       Sandbox
	Digest        string // SHA-256 of the artifact, hexadecimal
	Capabilities  capability.Grant
	TrustLevel    capability.TrustLevel // configured: the ceiling
	Identity      zta.Identity
	Score         float64               // trust score now
	Level         capability.TrustLevel // effective trust level now
	Integrity     float64               // of its DNA, 0 to 100
	Status        PluginStatus
	Container     string // id, while it runs
	PID           int    // of a native plugin that runs
	Functions     []string
	Pool          *PoolStatus // of a pristine WASM plugin that runs
	Calls         uint64
	LoadTime      time.Time
}

// plugin is a loaded plugin. Its verbs run one at a time.
type plugin struct {
	host *PluginHost
	id   uuid.UUID
	name string

	verbs semaphore // held by one lifecycle verb at a time

	mu    sync.Mutex // guards what follows; never held across a guest, a process or a record
	art   *artifact
	own   PluginStatus // without what a case of its artifact makes of it: see status
	run   *running     // not nil just while own is Active or Paused
	calls uint64
}

func (p *plugin) call(ctx context.Context, function string, input []byte) ([]byte, error) {
	p.mu.Lock()
	r := p.run
	if r == nil || p.own.Phase != PluginActive {
		st := p.statusLocked()
		p.mu.Unlock()
		return nil, p.refuse(st, function)
	}
	p.calls++
	r.calls.Add(1) // under mu, so before anyone who took run away waits
	p.mu.Unlock()
	defer r.calls.Done()

	if err := r.slots.acquire(ctx); err != nil {
		return nil, fmt.Errorf("call %s.%s: waiting for one of %d instances: %w", p.name, function, cap(r.slots), err)
	}
	defer r.slots.release()
	call, err := p.host.k.gate.Begin(r.serving(ctx), r.subject, function, input)
	if err != nil {
		return nil, err
	}
	defer r.limit(call)()
	out, err := r.unit().call(call, function, input)
	if err = call.End(out, r.explain(ctx, call, err)); err != nil {
		return nil, err
	}
	return out, nil
}

// refuse is why a plugin takes no call, put on record.
func (p *plugin) refuse(st PluginStatus, function string) error {
	rec := p.event("")
	rec.Kind, rec.Function, rec.Details, rec.Decision = audit.KindCall, audit.Clip(function), nil, zta.Block.String()
	var err error
	switch {
	case st.Phase == PluginQuarantined:
		rec.Decision = zta.Quarantine.String()
		err = &abi.DeniedError{Status: abi.Quarantined, Reason: fmt.Sprintf("plugin %s, case %s: %s", p.name, st.Case, st.Reason)}
	case st.Phase == PluginPaused:
		err = &abi.DeniedError{Status: abi.Blocked, Reason: fmt.Sprintf("plugin %s is %s", p.name, st)}
	default:
		err = p.illegal("call", st, "start it first")
	}
	rec.Reason = audit.Clip(err.Error())
	_ = p.host.k.record(rec) // refused whether or not it can be recorded
	return err
}

func (p *plugin) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// status is what the plugin is.
func (p *plugin) status() PluginStatus {
	st, _ := p.now()
	return st
}

// now is what the plugin is, with what it runs.
func (p *plugin) now() (PluginStatus, *running) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statusLocked(), p.run
}

// statusLocked is the plugin's own status, unless a case of its artifact makes
// something else of it. It is called with mu held.
func (p *plugin) statusLocked() PluginStatus {
	if p.art == nil || p.own.Phase == PluginUnloaded {
		return p.own
	}
	switch k, held := p.host.k.cases.Held(p.art.digest); {
	case held && k.Quarantines():
		return PluginStatus{Phase: PluginQuarantined, Case: k.ID, Reason: k.Reason}
	case held && p.run != nil:
		return PluginStatus{Phase: PluginPaused, Case: k.ID, Reason: k.Reason}
	}
	return p.own
}

func (p *plugin) describe() Plugin {
	p.mu.Lock()
	a, r, st, calls := p.art, p.run, p.statusLocked(), p.calls
	p.mu.Unlock()
	d := Plugin{ID: p.id, Name: p.name, Status: st, Calls: calls}
	if a == nil {
		return d
	}
	d.Version, d.WasmModule, d.NativeLibrary, d.ABI, d.Sandbox = a.cfg.Version, a.cfg.WasmModule, a.cfg.NativeLibrary, a.abi(), a.cfg.Sandbox
	d.Digest, d.Capabilities, d.TrustLevel, d.Identity, d.LoadTime = a.digest, a.cfg.Capabilities.Grant(), a.cfg.TrustLevel, a.identity, a.loaded
	if a.code != nil {
		d.Engine = a.code.engine.Info().Name
		d.Functions = a.code.functions()
	}
	now := p.host.k.clock()
	d.Integrity = a.dna.Integrity(now)
	d.Score, d.Level = a.trust(now)
	if r != nil {
		d.Container = r.subject.Container.ID()
		u := r.unit()
		if u != nil {
			d.Functions = u.functions()
		}
		switch u := u.(type) {
		case *nativeUnit:
			d.PID = u.plugin.PID()
		case *wasmUnit:
			if p, ok := u.instances.(*pool); ok {
				d.Pool = p.status()
			}
		}
	}
	return d
}
