// Package control is the control API of a running kernel, HTTP/1.1 with JSON
// over a unix socket, and its client.
//
// Only the kernel's own user and root may use the socket: its mode says so, and
// the kernel checks the credentials of every peer besides. What changes
// something is put on the audit record with the peer's user id before it is
// done; what cannot be recorded is not done.
package control

import (
	"time"

	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// Kind classes an error, so that it means the same on both ends of the socket.
type Kind string

// Kinds of error.
const (
	Failed      Kind = "failed" // none of the others
	Usage       Kind = "usage"  // the request makes no sense
	Config      Kind = "config" // the configuration is wrong
	NotFound    Kind = "not_found"
	Conflict    Kind = "conflict"    // the state of things does not allow it
	Blocked     Kind = "blocked"     // by policy or capability
	Quarantined Kind = "quarantined" // the plugin is, or the call led to it
	Limit       Kind = "limit"       // a limit was exceeded
	Forbidden   Kind = "forbidden"   // the peer may not use the socket
)

// Error is an error that crossed the socket.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Status describes a running kernel.
type Status struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Phase    string    `json:"phase"` // of the plugin host
	Reason   string    `json:"reason,omitempty"`
	StateDir string    `json:"state_dir"`

	Config  ConfigStatus `json:"config"`
	Policy  PolicyStatus `json:"policy"`
	Audit   AuditStatus  `json:"audit"`
	Engines []Engine     `json:"engines"`
	Plugins []Plugin     `json:"plugins"`
	// OpenCases is the number of open quarantine cases.
	OpenCases int `json:"open_cases"`
}

// ConfigStatus is the configuration in force.
type ConfigStatus struct {
	Path   string    `json:"path"`
	Digest string    `json:"digest"`
	Loaded time.Time `json:"loaded"`
	// Problem is why the configuration as it now stands in its files is not
	// the one in force; "" if it is.
	Problem string `json:"problem,omitempty"`
}

// PolicyStatus is the policy in force.
type PolicyStatus struct {
	Digest   string   `json:"digest"`
	Mode     string   `json:"mode"`
	Policies []string `json:"policies"` // names, in order
}

// AuditStatus is where the audit log stands.
type AuditStatus struct {
	Dir        string `json:"dir"`
	Records    uint64 `json:"records"`
	Root       string `json:"root"`       // Merkle root, base64
	Checkpoint uint64 `json:"checkpoint"` // records covered by the last signed checkpoint
	Problem    string `json:"problem,omitempty"`
}

// Engine is an engine that the kernel runs WASM plugins on.
type Engine struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Default bool   `json:"default"`
}

// Plugin describes a plugin: host.Plugin as it crosses the socket.
type Plugin struct {
	ID           string       `json:"id"`
	Name         string       `json:"name"`
	Version      string       `json:"version,omitempty"`
	Wasm         string       `json:"wasm,omitempty"`   // path; one of the two
	Native       string       `json:"native,omitempty"` // path
	ABI          string       `json:"abi,omitempty"`
	Engine       string       `json:"engine,omitempty"`
	Sandbox      string       `json:"sandbox,omitempty"`
	SHA256       string       `json:"sha256,omitempty"`
	Identity     Identity     `json:"identity"`
	Capabilities Grant        `json:"capabilities"`
	TrustLevel   string       `json:"trust_level"` // configured: the ceiling
	Level        string       `json:"level"`       // effective, now
	Score        float64      `json:"score"`       // trust score, 0 to 1
	Integrity    float64      `json:"integrity"`   // 0 to 100
	Status       PluginStatus `json:"status"`
	Container    string       `json:"container,omitempty"`
	PID          int          `json:"pid,omitempty"`
	Functions    []string     `json:"functions,omitempty"`
	Pool         *Pool        `json:"pool,omitempty"` // of a pristine WASM plugin that runs
	Calls        uint64       `json:"calls"`
	Loaded       time.Time    `json:"loaded"`
}

// Pool says where the instances of a pristine WASM plugin come from.
type Pool struct {
	Image   uint64 `json:"image,omitempty"`    // bytes of memory of the image that they begin as
	NoImage string `json:"no_image,omitempty"` // why each is started anew
	Idle    int    `json:"idle"`               // that wait for a call
}

// Identity is who a plugin was verified to be.
type Identity struct {
	ID          string   `json:"id"`
	TrustVector string   `json:"trust_vector"`
	Groups      []string `json:"groups,omitempty"`
	Publisher   string   `json:"publisher,omitempty"`
}

// Grant is a capability set as it was configured.
type Grant struct {
	Syscalls  []string          `json:"syscalls,omitempty"`
	Resources []string          `json:"resources,omitempty"`
	APIs      []string          `json:"apis,omitempty"`
	Custom    map[string]string `json:"custom,omitempty"`
}

// PluginStatus is where a plugin stands in its lifecycle.
type PluginStatus struct {
	Phase  string `json:"phase"`
	Reason string `json:"reason,omitempty"`
	Case   string `json:"case,omitempty"`
}

// ViewPlugin is a plugin as it crosses the socket.
func ViewPlugin(p host.Plugin) Plugin {
	return Plugin{
		ID: p.ID.String(), Name: p.Name, Version: p.Version, Wasm: p.WasmModule, Native: p.NativeLibrary,
		ABI: string(p.ABI), Engine: p.Engine, Sandbox: string(p.Sandbox), SHA256: p.Digest,
		Identity:     viewIdentity(p.Identity),
		Capabilities: Grant(p.Capabilities),
		TrustLevel:   p.TrustLevel.String(), Level: p.Level.String(), Score: p.Score, Integrity: p.Integrity,
		Status:    PluginStatus{Phase: string(p.Status.Phase), Reason: p.Status.Reason, Case: p.Status.Case},
		Container: p.Container, PID: p.PID, Functions: p.Functions, Pool: viewPool(p.Pool), Calls: p.Calls, Loaded: p.LoadTime,
	}
}

func viewPool(s *host.PoolStatus) *Pool {
	if s == nil {
		return nil
	}
	return &Pool{Image: s.Image, NoImage: s.Reason, Idle: s.Idle}
}

func viewIdentity(id zta.Identity) Identity {
	return Identity{ID: id.ID, TrustVector: id.TrustVector.String(), Groups: id.Groups, Publisher: id.Publisher}
}
