// Package config turns the HCL file that configures a kernel into typed
// values. It is strict: an unknown name, a wrong type, a missing file, a name
// that refers to nothing and an option that is not built yet are errors, all
// reported at once, each with its place, what was meant and the remedy.
//
// The language is declared once, option by option; see docs/config.md, which
// is made from that declaration, and config.hcl.example.
package config

import (
	"crypto/ed25519"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// Options are what [Load] needs to know of the kernel that will run the
// configuration.
type Options struct {
	// Syscalls are the canonical names of all there are, each with the lowest
	// trust level that may hold it.
	Syscalls map[string]capability.TrustLevel
	// Engines are the names that may be configured, the built-in default first.
	Engines []string
	// LookupEnv is what env() reads; nil means os.LookupEnv.
	LookupEnv func(name string) (string, bool)
}

// Config is a configuration in which every reference is resolved and every
// path absolute.
type Config struct {
	Kernel  Kernel
	Engines []Engine // the default first; empty means the built-in default
	Compile Compile
	// Audit is what the log is opened with. Its Key is secret.
	Audit      audit.Options
	Identities map[string]zta.IdentitySpec // those declared
	Policies   []zta.Policy
	Plugins    []host.PluginConfig
	Secrets    map[string]Secret
	Keys       map[string]Key

	// Files are the paths of all files that the configuration is made of,
	// artifacts of plugins not included, for a watcher.
	Files []string
	// Digest is the SHA-256, hexadecimal, of what sha256sum prints of Files,
	// named relative to the directory of the configuration. Values from the
	// environment are not in it.
	Digest string
}

// Kernel is the kernel as a whole.
type Kernel struct {
	Name          string
	StateDir      string
	Socket        string // of the control API
	Enforcement   zta.Mode
	RootPublicKey string // minisign; empty if there is none
	IdleMemory    uint64 // bytes of all idle instances together; 0 for the host's default
}

// Engine is a WASM engine that plugins may use.
type Engine struct {
	Name      string
	Default   bool // exactly one engine is
	Isolation Isolation
}

// Compile is how WASM modules are compiled. A limit of 0 is left to the compiler.
type Compile struct {
	Timeout   time.Duration // of one module
	Memory    uint64        // of one module, in bytes
	CacheDir  string        // where machine code is kept; empty for nowhere
	CacheSize uint64        // of what is kept for an engine, in bytes
}

// Secret is where a secret comes from: exactly one of the two.
type Secret struct {
	Env  string
	File string
}

// Key is an Ed25519 key that plugins use by its name.
type Key struct {
	Private ed25519.PrivateKey // secret; nil for a key that can only verify
	Public  ed25519.PublicKey
}

// Isolation says where an engine runs.
type Isolation string

// Isolations. Empty leaves it to the binary: an engine that it can run in
// process without cgo runs there, every other in a process of its own.
const (
	InProcess Isolation = "in-process" // in the kernel's own process
	Process   Isolation = "process"    // in a process of its own, by forgeone-engine-NAME beside the binary
)

// Load reads the configuration at path. Errors: a [*DiagnosticsError] that
// holds everything that is wrong with it, or why the file cannot be read.
func Load(path string, opts Options) (*Config, error) {
	d, src, err := open(path, opts)
	if err != nil {
		return nil, err
	}
	return d.load(src)
}

// load decodes and resolves the text of the file.
func (d *decoder) load(src []byte) (*Config, error) {
	syntax, ok := d.parse(src)
	if !ok {
		return nil, newError(d.diags, syntax, d.name)
	}
	f := new(file)
	body := syntax.Body.(*hclsyntax.Body) // what hclsyntax makes
	d.body(language(), f, body, body.MissingItemRange())
	c := (&resolver{decoder: d, file: f}).config()
	if err := newError(d.diags, syntax, d.name); err != nil {
		return nil, err
	}
	c.Files, c.Digest = d.files()
	return c, nil
}
