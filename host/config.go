package host

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"forgeone.dev/forgeone/abi/extism"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// PluginConfig is a plugin as it is configured. Everything omitted is denied,
// off, or the documented default.
type PluginConfig struct {
	Name    string // unique in the host
	Version string // the author's own, for people

	// WasmModule or NativeLibrary is the path of the artifact; exactly one.
	WasmModule    string
	NativeLibrary string
	SHA256        string // of the artifact, hexadecimal; required for a native one
	Signature     []byte // minisign signature of the artifact, as text

	Engine       string // of a WASM plugin; empty means the host's default
	ABI          ABI    // of a WASM plugin; empty means what it shows, which Extism's need not
	Identity     zta.IdentitySpec
	TrustLevel   capability.TrustLevel // ceiling; the zero value, Quarantined, may hold nothing
	Capabilities capability.Set
	State        State
	Sandbox      Sandbox // native only
	Mounts       []Mount

	// Args, with the program's name first, and Env, as NAME=value, are what a WASM
	// plugin finds by WASI; no Args mean the plugin's name alone. Terminals says
	// which of its standard input, output and error it is to take for terminals.
	Args, Env []string
	Terminals [3]bool

	Config map[string]string // for an Extism plugin to read, by config_get
	// HostFunctions are functions of the embedder's own that an Extism plugin may
	// import, each a syscall of the registry.
	HostFunctions []extism.HostFunction

	Limits Limits
	Pool   Pool // of a pristine WASM plugin

	// Autostart starts the plugin when a kernel that serves its config comes up.
	Autostart bool
	Origin    string // "file:line", for diagnostics
}

// State says what a WASM plugin keeps from one call to the next.
type State string

// States. Empty means the default of the plugin's ABI: pristine for forge/1
// and WASI commands, keep for Extism plugins and plain exports.
const (
	StatePristine State = "pristine" // each call has an instance of its own, as initialisation left it
	StateKeep     State = "keep"     // one instance serves all calls, one after the other
)

// Sandbox says how a native plugin is jailed. Empty means strict.
type Sandbox string

// Sandboxes.
const (
	SandboxStrict   Sandbox = "strict"
	SandboxStandard Sandbox = "standard"
	SandboxNone     Sandbox = "none" // no jail: the process has the rights of the kernel's user
)

// Mount lends a host directory to a plugin.
type Mount struct {
	Guest    string // absolute, clean
	Host     string // directory
	ReadOnly bool
}

// speech is how a WASM plugin is to be spoken to.
func (c *PluginConfig) speech() speech {
	return speech{abi: c.ABI, extism: extism.Config{Values: c.Config, WASI: c.process(), HostFunctions: c.HostFunctions}}
}

// Limits bound a plugin. Zero values mean the default given.
type Limits struct {
	Memory    uint64        // bytes of linear memory of an instance; default the host's limit
	Timeout   time.Duration // of a call or lifecycle event, not of a process's start; default the host's; NoTimeout for none
	Instances int           // concurrent calls; default 4 for pristine WASM, 64 for native, always 1 for kept state
	Fuel      uint64        // instructions of a call of a WASM plugin; default no limit
	CallDepth uint32        // nested calls of recursive functions of a WASM plugin; default what the engine's stack holds
}

// Pool says which instances of a pristine WASM plugin are kept ready between
// calls, where the engine can put them back to how they began. Zero values mean
// the default given.
type Pool struct {
	MinIdle     int           // instances that are made ahead; default 0
	MaxIdle     int           // instances that wait for a call at most; default Limits.Instances; NoIdle for none
	IdleTimeout time.Duration // how long those above MinIdle wait before they are closed; default DefaultIdleTimeout
}

// NoIdle asks for a new instance for each call.
const NoIdle = -1

// of is the pool with its defaults, for a plugin of so many instances.
func (p Pool) of(instances int) Pool {
	switch p.MaxIdle {
	case 0:
		p.MaxIdle = max(instances, p.MinIdle)
	case NoIdle:
		p.MaxIdle = 0
	}
	p.IdleTimeout = cmp.Or(p.IdleTimeout, DefaultIdleTimeout)
	return p
}

// validate is what is wrong with the pool by itself.
func (p Pool) validate() error {
	switch {
	case p.MinIdle < 0 || p.MaxIdle < NoIdle || p.IdleTimeout < 0:
		return fmt.Errorf("pool %+v: want no negative numbers", p)
	case p.MaxIdle != 0 && p.MinIdle > max(p.MaxIdle, 0):
		return fmt.Errorf("pool: %d idle instances at least are more than the %d at most", p.MinIdle, max(p.MaxIdle, 0))
	}
	return nil
}

// NoTimeout asks for calls without a deadline of their own. Those of a plugin
// still end with their context and its container; on a WasmHost the guest is
// compiled without interruption, runs at full speed and ends when it ends.
const NoTimeout time.Duration = -1

// validate finds everything that is wrong with the configuration by itself.
func (c *PluginConfig) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" || strings.ContainsAny(c.Name, "/\\ \t\n\x00") {
		bad("name %q: want a name without slashes and spaces", c.Name)
	}
	switch {
	case c.WasmModule == "" && c.NativeLibrary == "":
		bad("no artifact: set wasm or native")
	case c.WasmModule != "" && c.NativeLibrary != "":
		bad("two artifacts: set either wasm or native")
	case c.NativeLibrary != "":
		if c.SHA256 == "" {
			bad("a native plugin needs its sha256: take it with sha256sum %s", c.NativeLibrary)
		}
		switch c.Sandbox {
		case SandboxNone:
		case "", SandboxStrict, SandboxStandard:
			bad(`sandbox %q is not built yet, and a native plugin is never run with less than was asked for: set sandbox = "none" to run it with the rights of the kernel's user`, cmp.Or(c.Sandbox, SandboxStrict))
		default:
			bad("sandbox %q: want strict, standard or none", c.Sandbox)
		}
		if c.State != "" {
			bad("state is for WASM plugins: a native process keeps its own")
		}
		if c.Engine != "" {
			bad("engine is for WASM plugins")
		}
		if c.Pool != (Pool{}) {
			bad("pool is for WASM plugins: a native plugin has one process")
		}
		if c.ABI != "" {
			bad("abi is for WASM plugins")
		}
		if len(c.Config) > 0 || len(c.HostFunctions) > 0 {
			bad("config and host functions are for Extism plugins")
		}
		if c.Limits.Memory != 0 {
			bad("limits.memory is not built yet for native plugins")
		}
	default:
		if c.Sandbox != "" {
			bad("sandbox is for native plugins: a WASM plugin is always sandboxed")
		}
		switch c.ABI {
		case "", ABIForge, ABIExtism, ABICore:
		default:
			bad("abi %q: want %s, %s or %s", c.ABI, ABIForge, ABIExtism, ABICore)
		}
		switch c.State {
		case "", StatePristine, StateKeep:
		default:
			bad("state %q: want pristine or keep", c.State)
		}
		if c.State == StateKeep && c.Pool != (Pool{}) {
			bad("pool is for pristine plugins: one instance serves all calls where state is kept")
		}
		if err := c.Pool.validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Limits.CallDepth != 0 && c.NativeLibrary != "" {
		bad("limits.call_depth is for WASM plugins")
	}
	if c.Limits.Fuel != 0 && c.NativeLibrary != "" {
		bad("limits.fuel is for WASM plugins: the instructions of a process are not counted; use limits.timeout")
	}
	if c.Limits.Instances < 0 || (c.Limits.Instances > 1 && c.State == StateKeep) {
		bad("limits.instances %d: want at least 1, and 1 where state is kept", c.Limits.Instances)
	}
	seen := map[string]bool{}
	for _, m := range c.Mounts {
		if !path.IsAbs(m.Guest) || path.Clean(m.Guest) != m.Guest {
			bad("mount %q: want an absolute, clean guest path", m.Guest)
		}
		if seen[m.Guest] {
			bad("mount %q: mounted twice", m.Guest)
		}
		seen[m.Guest] = true
		if m.Host == "" {
			bad("mount %q: no host directory", m.Guest)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return &ConfigError{Plugin: c.Name, Origin: c.Origin, Err: errors.Join(errs...)}
}
