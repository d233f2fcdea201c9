package diff

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"forgeone.dev/forgeone/engines"
)

// Captures counts what came of capturing instances.
type Captures struct {
	Modules  int
	Captured int // instances
	Refused  int // because what they have cannot be captured
	Restored int // instances, to what was captured
	Spoiled  int // instances that could not be: what they have has changed
}

// CheckSnapshots runs the module of a seed on an engine that has snapshots. An
// instance is captured between two calls; what is made from the snapshot must
// do the same as the one that was captured, and again when it is restored. Both
// must do the same as one that was compiled without snapshots. takes is as in
// [Subject].
func CheckSnapshots(ctx context.Context, e engines.WasmEngine, takes func(*Module) bool, seed uint64, tally *Captures) error {
	r := rand.New(rand.NewPCG(seed, 3))
	m := generate(r, r.IntN(8) == 0, r.IntN(3) == 0, nil)
	if takes != nil && !takes(m) {
		return nil
	}
	c := &capture{m: m, engine: e, tally: tally, opts: pick(&generator{r: r}, modes(m, r)).CompileOptions}
	g := &generator{r: r}
	for i, f := range m.Funcs {
		if f.Export {
			for range callsPerExport {
				c.calls = append(c.calls, g.callOf(m, i))
			}
		}
	}
	r.Shuffle(len(c.calls), func(i, j int) { c.calls[i], c.calls[j] = c.calls[j], c.calls[i] })
	tally.Modules++
	if err := c.check(ctx, r.IntN(len(c.calls)+1)); err != nil {
		return fmt.Errorf("seed %d, %+v: %w\n%s\n%x", seed, c.opts, err, m, m.Bytes())
	}
	return nil
}

// exportCall is a call of an export.
type exportCall struct {
	export string
	typ    engines.FuncType
	args   []uint64
}

// callOf makes a call of a function of m, which is exported.
func (g *generator) callOf(m *Module, fn int) exportCall {
	c := exportCall{fmt.Sprint("f", len(m.Imports)+fn), m.Types[m.Funcs[fn].Type], nil}
	for _, param := range c.typ.Params {
		c.args = append(c.args, g.bits(param))
	}
	return c
}

// capture is a module, and what is called of it.
type capture struct {
	m      *Module
	engine engines.WasmEngine
	opts   engines.CompileOptions
	calls  []exportCall
	tally  *Captures
}

// check captures after the first calls, at most before.
func (c *capture) check(ctx context.Context, before int) error {
	plain, err := c.engine.Compile(ctx, c.m.Bytes(), c.opts)
	if err != nil {
		return err
	}
	defer plain.Close()
	opts := c.opts
	opts.Snapshots = true
	mod, err := c.engine.Compile(ctx, c.m.Bytes(), opts)
	if err != nil {
		return err
	}
	defer mod.Close()
	wants, wanted := c.start(ctx, plain.Instantiate)
	defer wants.release()
	w, got := c.start(ctx, mod.Instantiate)
	defer w.release()
	if wanted != got {
		return differ("compiled for snapshots", got, wanted)
	}
	if len(w.parts) == 0 {
		return nil // there is no instance
	}
	for i, call := range c.calls[:before] {
		want, got := c.call(ctx, wants, call), c.call(ctx, w, call)
		if want != got {
			return differ("compiled for snapshots", got, want)
		}
		if !got.ok { // this instance is lost: begin again, and stop before
			if _, err := c.snapshot(mod, w); !isRefusal(err) {
				return fmt.Errorf("capturing an instance whose last call did not return: %v", err)
			}
			return c.check(ctx, i)
		}
	}
	snap, err := c.snapshot(mod, w)
	if isRefusal(err) {
		c.tally.Refused++
		return nil
	} else if err != nil {
		return err
	}
	defer snap.Close()
	c.tally.Captured++
	now := c.state(w)
	var after []step
	for _, call := range c.calls[before:] {
		after = append(after, c.call(ctx, w, call))
	}
	for i, want := range after {
		if got := c.call(ctx, wants, c.calls[before+i]); got != want {
			return differ("after it was captured", want, got)
		}
	}
	for range 2 {
		if err := c.again(ctx, snap, now, c.calls[before:], after); err != nil {
			return err
		}
	}
	return nil
}

// again makes an instance from a snapshot, and restores it as long as it can be.
func (c *capture) again(ctx context.Context, snap engines.Snapshot, now step, calls []exportCall, wanted []step) error {
	w, _ := c.start(ctx, snap.Instantiate)
	defer w.release()
	if len(w.parts) == 0 {
		return errors.New("no instance can be made from the snapshot")
	}
	for range 3 {
		if got := c.state(w); got != now {
			return differ("from the snapshot", got, now)
		}
		for i, call := range calls {
			if got := c.call(ctx, w, call); got != wanted[i] {
				return differ("from the snapshot", got, wanted[i])
			}
		}
		if !snap.Restore(w.parts[0].inst) {
			c.tally.Spoiled++
			return nil
		}
		c.tally.Restored++
	}
	return nil
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*engines.SnapshotError](err)
	return ok
}

func differ(what string, got, want step) error {
	return fmt.Errorf("an instance %s does\n%s, and one that is not\n%s", what, got, want)
}

func (c *capture) snapshot(mod engines.Module, w *world) (engines.Snapshot, error) {
	return mod.(engines.Snapshotter).Snapshot(w.parts[0].inst)
}

// start makes an instance, in a world of its own. There is none if that traps.
func (c *capture) start(ctx context.Context, instantiate func(context.Context, engines.Imports) (engines.Instance, error)) (*world, step) {
	w := new(world)
	inst, err := instantiate(ctx, engines.Imports{Host: map[string]*engines.HostModule{host: w.functions(c.m)}})
	if err != nil {
		return w, step{seen: fmt.Sprintf("instantiate: %s, %s", outcome(err), w.trace.String())}
	}
	w.parts = append(w.parts, &part{m: c.m, inst: inst})
	return w, w.step(w.parts[0], "instantiate", nil, nil, nil)
}

// release closes the instances, and not their modules.
func (w *world) release() {
	for _, p := range w.parts {
		_ = p.inst.Close()
	}
}

// state is what can be seen between two calls.
func (c *capture) state(w *world) step {
	w.trace.Reset()
	s := w.step(w.parts[0], "state", nil, nil, nil)
	s.fuel = 0
	return s
}

func (c *capture) call(ctx context.Context, w *world, call exportCall) step {
	stack := make([]uint64, call.typ.Slots())
	copy(stack, call.args)
	return w.call(ctx, w.parts[0], call.export, call.typ, stack)
}
