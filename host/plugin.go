package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
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
	pool     Pool // pristine WASM only
	loaded   time.Time
	lives    sync.WaitGroup // containers that run it
}

// unit is a plugin that is up, of either kind. Its calls may run at the same
// time.
type unit interface {
	call(c *abi.Call, function string, input []byte) ([]byte, error)
	event(c *abi.Call, name forge.Event) error
	functions() []string
	stop(ctx context.Context) error // gracefully, then at once
	kill() error                    // at once
	exited() <-chan struct{}        // closed when it ended by itself; nil if it cannot
}

// running is one life of a plugin: a container with what runs in it.
type running struct {
	plugin  *plugin
	art     *artifact
	subject *abi.Subject
	slots   semaphore
	calls   sync.WaitGroup        // functions, not lifecycle events
	ended   chan struct{}         // closed by end
	up      atomic.Value          // a unit, from when the artifact was started
	sick    atomic.Pointer[error] // the health check that failed, for which it was killed
}

// unit is what runs, or nil before it was started.
func (r *running) unit() unit {
	u, _ := r.up.Load().(unit)
	return u
}

// Hold implements quarantine.Container. The reason is the case's.
func (r *running) Hold(string) {
	r.plugin.mu.Lock()
	defer r.plugin.mu.Unlock()
	r.settle()
}

// Quarantine implements quarantine.Container.
func (r *running) Quarantine(reason string) {
	r.subject.Container.Quarantine("plugin " + r.plugin.name + ", " + reason)
	if r.plugin.take(r, PluginStatus{Phase: PluginStopped}) {
		go r.plugin.over(r, reason) // it waits for the call that led to this
	}
}

// Drain implements quarantine.Container.
func (r *running) Drain(ctx context.Context) error {
	var err error
	if u := r.unit(); u != nil {
		err = u.kill()
	}
	return errors.Join(err, r.subject.Container.Drain(ctx))
}

// settle holds the container as long as the plugin is paused or its artifact
// frozen. It is called with the plugin's mu held, when either has changed.
func (r *running) settle() {
	p, c := r.plugin, r.subject.Container
	switch k, held := p.host.k.cases.Held(r.art.digest); {
	case held:
		c.Hold(fmt.Sprintf("plugin %s is frozen for review by case %s: %s", p.name, k.ID, k.Reason))
	case p.own.Phase == PluginPaused && p.run == r:
		c.Hold("plugin " + p.name + " is paused; resume it")
	default:
		c.Release()
	}
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
		if a.slots == 0 {
			a.slots = 64
		}
		return a, nil
	}
	e, err := h.k.engine(cfg.Engine)
	if err != nil {
		return fail(err)
	}
	if a.code, err = h.k.compile(ctx, e, b, cfg.Limits, engines.CompileOptions{Interruptible: true, Snapshots: cfg.State != StateKeep}); err != nil {
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
	a.pool = cfg.Pool.of(a.slots)
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

// close frees the code once nothing runs it.
func (a *artifact) close() error {
	if a.code == nil {
		return nil
	}
	a.lives.Wait()
	return a.code.module.Close()
}

// bringUp makes a container and starts the artifact in it, through its init
// event. On an error nothing is left. Who called it ends it, unless publish
// has taken it.
func (p *plugin) bringUp(ctx context.Context, a *artifact) (_ *running, err error) {
	h := p.host
	c := abi.NewContainer(uuid.NewString())
	r := &running{plugin: p, art: a, slots: newSemaphore(a.slots), ended: make(chan struct{}), subject: &abi.Subject{
		Plugin: p.name, Identity: a.identity, TrustLevel: a.cfg.TrustLevel, Capabilities: a.set, ExecutionDNA: a.dna, Container: c,
		CallHandles: a.cfg.State == StatePristine,
	}}
	a.lives.Add(1)
	h.running.Store(c.ID(), r)
	defer func() {
		if err != nil {
			if endErr := r.end(ctx, "it did not come up"); endErr != nil {
				h.k.logger.Warn("end of a plugin that did not come up", "plugin", p.name, "error", endErr)
			}
		}
	}()
	// Whoever opens a case from here on finds the container; who did before is found.
	if k, held := h.k.cases.Held(a.digest); held && k.Quarantines() {
		return nil, quarantined(k)
	}
	for _, m := range a.cfg.Mounts {
		root, err := os.OpenRoot(m.Host)
		if err != nil {
			return nil, fmt.Errorf("mount %q: %w", m.Guest, err)
		}
		r.subject.Mounts = append(r.subject.Mounts, abi.Mount{Guest: m.Guest, Root: root, ReadOnly: m.ReadOnly})
	}
	if err := h.k.record(p.capabilityRecord(r)); err != nil {
		return nil, err
	}
	return r, r.within(ctx, "init", func(call *abi.Call) (err error) {
		var u unit
		if a.code == nil {
			u, err = startNative(call, r, h.k.logger) // which has a time limit of its own
		}
		defer r.limit(call)()
		if a.code != nil {
			u, err = startWasm(call, r)
		}
		if err != nil {
			return err
		}
		r.up.Store(u)
		return u.event(call, forge.Init)
	})
}

func quarantined(k quarantine.Case) error {
	return fmt.Errorf("%w by case %s: %s; release it with quarantine release %s", ErrQuarantined, k.ID, k.Reason, k.ID)
}

// launch brings an artifact up and through its start event.
func (p *plugin) launch(ctx context.Context, a *artifact) (*running, error) {
	r, err := p.bringUp(ctx, a)
	if err != nil {
		return nil, err
	}
	if err := r.event(ctx, forge.Begin); err != nil {
		return nil, errors.Join(err, r.end(ctx, "it did not start"))
	}
	return r, nil
}

// publish makes r what the plugin runs, and returns what it ran before. It
// fails if r was isolated meanwhile, and r is then ended.
func (p *plugin) publish(ctx context.Context, r *running, phase PluginPhase) (*artifact, *running, error) {
	p.mu.Lock()
	if r.subject.Container.Dead() {
		p.mu.Unlock()
		return nil, nil, errors.Join(r.subject.Container.Live(), r.end(ctx, "it was isolated as it came up"))
	}
	defer p.mu.Unlock()
	oldArt, oldRun := p.art, p.run
	p.art, p.run, p.own = r.art, r, PluginStatus{Phase: phase}
	r.settle()
	if gone := r.unit().exited(); gone != nil {
		p.host.bg.Add(1)
		go p.watch(r, gone)
	}
	return oldArt, oldRun, nil
}

// watch asks a process for its health until it ends, by itself or not. One that
// has not answered by the next question is killed: it serves nobody.
func (p *plugin) watch(r *running, gone <-chan struct{}) {
	defer p.host.bg.Done()
	every := p.host.k.health
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-gone:
			p.crashed(r)
			return
		case <-r.ended:
			return
		case <-tick.C:
		}
		n, ok := r.unit().(*nativeUnit)
		if !ok {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), every)
		err := n.plugin.Health(ctx)
		cancel()
		if err != nil {
			r.sick.CompareAndSwap(nil, &err)
			_ = n.kill() // its end is what counts, and is waited for above
		}
	}
}

// within makes a call of the lifecycle and puts it on record.
func (r *running) within(ctx context.Context, function string, f func(*abi.Call) error) error {
	call, err := r.plugin.host.k.gate.Begin(ctx, r.subject, "forge_"+function, nil)
	if err != nil {
		return err
	}
	return call.End(nil, r.explain(call, f(call)))
}

func (r *running) event(ctx context.Context, name forge.Event) error {
	return r.within(ctx, string(name), func(call *abi.Call) error {
		defer r.limit(call)()
		return r.unit().event(call, name)
	})
}

// limit gives a call its time.
func (r *running) limit(call *abi.Call) (done func()) {
	if r.art.timeout == 0 {
		return func() {}
	}
	return call.Limit(r.art.timeout)
}

// end stops the unit and lets go of everything; calls must have been drained.
func (r *running) end(ctx context.Context, reason string) error {
	r.subject.Container.Close(reason)
	close(r.ended)
	var errs []error
	if u := r.unit(); u != nil {
		errs = append(errs, u.stop(ctx))
	}
	for _, m := range r.subject.Mounts {
		errs = append(errs, m.Root.Close())
	}
	r.plugin.host.running.Delete(r.subject.Container.ID())
	r.art.lives.Done()
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
	if err := r.unit().kill(); err != nil {
		r.plugin.host.k.logger.Warn("kill", "plugin", r.plugin.name, "error", err)
	}
	<-done
}

func (p *plugin) start(ctx context.Context, v *verb) error {
	switch st := p.status(); st.Phase {
	case PluginStopped, PluginFailed:
	case PluginQuarantined:
		k, _ := p.host.k.cases.Get(st.Case)
		return quarantined(k)
	default:
		return p.illegal("start", st, "it is started when it is stopped or failed")
	}
	if err := v.begin(ctx, p.event("start")); err != nil {
		return err
	}
	r, err := p.launch(ctx, p.art)
	if err == nil {
		err = v.commit(p, r)
	}
	if err == nil {
		_, _, err = p.publish(ctx, r, PluginActive)
	}
	if err != nil {
		p.set(func() { p.own = PluginStatus{Phase: PluginFailed, Reason: err.Error()} })
	}
	return err
}

func (p *plugin) pause(ctx context.Context, v *verb) error {
	st, r := p.now()
	if st.Phase != PluginActive {
		return p.illegal("pause", st, "it is paused when it is active")
	}
	if err := v.begin(ctx, p.event("pause")); err != nil {
		return err
	}
	if err := r.event(ctx, forge.Pause); err != nil {
		return err
	}
	return p.become(v, r, PluginPaused)
}

func (p *plugin) resume(ctx context.Context, v *verb) error {
	st, r := p.now()
	switch {
	case st.Phase != PluginPaused:
		return p.illegal("resume", st, "it is resumed when it is paused")
	case st.Case != "":
		return p.illegal("resume", st, "it is frozen for review: quarantine release "+st.Case+" lifts that")
	}
	if err := v.begin(ctx, p.event("resume")); err != nil {
		return err
	}
	p.set(func() {
		if _, held := p.host.k.cases.Held(r.art.digest); !held {
			r.subject.Container.Release() // its resume event is its own to run; other calls the plugin refuses
		}
	})
	defer p.set(r.settle)
	if err := r.event(ctx, forge.Resume); err != nil {
		return err
	}
	return p.become(v, r, PluginActive)
}

// become changes the phase of a plugin that runs r, once that is on record.
func (p *plugin) become(v *verb, r *running, phase PluginPhase) error {
	if err := v.outcome(p.event(v.name), nil); err != nil {
		return notDone(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != r {
		return fmt.Errorf("it ended meanwhile: it is %s", p.statusLocked())
	}
	p.own = PluginStatus{Phase: phase}
	r.settle()
	return nil
}

func (p *plugin) stop(ctx context.Context, v *verb) error {
	if st := p.status(); st.Phase != PluginActive && st.Phase != PluginPaused {
		return p.illegal("stop", st, "it is stopped when it is active or paused")
	}
	if err := v.begin(ctx, p.event("stop")); err != nil {
		return err
	}
	return p.down(ctx, PluginStopped)
}

// down takes the plugin down, if it is up, and leaves it in a phase.
func (p *plugin) down(ctx context.Context, phase PluginPhase) error {
	p.mu.Lock()
	r := p.run
	p.run, p.own = nil, PluginStatus{Phase: phase}
	p.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.retire(ctx, "plugin "+p.name+" was stopped")
}

// retire ends a running plugin that no new call reaches: after its calls in
// flight, and its stop event unless it is isolated.
func (r *running) retire(ctx context.Context, reason string) error {
	r.drain(ctx)
	r.plugin.set(r.settle) // a pause is over: the stop event is the plugin's own to run
	var err error
	if r.subject.Container.Live() == nil {
		err = r.event(ctx, forge.Stop)
	}
	return errors.Join(err, r.end(ctx, reason))
}

func (p *plugin) unload(ctx context.Context, v *verb) error {
	st := p.status()
	switch st.Phase {
	case PluginStopped, PluginFailed, PluginQuarantined:
	default:
		return p.illegal("unload", st, "stop it first")
	}
	if err := v.begin(ctx, p.event("unload")); err != nil {
		return err
	}
	var err error
	if _, held := p.host.k.cases.Held(p.art.digest); st.Phase == PluginStopped && !held && p.art.hasUnload() {
		err = p.unloadEvent(ctx)
	}
	p.host.forget(p)
	return errors.Join(err, p.down(ctx, PluginUnloaded), p.art.close())
}

// hasUnload reports whether there is an unload event to run: a native plugin
// has ended with its process.
func (a *artifact) hasUnload() bool { return a.code != nil && a.code.exports(forge.Unload) }

// unloadEvent runs the unload export, for its effects, in a life of its own.
func (p *plugin) unloadEvent(ctx context.Context) error {
	r, err := p.bringUp(ctx, p.art)
	if err != nil {
		return fmt.Errorf("unload event: %w", err)
	}
	return errors.Join(r.event(ctx, forge.Unload), r.end(ctx, "plugin "+p.name+" was unloaded"))
}

func (p *plugin) reload(ctx context.Context, v *verb, cfg *PluginConfig) error {
	st := p.status()
	switch {
	case st.Phase == PluginActive, st.Phase == PluginStopped, st.Phase == PluginFailed, st.Phase == PluginPaused && st.Case == "":
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
	if err := p.replace(ctx, v, st, next); err != nil {
		return fmt.Errorf("%w; the plugin goes on as it was", err)
	}
	return nil
}

// replace puts a new artifact, which runs if the old one does, in the place of
// the old one. On an error the old one is where it was.
func (p *plugin) replace(ctx context.Context, v *verb, st PluginStatus, cfg PluginConfig) (err error) {
	a, err := p.host.prepare(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = a.close()
		}
	}()
	if err := v.begin(ctx, p.loadRecord("reload", a)); err != nil {
		return err
	}
	var oldArt *artifact
	var oldRun *running
	if st.Phase == PluginActive || st.Phase == PluginPaused {
		r, err := p.launch(ctx, a)
		if err != nil {
			return err
		}
		if err := v.commit(p, r); err != nil {
			return err
		}
		if oldArt, oldRun, err = p.publish(ctx, r, st.Phase); err != nil {
			return err
		}
	} else {
		p.set(func() { oldArt, p.art, p.own = p.art, a, PluginStatus{Phase: PluginStopped} })
	}
	// From here on the new one is in place; how the old one ends does not change that.
	var left error
	if oldRun != nil {
		left = oldRun.retire(ctx, "plugin "+p.name+" was reloaded")
	}
	if left = errors.Join(left, oldArt.close()); left != nil {
		p.host.k.logger.Warn("end of a plugin that was replaced", "plugin", p.name, "error", left)
	}
	return nil
}

// shutdown ends the plugin with its host.
func (p *plugin) shutdown(ctx context.Context) error {
	v := &verb{k: p.host.k, name: "stop"}
	if st := p.status(); st.Phase == PluginActive || st.Phase == PluginPaused {
		_ = v.begin(ctx, p.event("stop")) // the host ends whether or not that can be recorded
	}
	err := p.down(ctx, PluginUnloaded)
	if p.art != nil {
		err = errors.Join(err, p.art.close())
	}
	if v.begun {
		err = v.end(p, err)
	}
	return err
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
	call, err := p.host.k.gate.Begin(ctx, r.subject, function, input)
	if err != nil {
		return nil, err
	}
	defer r.limit(call)()
	out, err := r.unit().call(call, function, input)
	if err = call.End(out, r.explain(call, err)); err != nil {
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

// explain turns how a guest ended into the error a caller is to see, and puts
// abnormal ends on the plugin's DNA.
func (r *running) explain(call *abi.Call, err error) error {
	if err == nil {
		return nil
	}
	if d := denial(call, err); d != nil {
		return d
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
	if errors.As(err, &trap) && trap.Class != engines.TrapInterrupted && !call.Unrecorded() {
		gate.Report(r.subject, zta.Trap, err.Error())
	}
	return err
}

// denial is the refusal that ended a call, or nil.
func denial(call *abi.Call, err error) error {
	var d *abi.DeniedError
	if errors.As(context.Cause(call.Context()), &d) || (errors.As(err, &d) && d.Status == abi.Quarantined) {
		return d
	}
	return nil
}

// limitError is a *[LimitError] where a limit ended the call, else err.
func limitError(plugin string, err error) error {
	var size *forge.LimitError
	var trap *engines.Trap
	switch {
	case errors.As(err, &trap) && trap.Class == engines.TrapFuel:
		return &LimitError{Plugin: plugin, Limit: "fuel", Err: err}
	case errors.As(err, &size):
		return &LimitError{Plugin: plugin, Limit: size.What, Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &LimitError{Plugin: plugin, Limit: "timeout", Err: err}
	}
	return err
}

// take takes r out of the plugin, and reports whether it was there: whoever
// took it ends it.
func (p *plugin) take(r *running, own PluginStatus) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != r {
		return false
	}
	p.run, p.own = nil, own
	p.host.bg.Add(1) // of which Close waits, after it took what was left
	return true
}

// over ends what was taken, once its calls have ended.
func (p *plugin) over(r *running, reason string) {
	defer p.host.bg.Done()
	r.calls.Wait()
	if err := r.end(context.Background(), reason); err != nil {
		p.host.k.logger.Warn("end of a plugin", "plugin", p.name, "error", err)
	}
}

// crashed follows a native process that ended by itself. Its calls in flight
// end with an error that says so.
func (p *plugin) crashed(r *running) {
	reason := "its process ended by itself"
	if n, ok := r.unit().(*nativeUnit); ok && n.exitError() != nil {
		reason = n.exitError().Error()
	}
	if err := r.sick.Load(); err != nil {
		reason = "it was killed for its health: " + (*err).Error()
	}
	rec := p.event("crash")
	if !p.take(r, PluginStatus{Phase: PluginFailed, Reason: reason}) {
		return
	}
	rec.Outcome, rec.Error = audit.OutcomeFailed, audit.Clip(reason)
	_ = p.host.k.record(rec) // it has failed whether or not that can be recorded
	p.host.k.logger.Error("plugin failed", "plugin", p.name, "reason", reason)
	p.host.k.gate.Report(r.subject, zta.Trap, reason)
	p.over(r, "plugin "+p.name+" failed: "+reason)
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

func (p *plugin) illegal(verb string, st PluginStatus, remedy string) error {
	return &TransitionError{Plugin: p.name, Verb: verb, Status: st, Remedy: remedy}
}

// event is a record of a lifecycle verb.
func (p *plugin) event(verb string) *audit.Record {
	r := &audit.Record{Kind: audit.KindPlugin, Plugin: p.name, Details: map[string]string{"verb": verb}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.art != nil {
		r.Subject, r.Digest = p.art.identity.ID, p.art.digest
	}
	if p.run != nil {
		r.Container = p.run.subject.Container.ID()
	}
	return r
}

// verb is a lifecycle verb on its way: its intent goes on record, and on disk,
// before anything is done, and its outcome after, or before what was done
// begins to serve.
type verb struct {
	k      *kernel
	name   string
	intent uint64
	begun  bool
	over   bool // its outcome is on record
}

// begin records the intent.
func (v *verb) begin(ctx context.Context, r *audit.Record) (err error) {
	r.Phase = audit.PhaseIntent
	if v.intent, err = v.k.log.Append(r); err == nil {
		v.begun = true
		err = v.k.log.Sync(ctx, v.intent)
	}
	return notDone(err)
}

// commit records that r is to serve; if that fails, r is ended.
func (v *verb) commit(p *plugin, r *running) error {
	rec := p.event(v.name)
	rec.Digest, rec.Container = r.art.digest, r.subject.Container.ID()
	if err := v.outcome(rec, nil); err != nil {
		return errors.Join(notDone(err), r.end(context.Background(), "its start is not on record"))
	}
	return nil
}

// end records the outcome, and is it.
func (v *verb) end(p *plugin, err error) error {
	if v.over && err == nil {
		return nil
	}
	recErr := v.outcome(p.event(v.name), err)
	switch {
	case err != nil:
		return err // on record or not, that is how it ended
	case recErr != nil:
		return fmt.Errorf("done, but that cannot be recorded: %w", recErr)
	}
	return nil
}

func (v *verb) outcome(r *audit.Record, err error) error {
	r.Outcome = audit.OutcomeOK
	if v.begun && !v.over {
		r.Phase, r.Intent = audit.PhaseOutcome, audit.Closes(v.intent)
	}
	if err != nil {
		r.Outcome, r.Error = audit.OutcomeFailed, audit.Clip(err.Error())
	}
	_, recErr := v.k.log.Append(r)
	v.over = v.over || recErr == nil
	return recErr
}

// loadRecord is the record of an artifact that is loaded into the plugin.
func (p *plugin) loadRecord(verb string, a *artifact) *audit.Record {
	r := &audit.Record{
		Kind: audit.KindPlugin, Plugin: p.name, Subject: a.identity.ID, Digest: a.digest, Level: a.cfg.TrustLevel.String(),
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
	return r
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
