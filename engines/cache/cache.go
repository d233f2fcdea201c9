// Package cache makes compiling WebAssembly safe and rare.
//
// [Wrap] puts itself before an engine. What is compiled is hostile: a module of
// 20 KB can keep a compiler busy for a minute, one of a few megabytes can take
// gigabytes, and no engine can be told to stop. So a throwaway [Compiler] process
// compiles, under limits of time and memory, and only its machine code comes
// back. Modules too small to do harm are compiled in place.
//
// The code is kept in a directory, under a name that says what it was made of and
// for: module, options, engine, build of this program, CPU. To run kept code is to
// run whatever is in the file, so each entry is authenticated by a key that lies
// elsewhere: what was not put there by a holder of the key, for that very name, is
// never given to the engine. The compiler is trusted as the engine is.
package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/engines"
)

// Defaults.
const (
	DefaultMaxBytes = 1 << 30 // 1 GiB
	DefaultTimeout  = time.Minute
	DefaultMemory   = 2 << 30 // 2 GiB
)

// harmless is the size, in bytes, of modules that are compiled in place and not
// kept. The worst that is known of a compiler grows with the third power: on
// wazero, locals that are read in the innermost of many loops take as long at this
// size as starting a process does, 150 ms at 1 KiB and most of a minute at 10 KiB.
const harmless = 512

// Config is what the cache and the compiler of one engine may use. It is plain
// data, so that it can be passed to another process.
type Config struct {
	Dir      string        `json:"dir,omitempty"`       // of the entries; empty for none: nothing is kept
	KeyFile  string        `json:"key_file,omitempty"`  // of the key that authenticates them; made if it is missing
	MaxBytes int64         `json:"max_bytes,omitempty"` // of all entries together; 0 for DefaultMaxBytes
	Timeout  time.Duration `json:"timeout,omitempty"`   // of one compilation; 0 for DefaultTimeout
	Memory   int64         `json:"memory,omitempty"`    // of one compilation, in bytes; 0 for DefaultMemory
}

// EnvConfig is the environment variable in which a process is told the [Config]
// of the engine that it runs, as [Config.String] writes it.
const EnvConfig = "FORGEONE_COMPILE"

// String is the configuration as JSON.
func (c Config) String() string {
	b, _ := json.Marshal(c) // strings and numbers: it does not fail
	return string(b)
}

// ConfigFromEnv is the configuration in [EnvConfig], the zero one if it is unset.
func ConfigFromEnv() (c Config, err error) {
	if text, ok := os.LookupEnv(EnvConfig); ok {
		if err = json.Unmarshal([]byte(text), &c); err != nil {
			err = fmt.Errorf("%s: %w", EnvConfig, err)
		}
	}
	return c, err
}

// Options are how an engine is wrapped.
type Options struct {
	Config
	// Compiler compiles; nil has the engine compile in place, where nothing bounds
	// what a module takes.
	Compiler *Compiler
	Logger   hclog.Logger // nil for none
}

// Wrap returns an engine that compiles with a compiler and keeps what it did. It
// owns inner, which must be an [engines.Serializer], and has its name, version and
// features.
//
// Compile returns errors of type *[engines.CompileError] that wrap a *[LimitError]
// where a limit of the compiler was met. A directory or key that cannot be used,
// or that others can write to, costs the cache, and is warned of, once.
//
// Errors: *[engines.UnsupportedError] for an engine whose code cannot be kept.
func Wrap(inner engines.WasmEngine, o Options) (engines.WasmEngine, error) {
	info := inner.Info()
	s, ok := inner.(engines.Serializer)
	if !ok {
		return nil, &engines.UnsupportedError{Engine: info.Name, Feature: "machine code that is kept", Reason: "its adapter cannot take it out"}
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	e := &engine{WasmEngine: inner, serializer: s, name: info.Name, harmless: harmless, compiler: o.Compiler, logger: o.Logger}
	e.closing, e.close = context.WithCancelCause(context.Background())
	if o.Dir != "" {
		from, err := origin(info)
		if err == nil {
			e.store, err = openStore(o.Dir, o.KeyFile, cmp.Or(o.MaxBytes, DefaultMaxBytes), o.Logger)
		}
		if err == nil {
			e.origin = e.store.own(from)
		}
		if err != nil {
			o.Logger.Warn("machine code is not kept: every load compiles anew", "engine", info.Name, "error", err)
		}
	}
	return e, nil
}

type engine struct {
	engines.WasmEngine
	serializer engines.Serializer
	name       string
	harmless   int    // size of modules that are compiled in place, in bytes
	origin     []byte // of the code that this engine makes, and the holder of its key
	store      *store // nil for none
	compiler   *Compiler
	logger     hclog.Logger

	closing context.Context // ends when the engine closes
	close   context.CancelCauseFunc
	mu      sync.Mutex     // held to begin or to close
	tasks   sync.WaitGroup // compilations; Add under mu, while not closing
}

// begin counts a compilation, whose context ends with the engine.
func (e *engine) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing.Err() != nil {
		return nil, nil, engines.ErrClosed
	}
	e.tasks.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.closing, func() { cancel(engines.ErrClosed) })
	return ctx, func() { stop(); cancel(nil); e.tasks.Done() }, nil
}

func (e *engine) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	if len(wasm) <= e.harmless {
		return e.WasmEngine.Compile(ctx, wasm, opts)
	}
	ctx, end, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	name := entryName(e.origin, wasm, opts)
	if m := e.load(ctx, name, wasm, opts); m != nil {
		return m, nil
	}
	code, err := e.compile(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	if e.store != nil {
		e.store.put(name, code)
	}
	return e.serializer.Deserialize(ctx, wasm, code, opts)
}

// load makes a module of the code that is kept for it, nil if there is none.
func (e *engine) load(ctx context.Context, name name, wasm []byte, opts engines.CompileOptions) engines.Module {
	if e.store == nil {
		return nil
	}
	code, ok := e.store.get(name)
	if !ok {
		return nil
	}
	m, err := e.serializer.Deserialize(ctx, wasm, code, opts)
	if err != nil {
		if ctx.Err() == nil {
			e.logger.Warn("the engine does not take the code that was kept: it is compiled anew", "engine", e.name, "entry", name, "error", err)
		}
		return nil
	}
	return m
}

func (e *engine) compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) ([]byte, error) {
	if e.compiler == nil {
		return e.serializer.Serialize(ctx, wasm, opts)
	}
	code, err := e.compiler.compile(ctx, wasm, opts)
	if err == nil {
		return code, nil
	}
	if errors.Is(err, engines.ErrClosed) {
		return nil, engines.ErrClosed
	}
	if _, ok := errors.AsType[*engines.UnsupportedError](err); ok {
		return nil, err
	}
	return nil, &engines.CompileError{Engine: e.name, Err: err}
}

// Close ends the compilations that are under way, and waits for their processes.
func (e *engine) Close() error {
	e.mu.Lock()
	e.close(engines.ErrClosed)
	e.mu.Unlock()
	e.tasks.Wait()
	err := e.WasmEngine.Close()
	if e.store != nil {
		err = errors.Join(err, e.store.close())
	}
	return err
}

// LimitError is a module that does not compile within a limit of [Config].
type LimitError struct {
	What   string // what there was too much of: "time", "memory" or "code"
	Limit  string // how much there may be, e.g. "1m0s" or "2048 MiB"
	Option string // of the compile block of a configuration that allows more
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("compiling the module takes more %s than the limit of %s: it may be made to exhaust the kernel; if it is not, raise %s in the compile block of the configuration", e.What, e.Limit, e.Option)
}
