package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/native"
	"forgeone.dev/forgeone/quarantine"
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
	Calls         uint64
	LoadTime      time.Time
}

// plugin is a loaded plugin. Its verbs run one at a time.
type plugin struct {
	host *PluginHost
	id   uuid.UUID
	name string

	verbs sync.Mutex // held by one lifecycle verb at a time

	mu     sync.Mutex // guards what follows; never held across a guest, a process or a record
	art    *artifact
	status PluginStatus
	run    *running
	calls  uint64
}

// artifact is a plugin's verified code with what it was configured to be.
type artifact struct {
	cfg      PluginConfig
	digest   string
	identity zta.Identity
	set      capability.Set // configured, under the host's ceiling
	dna      *zta.ExecutionDNA
	code     *code         // WASM only
	timeout  time.Duration // of a call; 0 for none
	slots    int
	loaded   time.Time
}

// unit is a plugin that is up, of either kind. Its calls may run at the same
// time.
type unit interface {
	call(c *abi.Call, function string, input []byte) ([]byte, error)
	event(c *abi.Call, name forge.Event) error
	functions() []string
	stop(ctx context.Context) error // gracefully, then at once
	kill()                          // at once
	exited() <-chan struct{}        // closed when it ended by itself; nil if it cannot
}

// running is one life of a plugin: a container with what runs in it.
type running struct {
	plugin  *plugin
	art     *artifact
	subject *abi.Subject
	slots   chan struct{}
	calls   sync.WaitGroup
	ended   chan struct{} // closed by end

	mu       sync.Mutex // guards what follows
	up       unit       // nil until the artifact was started
	isolated isolation
}

// isolation is what a running plugin's isolation came to.
type isolation struct {
	outcome zta.Outcome   // the strongest so far: Block, Freeze or Quarantine
	done    chan struct{} // closed when the case is open
	caseID  string        // once done is closed
}

// claim claims an isolation: it is the caller's to carry out if mine, else one
// that is as strong is under way or done.
func (r *running) claim(o zta.Outcome) (done chan struct{}, mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isolated.done != nil && r.isolated.outcome >= o {
		return r.isolated.done, false
	}
	r.isolated = isolation{outcome: o, done: make(chan struct{})}
	return r.isolated.done, true
}

func (r *running) caseID() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isolated.caseID
}

// quarantine waits until the case of a container that was quarantined is open,
// and is that case.
func (r *running) quarantine() string {
	r.mu.Lock()
	i := r.isolated
	r.mu.Unlock()
	if i.outcome != zta.Quarantine {
		return ""
	}
	<-i.done
	return r.caseID()
}

// unit is what runs, or nil before it was started.
func (r *running) unit() unit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up
}

// prepare does all of a load that can fail, without touching what is loaded.
func (h *PluginHost) prepare(ctx context.Context, cfg PluginConfig) (*artifact, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	fail := func(err error) (*artifact, error) {
		return nil, &ConfigError{Plugin: cfg.Name, Origin: cfg.Origin, Err: err}
	}
	path := cfg.WasmModule + cfg.NativeLibrary
	b, err := readArtifact(path)
	if err != nil {
		return fail(err)
	}
	a := &artifact{cfg: cfg, digest: digest(b), slots: cfg.Limits.Instances, loaded: h.k.clock().UTC()}
	if cfg.SHA256 != "" && !strings.EqualFold(cfg.SHA256, a.digest) {
		return fail(fmt.Errorf("%w: %s has sha256 %s, configured is %s; if the change is wanted, put the new sum in the configuration", ErrChecksum, path, a.digest, strings.ToLower(cfg.SHA256)))
	}
	spec := cfg.Identity
	if spec.ID == "" {
		spec = zta.IdentitySpec{ID: "plugin:" + cfg.Name, Vector: zta.Unverified}
	}
	if a.identity, err = zta.Verify(spec, b, cfg.Signature, h.k.rootKey); err != nil {
		return fail(err)
	}
	if a.dna, err = h.history.of(a.digest, a.identity); err != nil {
		return fail(err)
	}
	lowest := h.k.registry.Lowest()
	if above := cfg.Capabilities.Above(cfg.TrustLevel, lowest); len(above) > 0 {
		return fail(fmt.Errorf("trust level %s may not hold %s; raise trust_level or drop the grant", cfg.TrustLevel, strings.Join(above, ", ")))
	}
	if unknown := cfg.Capabilities.Unknown(lowest); len(unknown) > 0 && len(lowest) > 0 {
		return fail(fmt.Errorf("capabilities.syscalls: no syscall is called %s; there are %s", strings.Join(unknown, ", "), strings.Join(h.k.registry.Names(), ", ")))
	}
	a.set = cfg.Capabilities.Intersect(h.k.ceiling)

	if cfg.NativeLibrary != "" {
		a.timeout = cmpDuration(cfg.Limits.Timeout, h.k.timeout, DefaultExecutionTimeout)
		a.slots = max(a.slots, 0)
		if a.slots == 0 {
			a.slots = 64
		}
		return a, nil
	}
	e, err := h.k.engine(cfg.Engine)
	if err != nil {
		return fail(err)
	}
	if a.code, err = h.k.compile(ctx, e, b, cfg.Limits); err != nil {
		return fail(err)
	}
	a.timeout = a.code.timeout
	if a.cfg.State == "" {
		a.cfg.State = StatePristine
		if a.code.abi == ABICore {
			a.cfg.State = StateKeep
		}
	}
	switch {
	case a.cfg.State == StateKeep:
		a.slots = 1
	case a.slots == 0:
		a.slots = 4
	}
	return a, nil
}

// cmpDuration is the first of the durations that is set; NoTimeout is 0.
func cmpDuration(ds ...time.Duration) time.Duration {
	for _, d := range ds {
		if d == NoTimeout {
			return 0
		}
		if d != 0 {
			return d
		}
	}
	return 0
}

func (a *artifact) kind() string {
	if a.code != nil {
		return "wasm"
	}
	return "native"
}

func (a *artifact) abi() ABI {
	if a.code != nil {
		return a.code.abi
	}
	return ABINative
}

func (a *artifact) close() error {
	if a.code == nil {
		return nil
	}
	return a.code.module.Close()
}

// bringUp makes a container and starts the artifact in it, through its init and
// start events. On an error nothing is left.
func (p *plugin) bringUp(ctx context.Context, a *artifact) (_ *running, err error) {
	h := p.host
	c := abi.NewContainer(uuid.NewString())
	r := &running{plugin: p, art: a, slots: make(chan struct{}, a.slots), ended: make(chan struct{}), subject: &abi.Subject{
		Plugin: p.name, Identity: a.identity, TrustLevel: a.cfg.TrustLevel, Capabilities: a.set, ExecutionDNA: a.dna, Container: c,
	}}
	for _, m := range a.cfg.Mounts {
		root, err := os.OpenRoot(m.Host)
		if err != nil {
			_ = r.release()
			return nil, fmt.Errorf("mount %q: %w", m.Guest, err)
		}
		r.subject.Mounts = append(r.subject.Mounts, abi.Mount{Guest: m.Guest, Root: root, ReadOnly: m.ReadOnly})
	}
	if err := h.k.record(p.capabilityRecord(r)); err != nil {
		_ = r.release()
		return nil, err
	}
	h.running.Store(c.ID(), r)
	defer func() {
		if err != nil {
			_ = r.end(ctx, "it did not come up")
		}
	}()
	err = r.within(ctx, "init", func(call *abi.Call) (err error) {
		var u unit
		if a.code != nil {
			u, err = startWasm(call, a.code, a.cfg.State)
		} else {
			u, err = startNative(call, r, h.k.logger)
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.up = u
		r.mu.Unlock()
		return u.event(call, forge.Init)
	})
	if err != nil {
		return nil, err
	}
	if err := r.event(ctx, forge.Begin); err != nil {
		return nil, err
	}
	if gone := r.unit().exited(); gone != nil {
		h.bg.Add(1)
		go func() {
			defer h.bg.Done()
			select {
			case <-gone:
				p.crashed(r)
			case <-r.ended:
			}
		}()
	}
	return r, nil
}

// within makes a call of the lifecycle and puts it on record.
func (r *running) within(ctx context.Context, function string, f func(*abi.Call) error) error {
	call, err := r.plugin.host.k.gate.Begin(ctx, r.subject, "forge_"+function, nil)
	if err != nil {
		return err
	}
	if r.art.timeout > 0 {
		defer call.Limit(r.art.timeout)()
	}
	return call.End(nil, r.explain(call, f(call)))
}

func (r *running) event(ctx context.Context, name forge.Event) error {
	return r.within(ctx, string(name), func(call *abi.Call) error { return r.unit().event(call, name) })
}

// end stops the unit and lets go of everything; calls must have been drained.
func (r *running) end(ctx context.Context, reason string) error {
	r.subject.Container.Close(reason)
	close(r.ended)
	var err error
	if u := r.unit(); u != nil {
		err = u.stop(ctx)
	}
	r.plugin.host.running.Delete(r.subject.Container.ID())
	return errors.Join(err, r.release())
}

func (r *running) release() error {
	var errs []error
	for _, m := range r.subject.Mounts {
		errs = append(errs, m.Root.Close())
	}
	return errors.Join(errs...)
}

// drain waits for the calls in flight; after [DefaultDrainTimeout] or ctx it
// cancels them and waits again.
func (r *running) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		r.calls.Wait()
		close(done)
	}()
	t := time.NewTimer(DefaultDrainTimeout)
	defer t.Stop()
	select {
	case <-done:
		return
	case <-ctx.Done():
	case <-t.C:
	}
	r.subject.Container.Close("plugin " + r.plugin.name + " was stopped before the call ended")
	r.unit().kill()
	<-done
}

func (p *plugin) start(ctx context.Context) error {
	a, st := p.art, p.currentStatus()
	switch st.Phase {
	case PluginStopped, PluginFailed:
	case PluginQuarantined:
		return fmt.Errorf("%w by case %s: %s; release it with quarantine release %s", ErrQuarantined, st.Case, st.Reason, st.Case)
	default:
		return p.illegal("start", st, "it is started when it is stopped or failed")
	}
	if err := p.host.k.recordSync(ctx, p.event("start", "", nil)); err != nil {
		return err
	}
	r, err := p.bringUp(ctx, a)
	if err != nil {
		p.set(func() {
			if p.status.Phase != PluginQuarantined {
				p.status = PluginStatus{Phase: PluginFailed, Reason: err.Error()}
			}
		})
		return err
	}
	p.set(func() { p.run, p.status = r, p.activeStatus(r) })
	return p.host.k.record(p.event("start", audit.OutcomeOK, nil))
}

// activeStatus is Active, or Paused where a freeze of the artifact is open.
func (p *plugin) activeStatus(r *running) PluginStatus {
	if k, ok := p.host.k.cases.Frozen(r.art.digest); ok {
		r.subject.Container.Hold(fmt.Sprintf("frozen for review by case %s: %s", k.ID, k.Reason))
		return PluginStatus{Phase: PluginPaused, Case: k.ID, Reason: k.Reason}
	}
	return PluginStatus{Phase: PluginActive}
}

func (p *plugin) pause(ctx context.Context) error {
	st := p.currentStatus()
	if st.Phase != PluginActive {
		return p.illegal("pause", st, "it is paused when it is active")
	}
	if err := p.host.k.recordSync(ctx, p.event("pause", audit.OutcomeOK, nil)); err != nil {
		return err
	}
	if err := p.run.event(ctx, forge.Pause); err != nil {
		return err
	}
	p.set(func() {
		if p.status.Phase == PluginActive { // it may have been isolated meanwhile
			p.run.subject.Container.Hold("plugin " + p.name + " is paused")
			p.status = PluginStatus{Phase: PluginPaused}
		}
	})
	return nil
}

func (p *plugin) resume(ctx context.Context) error {
	st := p.currentStatus()
	switch {
	case st.Phase != PluginPaused:
		return p.illegal("resume", st, "it is resumed when it is paused")
	case st.Case != "":
		return p.illegal("resume", st, "it is frozen for review: quarantine release "+st.Case+" lifts that")
	}
	if err := p.host.k.recordSync(ctx, p.event("resume", audit.OutcomeOK, nil)); err != nil {
		return err
	}
	p.run.subject.Container.Release()
	if err := p.run.event(ctx, forge.Resume); err != nil {
		p.run.subject.Container.Hold("plugin " + p.name + " did not resume")
		return err
	}
	p.set(func() {
		if p.status.Phase == PluginPaused && p.status.Case == "" {
			p.status = PluginStatus{Phase: PluginActive}
		}
	})
	return nil
}

func (p *plugin) stop(ctx context.Context) error {
	st := p.currentStatus()
	if st.Phase != PluginActive && st.Phase != PluginPaused {
		return p.illegal("stop", st, "it is stopped when it is active or paused")
	}
	if err := p.host.k.recordSync(ctx, p.event("stop", audit.OutcomeOK, nil)); err != nil {
		return err
	}
	return p.down(ctx, st)
}

// down takes a running plugin down.
func (p *plugin) down(ctx context.Context, st PluginStatus) error {
	var r *running
	p.set(func() {
		r, p.run = p.run, nil
		if p.status.Phase != PluginQuarantined {
			p.status = PluginStatus{Phase: PluginStopped}
		}
	})
	r.drain(ctx)
	var eventErr error
	if st.Phase == PluginPaused && st.Case == "" {
		r.subject.Container.Release() // its stop event is its own to run
	}
	if r.subject.Container.Live() == nil {
		eventErr = r.event(ctx, forge.Stop)
	}
	return errors.Join(eventErr, r.end(ctx, "plugin "+p.name+" was stopped"))
}

func (p *plugin) unload(ctx context.Context) error {
	st := p.currentStatus()
	switch st.Phase {
	case PluginStopped, PluginFailed, PluginQuarantined:
	default:
		return p.illegal("unload", st, "stop it first")
	}
	if err := p.host.k.recordSync(ctx, p.event("unload", audit.OutcomeOK, nil)); err != nil {
		return err
	}
	var eventErr error
	if st.Phase == PluginStopped && p.art.hasUnload() {
		eventErr = p.unloadEvent(ctx)
	}
	p.host.forget(p)
	var r *running
	p.set(func() { r, p.run, p.status = p.run, nil, PluginStatus{Phase: PluginUnloaded} })
	var endErr error
	if r != nil { // of a quarantined plugin
		endErr = r.end(ctx, "plugin "+p.name+" was unloaded")
	}
	return errors.Join(eventErr, endErr, p.art.close())
}

// hasUnload reports whether there is an unload event to run.
func (a *artifact) hasUnload() bool {
	if a.code == nil {
		return false // a native plugin has ended with its process
	}
	for _, ex := range a.code.module.Exports() {
		if ex.Name == "forge_unload" {
			return true
		}
	}
	return false
}

// unloadEvent runs the unload export, for its effects, in a life of its own.
func (p *plugin) unloadEvent(ctx context.Context) error {
	r, err := p.bringUp(ctx, p.art)
	if err != nil {
		return fmt.Errorf("unload event: %w", err)
	}
	return errors.Join(r.event(ctx, forge.Unload), r.end(ctx, "plugin "+p.name+" was unloaded"))
}

func (p *plugin) reload(ctx context.Context, cfg *PluginConfig) error {
	st := p.currentStatus()
	switch st.Phase {
	case PluginActive, PluginStopped, PluginFailed:
	case PluginPaused:
		if st.Case == "" {
			break
		}
		fallthrough
	default:
		return p.illegal("reload", st, "it is reloaded when it is active, paused, stopped or failed")
	}
	next := p.art.cfg
	if cfg != nil {
		next = *cfg
	}
	if next.Name != p.name {
		return fmt.Errorf("the new configuration is of plugin %q", next.Name)
	}
	a, err := p.host.prepare(ctx, next)
	if err != nil {
		return fmt.Errorf("%w; the plugin goes on as it was", err)
	}
	if k, ok := p.host.k.cases.Active(a.digest); ok {
		_ = a.close()
		return fmt.Errorf("the new artifact is %w by case %s; the plugin goes on as it was", ErrQuarantined, k.ID)
	}
	if err := p.recordLoad(ctx, "reload", a); err != nil {
		_ = a.close()
		return err
	}
	var r *running
	if st.Phase == PluginActive || st.Phase == PluginPaused {
		if r, err = p.bringUp(ctx, a); err != nil {
			_ = a.close()
			return fmt.Errorf("%w; the plugin goes on as it was", err)
		}
	}

	var oldArt *artifact
	var oldRun *running
	p.set(func() {
		oldArt, oldRun = p.art, p.run
		p.art = a
		switch {
		case r != nil && p.status.Phase == PluginPaused:
			r.subject.Container.Hold("plugin " + p.name + " is paused")
			p.run = r
		case r != nil:
			p.run, p.status = r, p.activeStatus(r)
		default:
			p.status = PluginStatus{Phase: PluginStopped}
		}
	})
	var errs []error
	if oldRun != nil {
		oldRun.drain(ctx)
		if oldRun.subject.Container.Live() == nil {
			errs = append(errs, oldRun.event(ctx, forge.Stop))
		}
		errs = append(errs, oldRun.end(ctx, "plugin "+p.name+" was reloaded"))
	}
	return errors.Join(append(errs, oldArt.close())...)
}

// shutdown ends the plugin with its host.
func (p *plugin) shutdown(ctx context.Context) error {
	st := p.currentStatus()
	var err error
	switch st.Phase {
	case PluginActive, PluginPaused:
		_ = p.host.k.record(p.event("stop", audit.OutcomeOK, nil))
		err = p.down(ctx, st)
	default:
		var r *running
		p.set(func() { r, p.run = p.run, nil })
		if r != nil {
			err = r.end(ctx, "the host was closed")
		}
	}
	p.set(func() { p.status = PluginStatus{Phase: PluginUnloaded} })
	if p.art == nil {
		return err
	}
	return errors.Join(err, p.art.close())
}

func (p *plugin) call(ctx context.Context, function string, input []byte) ([]byte, error) {
	p.mu.Lock()
	st, r := p.status, p.run
	if r == nil || st.Phase == PluginQuarantined {
		p.mu.Unlock()
		return nil, p.refuse(st, function)
	}
	p.calls++
	r.calls.Add(1) // under mu, so before anyone who took run away waits
	p.mu.Unlock()
	defer r.calls.Done()

	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("call %s.%s: waiting for one of %d instances: %w", p.name, function, cap(r.slots), ctx.Err())
	}
	call, err := p.host.k.gate.Begin(ctx, r.subject, function, input)
	if err != nil {
		return nil, err
	}
	if r.art.timeout > 0 {
		defer call.Limit(r.art.timeout)()
	}
	out, err := r.unit().call(call, function, input)
	if err = call.End(out, r.explain(call, err)); err != nil {
		return nil, err
	}
	return out, nil
}

// refuse is why a plugin that does not run takes no call, put on record.
func (p *plugin) refuse(st PluginStatus, function string) error {
	var err error
	rec := p.event("call", "", nil)
	rec.Kind, rec.Function, rec.Details = audit.KindCall, function, nil
	if st.Phase == PluginQuarantined {
		err = &abi.DeniedError{Status: abi.Quarantined, Reason: fmt.Sprintf("plugin %s is quarantined by case %s: %s", p.name, st.Case, st.Reason)}
		rec.Decision = zta.Quarantine.String()
	} else {
		err = p.illegal("call", st, "start it first")
		rec.Decision = zta.Block.String()
	}
	rec.Reason = audit.Clip(err.Error())
	_ = p.host.k.record(rec) // refused whether or not it can be recorded
	return err
}

// explain turns how a guest ended into the error a caller is to see, and puts
// abnormal ends on the plugin's DNA.
func (r *running) explain(call *abi.Call, err error) error {
	if err == nil {
		return nil
	}
	var denied *abi.DeniedError
	if errors.As(context.Cause(call.Context()), &denied) || (errors.As(err, &denied) && denied.Status == abi.Quarantined) {
		if denied.Status == abi.Quarantined {
			if id := r.quarantine(); id != "" {
				return &abi.DeniedError{Status: abi.Quarantined, Reason: fmt.Sprintf("plugin %s is quarantined by case %s: %s", r.plugin.name, id, denied.Reason)}
			}
		}
		return denied
	}
	gate, name := r.plugin.host.k.gate, r.plugin.name
	var trap *engines.Trap
	var ff *forge.FunctionError
	var nf *native.FunctionError
	switch {
	case errors.As(err, &ff):
		return &FunctionError{Plugin: name, Function: ff.Function, Code: ff.Code, Message: ff.Message}
	case errors.As(err, &nf):
		return &FunctionError{Plugin: name, Function: nf.Function, Code: nf.Code, Message: nf.Message}
	}
	if lim := limitError(name, err); lim != err { //nolint:errorlint // identity: was it turned into one
		gate.Report(r.subject, zta.LimitExceeded, lim.Error())
		return lim
	}
	if errors.As(err, &trap) && trap.Class != engines.TrapInterrupted {
		gate.Report(r.subject, zta.Trap, err.Error())
	}
	return err
}

// limitError is a *[LimitError] where a limit ended the call, else err.
func limitError(plugin string, err error) error {
	var size *forge.LimitError
	switch {
	case errors.As(err, &size):
		return &LimitError{Plugin: plugin, Limit: size.What, Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &LimitError{Plugin: plugin, Limit: "timeout", Err: err}
	}
	return err
}

// isolate completes an isolation that the gate began, and is its case. What is
// isolated already keeps the case it has.
func (p *plugin) isolate(r *running, d zta.Decision) string {
	done, mine := r.claim(d.Outcome)
	if !mine {
		<-done
		return r.caseID()
	}
	if u := r.unit(); d.Outcome == zta.Quarantine && u != nil {
		u.kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), isolateTimeout)
	defer cancel()
	k, err := p.host.k.cases.Isolate(ctx, quarantine.Case{
		Outcome: d.Outcome.String(), Plugin: p.name, Identity: r.subject.Identity.ID,
		Artifact: r.art.digest, Publisher: r.subject.Identity.Publisher,
		Rule: d.Rule, Reason: d.Reason, Policy: d.Policy, Score: d.Score, History: r.subject.ExecutionDNA.Snapshot(p.host.k.clock()),
	}, r.subject.Container)
	if err != nil {
		p.host.k.logger.Error("quarantine case is not kept", "plugin", p.name, "case", k.ID, "error", err)
	}
	p.set(func() {
		if p.status.Phase == PluginQuarantined {
			return
		}
		p.status = PluginStatus{Phase: PluginPaused, Case: k.ID, Reason: d.Reason}
		if d.Outcome == zta.Quarantine {
			p.status.Phase = PluginQuarantined
		}
	})
	r.mu.Lock()
	r.isolated.caseID = k.ID
	r.mu.Unlock()
	close(done)
	if err := p.host.history.store(); err != nil {
		p.host.k.logger.Error("histories are not stored", "error", err)
	}
	p.host.k.logger.Warn("plugin isolated", "plugin", p.name, "case", k.ID, "outcome", d.Outcome.String(), "reason", d.Reason)
	return k.ID
}

// released follows the release of a case.
func (p *plugin) released(k quarantine.Case) {
	p.verbs.Lock()
	defer p.verbs.Unlock()
	p.mu.Lock()
	if p.status.Case != k.ID {
		p.mu.Unlock()
		return
	}
	r := p.run
	switch {
	case p.status.Phase == PluginPaused && r != nil:
		r.subject.Container.Release()
		p.status = PluginStatus{Phase: PluginActive}
		r = nil
	default:
		p.run, p.status = nil, PluginStatus{Phase: PluginStopped}
	}
	p.mu.Unlock()
	if r != nil {
		if err := r.end(context.Background(), "its quarantine was released"); err != nil {
			p.host.k.logger.Warn("end of quarantined plugin", "plugin", p.name, "error", err)
		}
	}
}

// crashed follows a native process that ended by itself.
func (p *plugin) crashed(r *running) {
	reason := "its process ended by itself"
	if n, ok := r.unit().(*nativeUnit); ok && n.exitError() != nil {
		reason = n.exitError().Error()
	}
	var current bool
	p.set(func() {
		if current = p.run == r && p.status.Phase != PluginQuarantined; current {
			p.status = PluginStatus{Phase: PluginFailed, Reason: reason}
			p.run = nil
		}
	})
	if !current {
		return
	}
	r.subject.Container.Close("plugin " + p.name + " failed: " + reason)
	p.host.k.gate.Report(r.subject, zta.Trap, reason)
	_ = p.host.k.record(p.event("crash", audit.OutcomeFailed, errors.New(reason)))
	p.host.k.logger.Error("plugin failed", "plugin", p.name, "reason", reason)
	r.calls.Wait()
	_ = r.end(context.Background(), reason) // what there is to say of the end is said
}

func (p *plugin) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *plugin) currentStatus() PluginStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *plugin) illegal(verb string, st PluginStatus, remedy string) error {
	return &TransitionError{Plugin: p.name, Verb: verb, Status: st, Remedy: remedy}
}

// event is the record of a lifecycle verb; an empty outcome makes it an intent.
func (p *plugin) event(verb, outcome string, err error) *audit.Record {
	r := &audit.Record{Kind: audit.KindPlugin, Plugin: p.name, Outcome: outcome, Details: map[string]string{"verb": verb}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.art != nil {
		r.Subject, r.Digest = p.art.identity.ID, p.art.digest
	}
	if p.run != nil {
		r.Container = p.run.subject.Container.ID()
	}
	if err != nil {
		r.Error = audit.Clip(err.Error())
	}
	return r
}

func (p *plugin) recordLoad(ctx context.Context, verb string, a *artifact) error {
	r := &audit.Record{
		Kind: audit.KindPlugin, Plugin: p.name, Subject: a.identity.ID, Digest: a.digest, Outcome: audit.OutcomeOK, Level: a.cfg.TrustLevel.String(),
		Details: map[string]string{"verb": verb, "kind": a.kind(), "abi": string(a.abi()), "version": a.cfg.Version, "vector": a.identity.TrustVector.String()},
	}
	if a.code != nil {
		r.Details["engine"] = a.code.engine.Info().Name
		r.Details["state"] = string(a.cfg.State)
	} else {
		r.Details["sandbox"] = string(a.cfg.Sandbox)
		if a.cfg.Sandbox == SandboxNone {
			r.Details["warning"] = "no sandbox: this process can do what the kernel's user can, without a syscall"
			p.host.k.logger.Warn("native plugin without a sandbox: it can do what this user can, past the gate", "plugin", p.name)
		}
	}
	return p.host.k.recordSync(ctx, r)
}

func (p *plugin) capabilityRecord(r *running) *audit.Record {
	grant, _ := json.Marshal(r.art.cfg.Capabilities.Grant()) // of strings alone: cannot fail
	score, level := r.art.trust(p.host.k.clock())
	return &audit.Record{
		Kind: audit.KindCapability, Plugin: p.name, Subject: r.subject.Identity.ID, Container: r.subject.Container.ID(),
		Digest: r.art.digest, Score: score, Level: level.String(), Policy: p.host.k.gate.GetPolicyGraph().Digest(),
		Details: map[string]string{"grant": string(grant), "ceiling": r.art.cfg.TrustLevel.String()},
	}
}

// trust is the artifact's trust score and effective level.
func (a *artifact) trust(now time.Time) (float64, capability.TrustLevel) {
	return zta.Trust(a.identity.TrustVector, a.dna.Integrity(now), a.cfg.TrustLevel)
}

func (p *plugin) describe() Plugin {
	p.mu.Lock()
	a, r, st, calls := p.art, p.run, p.status, p.calls
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
		if n, ok := u.(*nativeUnit); ok {
			d.PID = n.plugin.PID()
		}
	}
	return d
}
