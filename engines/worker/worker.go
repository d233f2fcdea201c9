// Package worker runs a WebAssembly engine in child processes, behind the
// contract of package engines: what an engine does wrong, a worker suffers.
//
// [New] starts cmd/forgeone-engine, or any program that calls [Serve], through
// package child. Calls, host calls and memory go over unix sockets, one for each
// instance, made by the kernel and handed over as descriptors through a
// connection that the worker proved to be its own. Calls nest on a connection as
// they nest in the guest, so that whoever waits for an answer reads it himself:
// no goroutine stands in between.
//
// A worker that ends, hangs, breaks the protocol, outgrows what it serves or does
// not end a cancelled call is killed; what it held answers with a *[CrashError].
// Modules are kept as bytes and compiled anew where an instance of them is made
// next. An instance and a snapshot live and die with their worker.
//
// Each instance has a thread of the worker's own. Where instances are linked,
// what a host function calls of them, with the context that it was given, is run
// by the thread that waits for the host function: an engine may allow no other
// in (*[ReentryError]).
//
// What the engine promises to limit, by package meter, is limited where the
// guest runs. A worker that hostile code has taken over can break that promise;
// what holds then is what the kernel does from outside: the kill.
//
// A worker is not trusted. What it sends is bounded, and has no effect but to be
// the answer to what it was asked, or a call of a host function that the
// instance in question was linked to. Imports and exports are read by the
// kernel from the binary.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/engines"
)

// Defaults.
const (
	DefaultWorkers      = 1
	DefaultMaxAge       = time.Hour
	DefaultMaxCompiles  = 1000
	DefaultMaxInstances = 100_000
	DefaultMaxRSS       = 1 << 30  // bytes
	DefaultMaxModule    = 64 << 20 // bytes
	DefaultGrace        = 200 * time.Millisecond
	DefaultHealthEvery  = 5 * time.Second
	DefaultHangTimeout  = 10 * time.Second
)

// Config is which engine is run, and how. Zero values stand for the defaults.
type Config struct {
	Binary string            // path of a program that calls [Serve]
	SHA256 string            // of the binary, hexadecimal; required
	Engine string            // the name that the engine must give itself; "" for any
	Env    map[string]string // the whole environment of a worker, which inherits none

	// Args are its arguments, []string{"serve"} if nil.
	Args []string

	// MaxModuleBytes is how large a module may be. Its other limits are held by
	// the worker, before anything expensive is done with it.
	MaxModuleBytes int

	// Workers is how many run at a time; new instances go to the one that has
	// the fewest. Instances that are linked to each other share one.
	Workers int

	// A worker that reaches one of these takes no more instances, and ends with
	// its last one; another takes its place.
	MaxAge       time.Duration
	MaxCompiles  int // modules compiled
	MaxInstances int // instances made
	// MaxRSS is of resident memory, in bytes, which is not known on macOS. A
	// worker is killed that has more than twice the sum of that and of what its
	// instances may have had at one time.
	MaxRSS uint64

	// Grace is how long a guest may go on when its call was cancelled, before
	// its worker is killed. Time spent in host functions does not count.
	Grace time.Duration
	// HealthEvery is how often a worker is asked whether it serves; one that has
	// not answered after HangTimeout is killed.
	HealthEvery, HangTimeout time.Duration

	Logger hclog.Logger // takes what workers write; nil for none
}

func (c *Config) setDefaults() {
	c.Workers = cmp.Or(c.Workers, DefaultWorkers)
	c.MaxAge = cmp.Or(c.MaxAge, DefaultMaxAge)
	c.MaxCompiles = cmp.Or(c.MaxCompiles, DefaultMaxCompiles)
	c.MaxInstances = cmp.Or(c.MaxInstances, DefaultMaxInstances)
	c.MaxRSS = cmp.Or(c.MaxRSS, DefaultMaxRSS)
	c.MaxModuleBytes = cmp.Or(c.MaxModuleBytes, DefaultMaxModule)
	c.Grace = cmp.Or(c.Grace, DefaultGrace)
	c.HealthEvery = cmp.Or(c.HealthEvery, DefaultHealthEvery)
	c.HangTimeout = cmp.Or(c.HangTimeout, DefaultHangTimeout)
	if c.Args == nil {
		c.Args = []string{"serve"}
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
}

func (c *Config) check() error {
	if c.MaxModuleBytes < 0 || c.Workers < 0 || c.MaxAge < 0 || c.MaxCompiles < 0 || c.MaxInstances < 0 || c.Grace < 0 || c.HealthEvery < 0 || c.HangTimeout < 0 {
		return errors.New("worker: a limit is negative")
	}
	if c.MaxModuleBytes > maxRequest-headerSize-64 {
		return errors.New("worker: MaxModuleBytes is more than 1 GiB, which a request can hold")
	}
	return nil
}

// New starts a worker and returns the engine that it runs, which the caller
// closes. Its features are those that the engine has in process; but a call
// whose context is done ends on any, if need be with its worker.
//
// Beside the contract's errors, everything of the engine can return a
// *[CrashError]; a call that was cancelled and cost its worker's life is a
// *[engines.Trap] of class [engines.TrapInterrupted] that wraps one.
//
// Errors: *child.Error when the binary is not what was configured or does not
// serve; *[engines.UnsupportedError] on a system without workers.
func New(cfg Config) (engines.WasmEngine, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if reason := supported(); reason != "" {
		return nil, &engines.UnsupportedError{Engine: cfg.Engine, Feature: "isolation in a process of its own", Reason: reason}
	}
	cfg.setDefaults()
	e := &engine{cfg: cfg, modules: make(map[*module]struct{})}
	e.closing, e.close = context.WithCancel(context.Background())
	w, err := e.place(context.Background(), nil)
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	w.release()
	return e, nil
}

var _ engines.WasmEngine = (*engine)(nil)

type engine struct {
	cfg  Config
	info engines.Info // of the first worker; the others must give the same

	closing context.Context // ends when the engine closes
	close   context.CancelFunc
	tasks   sync.WaitGroup // Add under mu, while not closing

	mu       sync.Mutex           // guards what follows
	workers  []*worker            // those that take instances
	all      map[*worker]struct{} // those that have not ended
	starting *start               // of the next one, nil if none is under way
	modules  map[*module]struct{}
	lastID   uint32 // of modules, instances and bindings
}

// start is the start of a worker.
type start struct {
	done chan struct{} // closed when it is over
	err  error         // set before
}

// Info implements engines.WasmEngine.
func (e *engine) Info() engines.Info { return e.info }

// Close implements engines.WasmEngine. It waits for the workers' ends.
func (e *engine) Close() error {
	e.mu.Lock()
	e.close()
	all := slices.Collect(maps.Keys(e.all))
	clear(e.modules)
	e.mu.Unlock()
	for _, w := range all {
		w.kill("the engine was closed")
	}
	e.tasks.Wait()
	return nil
}

func (e *engine) closed() bool { return e.closing.Err() != nil }

// newID is a number for something that a worker is told of.
func (e *engine) newID() uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastID++
	return e.lastID
}

// place is the worker that the next instance goes to, counting one more user
// of it: pinned if that is not nil.
func (e *engine) place(ctx context.Context, pinned *worker) (*worker, error) {
	for {
		w, s, err := e.choose(pinned)
		if w != nil || err != nil {
			return w, err
		}
		select {
		case <-s.done:
			if s.err != nil {
				return nil, s.err
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a worker: %w", ctx.Err())
		}
	}
}

// choose is a worker, or the start to wait for.
func (e *engine) choose(pinned *worker) (*worker, *start, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed() {
		return nil, nil, engines.ErrClosed
	}
	if pinned != nil {
		if err := pinned.use(); err != nil {
			return nil, nil, err
		}
		return pinned, nil, nil
	}
	var best *worker
	for _, w := range e.workers {
		if w.dying() {
			continue
		}
		if best == nil || w.load() < best.load() {
			best = w
		}
	}
	if best == nil || best.load() > 0 && len(e.workers) < e.cfg.Workers {
		e.startWorker(nil)
	}
	if best == nil {
		return nil, e.starting, nil
	}
	if err := best.use(); err != nil {
		e.drop(best)
		e.startWorker(nil)
		return nil, e.starting, nil
	}
	return best, nil, nil
}

// startWorker begins to start a worker, unless a start is under way or the
// engine closes. Once it serves, replaced, if not nil, takes no more instances.
// e.mu is held.
func (e *engine) startWorker(replaced *worker) (begun bool) {
	if e.starting != nil || e.closed() {
		return false
	}
	s := &start{done: make(chan struct{})}
	e.starting = s
	e.tasks.Go(func() {
		defer close(s.done)
		w, err := e.launch(e.closing)
		if err == nil {
			err = e.admit(w)
		}
		e.mu.Lock()
		e.starting = nil
		e.mu.Unlock()
		if s.err = err; err != nil && !e.closed() {
			e.cfg.Logger.Error("a worker cannot be started", "error", err)
		}
		switch {
		case replaced == nil:
		case err != nil:
			replaced.setDue(false)
		default:
			replaced.retire(replacedReason)
		}
	})
	return true
}

// admit has w take instances, if it runs the engine that the first worker ran.
func (e *engine) admit(w *worker) error {
	e.mu.Lock()
	if e.info.Name == "" {
		e.info = w.info
	}
	same := e.info == w.info
	if same {
		e.workers = append(e.workers, w)
	}
	e.mu.Unlock()
	if same {
		return nil
	}
	w.retire("it runs another engine than the worker before")
	return fmt.Errorf("worker: %s runs %s %s now, which was %s %s with other features; restart the kernel to change engines",
		e.cfg.Binary, w.info.Name, w.info.Version, e.info.Name, e.info.Version)
}

// drop takes a worker out of those that take instances. e.mu is held.
func (e *engine) drop(w *worker) {
	e.workers = slices.DeleteFunc(e.workers, func(o *worker) bool { return o == w })
}
