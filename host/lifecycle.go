package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/zta"
)

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

func (p *plugin) illegal(verb string, st PluginStatus, remedy string) error {
	return &TransitionError{Plugin: p.name, Verb: verb, Status: st, Remedy: remedy}
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
