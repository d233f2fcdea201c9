// Package host runs plugins: WASM modules on any engine and native processes,
// with one lifecycle and one gate for both.
//
// [WasmHost] is the plain way to load modules and call their exports.
// [PluginHost] runs configured plugins: capabilities, trust, identity, limits,
// reload and quarantine. Neither knows an engine or a syscall: both are given
// to it by options.
package host

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/quarantine"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/zta"
)

// Defaults of a host.
const (
	DefaultMemoryLimit      = 256 << 20 // bytes of linear memory of an instance
	DefaultIdleMemory       = 1 << 30   // bytes of linear memory of all idle instances
	DefaultExecutionTimeout = 30 * time.Second
	DefaultDrainTimeout     = 30 * time.Second // how long a stop or reload waits for calls in flight
	isolateTimeout          = time.Second      // how long an isolation waits before it reports what is undrained
	historyEvery            = 10 * time.Second // how often histories are stored while plugins run
	DefaultIdleTimeout      = time.Minute      // how long an idle instance of a pristine plugin waits for a call
	DefaultHealthEvery      = 10 * time.Second // how often a native plugin is asked whether it serves
)

// NewEngine makes an engine; wazero.New is one.
type NewEngine func() (engines.WasmEngine, error)

// Option configures a host.
type Option func(*options)

type options struct {
	newEngines []NewEngine
	registry   *abi.SyscallRegistry
	policies   []zta.Policy
	mode       zta.Mode
	log        abi.Log
	state      *state.DB
	ceiling    capability.Set
	logger     hclog.Logger
	rootKey    string
	memory     uint64
	idleMemory uint64
	health     time.Duration
	timeout    time.Duration
	clock      func() time.Time
}

// WithEngine adds an engine for WASM plugins. The first one is the default.
func WithEngine(n NewEngine) Option {
	return func(o *options) { o.newEngines = append(o.newEngines, n) }
}

// WithSyscalls gives the syscalls there are, with the policies of their
// registry. Without it there are none, and every syscall is denied.
func WithSyscalls(r *abi.SyscallRegistry) Option { return func(o *options) { o.registry = r } }

// WithPolicies gives the policies and the mode in which they are enforced.
// Without it, or with no policy, nothing is allowed.
func WithPolicies(mode zta.Mode, policies ...zta.Policy) Option {
	return func(o *options) { o.mode, o.policies = mode, policies }
}

// WithLog gives the audit log, which stays the caller's to close. Without it
// the host opens one of its own in a private directory: see AuditDir.
func WithLog(l abi.Log) Option { return func(o *options) { o.log = l } }

// WithState keeps histories and quarantine cases across restarts. Without it
// they live as long as the host.
func WithState(db *state.DB) Option { return func(o *options) { o.state = db } }

// WithCeiling bounds what any plugin or module of the host may be granted.
func WithCeiling(s capability.Set) Option { return func(o *options) { o.ceiling = s } }

// WithLogger gives the operational log. Without it there is none.
func WithLogger(l hclog.Logger) Option { return func(o *options) { o.logger = l } }

// WithRootKey gives the minisign public key of artifacts with the root trust
// vector.
func WithRootKey(key string) Option { return func(o *options) { o.rootKey = key } }

// WithMemoryLimit sets the linear memory that an instance may have, in bytes,
// where a plugin's own limit does not say.
func WithMemoryLimit(bytes uint64) Option { return func(o *options) { o.memory = bytes } }

// WithIdleMemory sets how much memory the idle instances of all plugins may have
// together, in bytes: see [Pool]. What is beyond it is closed, not kept idle.
func WithIdleMemory(bytes uint64) Option { return func(o *options) { o.idleMemory = bytes } }

// WithExecutionTimeout sets how long a call may take where a plugin's own
// limit does not say; NoTimeout for ever. Setting it on an engine that cannot
// be interrupted is an error; the default is simply not in force there.
func WithExecutionTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithHealthEvery sets how often native plugins are asked whether they serve.
// One that has not answered by the next time is killed, and Failed.
func WithHealthEvery(d time.Duration) Option { return func(o *options) { o.health = d } }

// WithClock replaces the wall clock.
func WithClock(now func() time.Time) Option { return func(o *options) { o.clock = now } }

// kernel is what both hosts stand on.
type kernel struct {
	options
	gate    *abi.Gate
	cases   *quarantine.Cases
	watch   *watchedLog // what log is
	own     *audit.Log  // opened here, nil if it was given
	ownDir  string
	engines []engines.WasmEngine
	byName  map[string]engines.WasmEngine
	idle    budget // memory of idle instances
}

func newKernel(o options, isolate abi.Isolate) (_ *kernel, err error) {
	k := &kernel{options: o, byName: map[string]engines.WasmEngine{}}
	defer func() {
		if err != nil {
			_ = k.close()
			if k.ownDir != "" {
				_ = os.RemoveAll(k.ownDir) // there is nothing of a host to audit
			}
		}
	}()
	if k.logger == nil {
		k.logger = hclog.NewNullLogger()
	}
	if k.clock == nil {
		k.clock = time.Now
	}
	if k.health <= 0 {
		k.health = DefaultHealthEvery
	}
	switch {
	case k.memory == 0:
		k.memory = DefaultMemoryLimit
	case k.memory < engines.PageSize:
		return nil, fmt.Errorf("a memory limit of %d bytes is less than a page of %d", k.memory, engines.PageSize)
	}
	k.idle.give(cmp.Or(k.idleMemory, DefaultIdleMemory))
	if k.registry == nil {
		k.registry = &abi.SyscallRegistry{}
	}
	graph, err := k.registry.Compile(k.policies, k.mode)
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	if k.log == nil {
		if k.ownDir, err = os.MkdirTemp("", "forgeone-audit-"); err != nil {
			return nil, fmt.Errorf("private audit log: %w", err)
		}
		if k.own, err = audit.Open(audit.Options{Dir: k.ownDir, Name: "forgeone/private", AllowGenerate: true}); err != nil {
			return nil, fmt.Errorf("private audit log: %w", err)
		}
		k.log = k.own
	}
	k.watch = &watchedLog{Log: k.log}
	k.log = k.watch
	if k.cases, err = quarantine.Load(k.state, k.log, k.clock); err != nil {
		return nil, err
	}
	for _, newEngine := range k.newEngines {
		e, err := newEngine()
		if err != nil {
			return nil, fmt.Errorf("engine: %w", err)
		}
		k.engines = append(k.engines, e)
		name := e.Info().Name
		if k.byName[name] != nil {
			return nil, fmt.Errorf("engine %q was given twice", name)
		}
		k.byName[name] = e
	}
	k.gate, err = abi.NewGate(abi.GateOptions{Registry: k.registry, Graph: graph, Log: k.log, Clock: k.clock, Isolate: isolate})
	if err != nil {
		return nil, err
	}
	details := map[string]string{"event": "start", "mode": k.mode.String()}
	for _, e := range k.engines {
		details["engine."+e.Info().Name] = e.Info().Version
	}
	return k, k.record(&audit.Record{Kind: audit.KindKernel, Policy: graph.Digest(), Details: details})
}

// engine is the engine of that name, or the default for "".
func (k *kernel) engine(name string) (engines.WasmEngine, error) {
	if name == "" && len(k.engines) > 0 {
		return k.engines[0], nil
	}
	if e := k.byName[name]; e != nil {
		return e, nil
	}
	have := make([]string, 0, len(k.engines))
	for _, e := range k.engines {
		have = append(have, e.Info().Name)
	}
	if len(have) == 0 {
		return nil, errors.New("this host has no WASM engine: give it one, for instance host.WithEngine(wazero.New)")
	}
	return nil, fmt.Errorf("engine %q is not in this build: it has %v", name, have)
}

// record puts a record in the log. An act that cannot be recorded is not done.
func (k *kernel) record(r *audit.Record) error {
	_, err := k.log.Append(r)
	return notDone(err)
}

// recordSync is record for what must be on disk before it counts: lifecycle
// and policy changes.
func (k *kernel) recordSync(ctx context.Context, r *audit.Record) error {
	seq, err := k.log.Append(r)
	if err == nil {
		err = k.log.Sync(ctx, seq)
	}
	return notDone(err)
}

func notDone(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("not done, because the audit log cannot be written: %w", err)
}

func (k *kernel) close() error {
	var errs []error
	if k.gate != nil {
		if err := k.record(&audit.Record{Kind: audit.KindKernel, Details: map[string]string{"event": "stop"}}); err != nil {
			errs = append(errs, err)
		}
	}
	for _, e := range k.engines {
		errs = append(errs, e.Close())
	}
	if k.own != nil {
		errs = append(errs, k.own.Close())
	}
	return errors.Join(errs...)
}

// digest is the SHA-256 of an artifact, hexadecimal.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// maxArtifact bounds what is read of an artifact.
const maxArtifact = 256 << 20

// readArtifact reads a plugin's file whole.
func readArtifact(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("artifact: %w; check the path (relative ones are taken from the working directory)", err)
	case !fi.Mode().IsRegular():
		return nil, fmt.Errorf("artifact %s is not a file", path)
	case fi.Size() > maxArtifact:
		return nil, fmt.Errorf("artifact %s has %d bytes, at most %d are taken", path, fi.Size(), maxArtifact)
	}
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("artifact: %w", err)
	}
	return b, nil
}

// status is the state of a host.
func (k *kernel) status(closed bool, calls int64) HostStatus {
	failed := k.watch.failed.Load()
	switch {
	case closed:
		return HostStatus{Phase: HostTerminated}
	case failed != nil:
		return HostStatus{Phase: HostError, Reason: "the audit log cannot be written: " + failed.Error()}
	case calls > 0:
		return HostStatus{Phase: HostRunning}
	}
	return HostStatus{Phase: HostReady}
}

// watchedLog remembers whether the log last took a record, for the status.
type watchedLog struct {
	abi.Log
	failed atomic.Pointer[failure]
}

type failure struct{ error }

func (l *watchedLog) Append(r *audit.Record) (uint64, error) {
	seq, err := l.Log.Append(r)
	l.watch(err)
	return seq, err
}

func (l *watchedLog) Sync(ctx context.Context, seq uint64) error {
	err := l.Log.Sync(ctx, seq)
	if ctx.Err() == nil { // else it says nothing about the log
		l.watch(err)
	}
	return err
}

func (l *watchedLog) watch(err error) {
	switch {
	case err != nil:
		l.failed.Store(&failure{err})
	case l.failed.Load() != nil:
		l.failed.Store(nil)
	}
}
