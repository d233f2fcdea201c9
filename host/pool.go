package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
)

// pool has the instances of one life of a pristine plugin. Each call gets one
// as initialisation left it: made from the image of such an instance, or used
// before and put back to how it began. Where there can be no image, an instance
// is started anew for each call.
//
// An image serves the trust level that it was made at, and no other: what an
// initialisation could learn at one level is not for a call at another.
type pool struct {
	run    *running
	code   *code
	limits Pool
	memory *budget // of idle instances, shared by the plugins of the host

	serving sync.WaitGroup // uses of with; Add under mu, while not closed
	tended  sync.WaitGroup // the goroutine of tend
	wake    chan struct{}  // see prepare; holds one
	done    chan struct{}  // closed by stop

	making   semaphore // held by who makes an image, whose is reported
	reported string    // why there was no image, as it was logged

	mu     sync.Mutex // guards what follows, and what images say; never held across a guest or a mapping
	closed bool
	image  *image // nil before the first, and when its trust level is over
}

// image is what instances begin as.
type image struct {
	level    capability.TrustLevel
	snapshot engines.Snapshot // nil where there can be none
	process  *wasi.Process    // the state of WASI that goes with it; nil if the plugin has none
	reason   string           // why there is no snapshot

	idle  []idle // the longest idle first; guarded by the pool's mu
	users int    // who entered and has not left; guarded by the pool's mu
}

type idle struct {
	*instance
	since time.Time
}

// PoolStatus says where the instances of a pristine WASM plugin come from.
type PoolStatus struct {
	Reason string // why each is started anew; empty if they begin as an image
	Image  uint64 // bytes of memory of the image
	Idle   int    // instances that wait for a call, each with as much memory
}

// newPool brings a plugin up, within a call of its lifecycle.
func newPool(call *abi.Call, r *running) (*pool, error) {
	p := &pool{
		run: r, code: r.art.code, limits: r.art.pool, memory: &r.plugin.host.k.idle,
		making: newSemaphore(1), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	img, err := p.enter(call)
	if err != nil {
		return nil, err
	}
	p.leave(img)
	if p.code.snapshots && p.limits.MaxIdle > 0 {
		p.tended.Go(p.tend)
	}
	return p, nil
}

// with implements instances.
func (p *pool) with(call *abi.Call, f func(engines.Instance) error) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	p.serving.Add(1)
	p.mu.Unlock()
	defer p.serving.Done()

	img, inst, err := p.acquire(call)
	if err != nil {
		return err
	}
	defer p.leave(img)
	again := false
	defer func() {
		if !again || !p.put(img, inst) {
			_ = inst.Close()
		}
	}()
	err = f(inst)
	again = sound(err) && call.Context().Err() == nil
	return err
}

// sound reports whether a guest returned of its own accord, and so may be put
// back to how it began. What is in doubt is not.
func sound(err error) bool {
	if err == nil {
		return true
	}
	if trapped(err) {
		return false
	}
	var failed *forge.FunctionError
	var none *forge.ABIError
	var large *forge.LimitError
	return errors.As(err, &failed) || errors.As(err, &none) || errors.As(err, &large)
}

// acquire is an instance for a call, and the image that it is of, entered. An
// image can be lost before its time, with the process that an engine runs in:
// another is then made.
func (p *pool) acquire(call *abi.Call) (*image, *instance, error) {
	for again := true; ; again = false {
		img, err := p.enter(call)
		if err != nil {
			return nil, nil, err
		}
		inst, err := p.take(call, img)
		if err == nil {
			return img, inst, nil
		}
		lost := errors.Is(err, engines.ErrClosed)
		if lost {
			p.retire(img)
		}
		p.leave(img)
		if !lost || !again {
			return nil, nil, err
		}
	}
}

// take is an instance for a call: one that waits, or a new one.
func (p *pool) take(call *abi.Call, img *image) (*instance, error) {
	if img.snapshot == nil {
		return p.code.instantiate(call)
	}
	inst := p.pop(img)
	for inst != nil && !p.code.alive(inst) {
		_ = inst.Close()
		inst = p.pop(img)
	}
	if inst == nil {
		made, err := img.snapshot.Instantiate(call.Context(), p.code.imports)
		if err != nil {
			return nil, &unreachedError{fmt.Errorf("an instance of the plugin's image: %w", err)} // which runs nothing of the guest
		}
		inst = remembering(made)
	}
	if img.process != nil {
		wasi.ProcessFrom(call.Context()).Become(img.process)
	}
	if err := p.code.reseed(call, inst); err != nil {
		return nil, errors.Join(err, inst.Close())
	}
	return inst, nil
}

// put makes an instance wait for the next call, as new; false if it must not.
func (p *pool) put(img *image, inst *instance) bool {
	return img.snapshot != nil && p.limits.MaxIdle > 0 &&
		p.run.subject.Container.Live() == nil && p.level() == img.level &&
		img.snapshot.Restore(inst.Instance) && p.push(img, inst)
}

// push adds an instance that is as new to those that wait, if there is room.
func (p *pool) push(img *image, inst *instance) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.image != img || len(img.idle) >= p.limits.MaxIdle || !p.memory.take(img.size()) {
		return false
	}
	img.idle = append(img.idle, idle{inst, time.Now()})
	return true
}

// pop is the instance that has waited least, nil if none waits: the others get
// to their time.
func (p *pool) pop(img *image) *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(img.idle) == 0 {
		return nil
	}
	last := len(img.idle) - 1
	inst := img.idle[last].instance
	img.idle[last] = idle{}
	img.idle = img.idle[:last]
	p.memory.give(img.size())
	return inst
}

// level is the plugin's trust level now.
func (p *pool) level() capability.TrustLevel {
	_, level := p.run.art.trust(p.run.plugin.host.k.clock())
	return level
}

// enter is the image for a call, made within it if there is none of the
// plugin's trust level. Who enters must leave.
func (p *pool) enter(call *abi.Call) (*image, error) {
	if img := p.current(); img != nil {
		return img, nil
	}
	if err := p.making.acquire(call.Context()); err != nil {
		return nil, &unreachedError{fmt.Errorf("waiting for the plugin's initialisation: %w", err)}
	}
	defer p.making.release()
	if img := p.current(); img != nil {
		return img, nil // made meanwhile
	}
	img, err := p.initialise(call)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.image = img
	img.users++
	p.mu.Unlock()
	p.prepare()
	return img, nil
}

// current is the image of the plugin's trust level, entered; nil if there is
// none. One of another level is retired.
func (p *pool) current() *image {
	level := p.level()
	p.mu.Lock()
	img := p.image
	if img != nil && img.level == level {
		img.users++
		p.mu.Unlock()
		return img
	}
	p.mu.Unlock()
	p.retire(img)
	return nil
}

// leave lets go of an image, when its instance may have to be replaced.
func (p *pool) leave(img *image) {
	p.drop(img)
	p.prepare()
}

// drop lets go of an image. The last to do so with one that was retired frees it.
func (p *pool) drop(img *image) {
	p.mu.Lock()
	img.users--
	free := img.users == 0 && p.image != img
	p.mu.Unlock()
	if free {
		p.free(img)
	}
}

// retire takes an image out of use, with the instances of it that wait.
func (p *pool) retire(img *image) {
	p.mu.Lock()
	if img == nil || p.image != img {
		p.mu.Unlock()
		return
	}
	p.image = nil
	waiting := img.idle
	img.idle = nil
	free := img.users == 0
	p.mu.Unlock()
	p.close(img, waiting)
	if free {
		p.free(img)
	}
}

// close closes instances that waited.
func (p *pool) close(img *image, waited []idle) {
	for _, i := range waited {
		p.memory.give(img.size())
		if err := i.Close(); err != nil {
			p.logger().Warn("end of an idle instance", "plugin", p.run.plugin.name, "error", err)
		}
	}
}

// free frees an image that no instance in use began as.
func (p *pool) free(img *image) {
	if img.snapshot == nil {
		return
	}
	if err := img.snapshot.Close(); err != nil {
		p.logger().Warn("end of an image", "plugin", p.run.plugin.name, "error", err)
	}
}

// initialise starts an instance within a call, and makes the image of it.
func (p *pool) initialise(call *abi.Call) (*image, error) {
	img := &image{level: p.level()} // before anything is learnt at it
	inst, err := p.code.instantiate(call)
	if err != nil {
		return nil, err
	}
	if err = p.capture(call, inst, img); err != nil {
		img.reason = err.Error()
		if img.reason != p.reported {
			p.reported = img.reason
			p.logger().Warn("each call of the plugin starts an instance anew", "plugin", p.run.plugin.name, "reason", img.reason)
		}
	}
	if err := inst.Close(); err != nil {
		p.free(img)
		return nil, err
	}
	return img, nil
}

// capture makes the image of a started instance. The error says why there can be
// none.
func (p *pool) capture(call *abi.Call, inst *instance, img *image) error {
	if !p.code.snapshots {
		return fmt.Errorf("engine %s cannot capture instances", p.code.engine.Info().Name)
	}
	if n := call.Handles(); n > 0 {
		return &engines.SnapshotError{Reason: fmt.Sprintf("its initialisation leaves %d handles open, which an image cannot hold; close them there", n)}
	}
	if p.code.abi == ABIExtism {
		return &engines.SnapshotError{Reason: "an Extism plugin is linked to its memory, which an image does not hold; leave out state = \"pristine\" to keep one instance"}
	}
	m, ok := p.code.module.(engines.Snapshotter)
	if !ok {
		return fmt.Errorf("engine %s compiled it to a module that cannot be captured", p.code.engine.Info().Name)
	}
	if process := wasi.ProcessFrom(call.Context()); process != nil {
		if img.process, ok = process.Capture(); !ok {
			return &engines.SnapshotError{Reason: "its initialisation leaves WASI descriptors or input open, which an image cannot hold; close them there"}
		}
	}
	var err error
	img.snapshot, err = m.Snapshot(inst.Instance)
	return err
}

// prepare tells tend that there may be instances to make ahead.
func (p *pool) prepare() {
	if p.limits.MinIdle == 0 {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// tend makes instances ahead, and closes those that have waited too long, until
// the pool is stopped.
func (p *pool) tend() {
	tick := time.NewTicker(max(p.limits.IdleTimeout/2, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-p.wake:
			p.makeAhead()
		case <-tick.C:
			p.expire(time.Now())
		}
	}
}

// makeAhead makes instances until the fewest wait that are to.
func (p *pool) makeAhead() {
	for {
		p.mu.Lock()
		img := p.image
		if p.closed || img == nil || img.snapshot == nil || len(img.idle) >= p.limits.MinIdle {
			p.mu.Unlock()
			return
		}
		img.users++
		p.mu.Unlock()
		made, err := img.snapshot.Instantiate(context.Background(), p.code.imports) // which runs nothing of the guest
		enough := err != nil
		if errors.Is(err, engines.ErrClosed) {
			p.retire(img) // it is lost; the next call makes another
		} else if err != nil {
			p.logger().Warn("an instance was not made ahead", "plugin", p.run.plugin.name, "error", err)
		} else if inst := remembering(made); !p.push(img, inst) {
			enough = true
			_ = inst.Close()
		}
		p.drop(img)
		if enough {
			return
		}
	}
}

// expire closes the instances that have waited their time.
func (p *pool) expire(now time.Time) {
	level := p.level()
	p.mu.Lock()
	img := p.image
	if img == nil {
		p.mu.Unlock()
		return
	}
	if img.level != level {
		p.mu.Unlock()
		p.retire(img)
		return
	}
	n := 0
	for len(img.idle)-n > p.limits.MinIdle && now.Sub(img.idle[n].since) >= p.limits.IdleTimeout {
		n++
	}
	expired := slices.Clone(img.idle[:n])
	img.idle = slices.Delete(img.idle, 0, n)
	p.mu.Unlock()
	p.close(img, expired)
}

// stop implements instances.
func (p *pool) stop() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	close(p.done)
	p.tended.Wait()
	p.serving.Wait()
	p.retire(p.image)
	return nil
}

func (p *pool) status() *PoolStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.image == nil {
		return &PoolStatus{Reason: "the trust level has changed, or the engine's process has ended, and there was no call since"}
	}
	return &PoolStatus{Reason: p.image.reason, Image: p.image.size(), Idle: len(p.image.idle)}
}

func (p *pool) logger() hclog.Logger { return p.run.plugin.host.k.logger }

// size is the memory of an instance that begins as the image, in bytes.
func (img *image) size() uint64 {
	if img.snapshot == nil {
		return 0
	}
	return img.snapshot.Size()
}

// budget is memory that is shared.
type budget struct{ left atomic.Int64 }

// take takes n bytes, or nothing and false if so many are not left.
func (b *budget) take(n uint64) bool {
	if b.left.Add(-int64(n)) >= 0 {
		return true
	}
	b.give(n)
	return false
}

func (b *budget) give(n uint64) { b.left.Add(int64(n)) }
