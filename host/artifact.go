package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/zta"
)

// artifact is a plugin's verified code with what it was configured to be.
type artifact struct {
	cfg      PluginConfig
	digest   string
	identity zta.Identity
	set      capability.Set // configured, under the host's ceiling
	dna      *zta.ExecutionDNA
	code     *code         // WASM only
	process  *wasi.Config  // what its instances find; WASM only
	timeout  time.Duration // of a call; 0 for none
	slots    int
	pool     Pool // pristine WASM only
	loaded   time.Time
	lives    sync.WaitGroup // containers that run it
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
	if a.code, err = h.k.compile(ctx, e, b, cfg.Limits, cfg.speech(), engines.CompileOptions{Interruptible: true, Snapshots: cfg.State != StateKeep}); err != nil {
		return fail(err)
	}
	if a.code.abi == ABIWASI && cfg.State == StateKeep {
		_ = a.code.close()
		return fail(errors.New("state: an instance of a WASI command ends with its call, so there is nothing to keep; leave it out"))
	}
	a.process, a.timeout = cfg.process(), a.code.timeout
	if a.cfg.State == "" {
		a.cfg.State = StateKeep
		if a.code.abi == ABIForge || a.code.abi == ABIWASI {
			a.cfg.State = StatePristine
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

// hasUnload reports whether there is an unload event to run: a native plugin
// has ended with its process.
func (a *artifact) hasUnload() bool { return a.code != nil && a.code.exports(forge.Unload) }

// trust is the artifact's trust score and effective level.
func (a *artifact) trust(now time.Time) (float64, capability.TrustLevel) {
	return zta.Trust(a.identity.TrustVector, a.dna.Integrity(now), a.cfg.TrustLevel)
}

// close frees the code once nothing runs it.
func (a *artifact) close() error {
	if a.code == nil {
		return nil
	}
	a.lives.Wait()
	return a.code.close()
}
