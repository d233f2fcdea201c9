// Package wire is the protocol between the kernel and a native plugin: what
// both ends must agree on before they speak gRPC, and the code generated from
// plugin.proto.
package wire

//go:generate sh generate.sh

// The handshake of go-plugin. The cookie tells a plugin that it was not started
// by hand; it is no secret.
const (
	ProtocolVersion = 1
	CookieKey       = "FORGEONE_PLUGIN"
	CookieValue     = "forgeone.plugin.v1"
)

// Limits of a message, in bytes: what may be carried, and what goes with it.
const (
	MaxCall    = 64<<20 + 64<<10 // of the Plugin service: the largest input or output
	MaxSyscall = 16<<20 + 64<<10 // of the Kernel service: the largest payload or result
)
