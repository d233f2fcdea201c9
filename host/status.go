package host

// HostStatus is the state of a WasmHost or PluginHost.
type HostStatus struct {
	Phase  HostPhase
	Reason string // for HostError
}

// HostPhase is one of the five statuses of a host.
type HostPhase string

// Host phases.
const (
	HostInitializing HostPhase = "initializing"
	HostReady        HostPhase = "ready"   // nothing runs
	HostRunning      HostPhase = "running" // calls in flight
	HostError        HostPhase = "error"
	HostTerminated   HostPhase = "terminated"
)

// String is the phase, with the reason of an error.
func (s HostStatus) String() string { return withReason(string(s.Phase), s.Reason) }

// PluginStatus is the state of a plugin.
type PluginStatus struct {
	Phase  PluginPhase
	Reason string // for Failed, a held Paused, and Quarantined
	Case   string // for Quarantined, and Paused by a freeze
}

// PluginPhase is one of the statuses of a plugin.
type PluginPhase string

// Plugin phases.
const (
	PluginLoading     PluginPhase = "loading"
	PluginStopped     PluginPhase = "stopped" // loaded, not running
	PluginActive      PluginPhase = "active"
	PluginPaused      PluginPhase = "paused"
	PluginFailed      PluginPhase = "failed"
	PluginQuarantined PluginPhase = "quarantined"
	PluginUnloaded    PluginPhase = "unloaded"
)

// String is the phase, with reason and case where there are any.
func (s PluginStatus) String() string {
	out := string(s.Phase)
	if s.Case != "" {
		out += " (case " + s.Case + ")"
	}
	return withReason(out, s.Reason)
}

func withReason(s, reason string) string {
	if reason == "" {
		return s
	}
	return s + ": " + reason
}
