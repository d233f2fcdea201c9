// Package wire is the protocol between the kernel and a native plugin: what
// both ends must agree on before they speak gRPC, and the code generated from
// plugin.proto.
package wire

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative plugin.proto

// The handshake of go-plugin. The cookie tells a plugin that it was not started
// by hand; it is no secret.
const (
	ProtocolVersion = 1
	CookieKey       = "FORGEONE_PLUGIN"
	CookieValue     = "forgeone.plugin.v1"
	// Service is the name under which the plugin serves itself to go-plugin.
	Service = "plugin"
)

// MaxMessage bounds a message in either direction, in bytes.
const MaxMessage = 64<<20 + 64<<10 // the largest input or output, and what goes with it
