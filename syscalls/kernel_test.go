package syscalls_test

import (
	"context"
	"encoding/binary"
	"flag"
	"os"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// TestMain keeps property tests short by default: their steps wait for the disk.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// kernel is a gate with every syscall, a policy that allows what was granted,
// and a log, all real.
type kernel struct {
	t    testing.TB
	gate *abi.Gate
	db   *state.DB
}

func newKernel(t testing.TB, o syscalls.Options, policies ...zta.Policy) *kernel {
	t.Helper()
	var reg abi.SyscallRegistry
	if err := reg.Register(syscalls.Registrations(o)...); err != nil {
		t.Fatal(err)
	}
	if policies == nil {
		policies = []zta.Policy{{Name: "all"}}
	}
	graph, err := reg.Compile(policies, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Name: "test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	gate, err := abi.NewGate(abi.GateOptions{Registry: &reg, Graph: graph, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return &kernel{t: t, gate: gate, db: o.State}
}

func openState(t testing.TB) *state.DB {
	t.Helper()
	db, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// plugin is a subject with its grants.
type plugin struct {
	*kernel
	s *abi.Subject
}

func (k *kernel) plugin(name string, level capability.TrustLevel, g capability.Grant, mounts ...abi.Mount) *plugin {
	k.t.Helper()
	if g.Syscalls == nil {
		g.Syscalls = []string{"*"}
	}
	set, err := capability.New(g)
	if err != nil {
		k.t.Fatal(err)
	}
	c := abi.NewContainer(name + "-1")
	k.t.Cleanup(func() { c.Close("test over") })
	return &plugin{k, &abi.Subject{
		Plugin: name, Identity: zta.Identity{ID: name, TrustVector: zta.Root},
		TrustLevel: level, Capabilities: set, Container: c, Mounts: mounts,
	}}
}

func (p *plugin) do(name string, h abi.Handle, payload []byte, args ...string) abi.SyscallResult {
	return p.gate.SecureSyscall(context.Background(), &abi.SyscallContext{Subject: p.s, Syscall: name, Handle: h, Payload: payload, Args: args})
}

// ok calls and expects success.
func (p *plugin) ok(name string, payload []byte, args ...string) []byte {
	p.t.Helper()
	res := p.do(name, 0, payload, args...)
	if err := res.Error(); err != nil {
		p.t.Fatalf("%s%q: %v", name, args, err)
	}
	return res.Data
}

// code calls and expects a failure with that code.
func (p *plugin) code(want int32, name string, payload []byte, args ...string) {
	p.t.Helper()
	p.failed(want, p.do(name, 0, payload, args...))
}

func (p *plugin) failed(want int32, res abi.SyscallResult) {
	p.t.Helper()
	if res.Status != abi.Failure || res.Err.Code != want {
		p.t.Fatalf("%v (%v), want failure %d", res.Status, res.Error(), want)
	}
}

// blocked calls and expects to be blocked.
func (p *plugin) blocked(name string, payload []byte, args ...string) string {
	p.t.Helper()
	res := p.do(name, 0, payload, args...)
	if res.Status != abi.Blocked {
		p.t.Fatalf("%s%q: %v (%v), want blocked", name, args, res.Status, res.Error())
	}
	return res.Reason
}

func (p *plugin) open(path, mode string) abi.Handle {
	p.t.Helper()
	return abi.Handle(binary.LittleEndian.Uint64(p.ok("file_open", nil, path, mode)))
}

func mount(t testing.TB, guest, host string, readOnly bool) abi.Mount {
	t.Helper()
	root, err := os.OpenRoot(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return abi.Mount{Guest: guest, Root: root, ReadOnly: readOnly}
}
