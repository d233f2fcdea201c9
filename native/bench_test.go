//go:build unix

package native_test

import (
	"context"
	"os/exec"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"

	"forgeone.dev/forgeone/native"
	"forgeone.dev/forgeone/sdk/wire"
)

// BenchmarkCall is a call with 16 bytes: of a plugin through this package and
// sdk/native, and of the same gRPC method through go-plugin alone.
func BenchmarkCall(b *testing.B) {
	input := []byte("sixteen bytes..!")
	b.Run("via=go-plugin", func(b *testing.B) {
		client := startBare(b)
		b.ReportAllocs()
		for b.Loop() {
			r, err := client.Call(b.Context(), &wire.CallRequest{Call: 1, Function: "echo", Input: input})
			if err != nil || len(r.Output) != len(input) {
				b.Fatal(r, err)
			}
		}
	})
	b.Run("via=native", func(b *testing.B) {
		p := start(b, config("plugin", refuse))
		b.ReportAllocs()
		for b.Loop() {
			out, err := p.Call(b.Context(), 1, "echo", input)
			if err != nil || len(out) != len(input) {
				b.Fatal(out, err)
			}
		}
	})
}

// BenchmarkSyscall is a call that makes one syscall, which a gate answers at
// once.
func BenchmarkSyscall(b *testing.B) {
	p := start(b, config("plugin", func(context.Context, native.Syscall) native.Result { return native.Result{Status: native.Success} }))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Call(b.Context(), 1, "pass", []byte("anything")); err != nil {
			b.Fatal(err)
		}
	}
}

// startBare starts a plugin by go-plugin alone.
func startBare(b *testing.B) wire.PluginClient {
	path, _ := executable()
	cmd := exec.Command(path)
	cmd.Env = []string{roleEnv + "=bare"}
	c := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{wire.ProtocolVersion: {"plugin": &bare{}}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		Cmd:              cmd,
		Logger:           hclog.NewNullLogger(),
	})
	b.Cleanup(c.Kill)
	rpc, err := c.Client()
	if err != nil {
		b.Fatal(err)
	}
	p, err := rpc.Dispense("plugin")
	if err != nil {
		b.Fatal(err)
	}
	return p.(wire.PluginClient)
}
