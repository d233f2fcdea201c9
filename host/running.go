package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/native"
	"forgeone.dev/forgeone/quarantine"
	"forgeone.dev/forgeone/zta"
)

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
	process *wasi.Process // of the one instance that serves all calls; nil where each has its own
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
	if a.cfg.State == StateKeep {
		r.process = wasi.NewProcess(a.process)
	}
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

// within makes a call of the lifecycle and puts it on record.
func (r *running) within(ctx context.Context, function string, f func(*abi.Call) error) error {
	call, err := r.plugin.host.k.gate.Begin(r.serving(ctx), r.subject, "forge_"+function, nil)
	if err != nil {
		return err
	}
	return call.End(nil, r.explain(ctx, call, f(call)))
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

// explain turns how a guest ended into the error a caller is to see, and puts
// abnormal ends on the plugin's DNA. What the caller's own ctx ended, and what
// ended before the guest was reached, is not the plugin's doing.
func (r *running) explain(ctx context.Context, call *abi.Call, err error) error {
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
		var early *unreachedError
		if !over(ctx) && !errors.As(err, &early) {
			gate.Report(r.subject, zta.LimitExceeded, lim.Error())
		}
		return lim
	}
	if errors.As(err, &trap) && trap.Class != engines.TrapInterrupted && !call.Unrecorded() {
		gate.Report(r.subject, zta.Trap, err.Error())
	}
	return err
}

// over reports whether ctx has ended. A guest may find a deadline passed before
// the context does.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
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
