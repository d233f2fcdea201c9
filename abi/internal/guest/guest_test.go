package guest_test

import (
	"errors"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// TestDenialsExplain says what is told of a guest that ended: what it was
// denied, each name once with the latest reason, the first few names.
func TestDenialsExplain(t *testing.T) {
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Name: "forgeone/test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	reg := new(abi.SyscallRegistry)
	graph, err := reg.Compile(nil, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	gate, err := abi.NewGate(abi.GateOptions{Registry: reg, Graph: graph, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	call, err := gate.Begin(t.Context(), &abi.Subject{Plugin: "p", Identity: zta.Identity{ID: "i"}, TrustLevel: capability.Core, Container: abi.NewContainer("c")}, "f", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = call.End(nil, nil) }()

	ended := errors.New("ended")
	ctx, denials := guest.WatchDenials(abi.WithCall(call.Context(), call))
	if err := denials.Explain(ended); err != ended {
		t.Errorf("nothing denied: got %v", err)
	}
	for _, name := range []string{"a", "b", "a", "c", "d", "e"} {
		if res, err := guest.Syscall(ctx, name, nil, 0, nil); err != nil || res.Status != abi.Blocked {
			t.Fatalf("got %+v, %v", res, err)
		}
	}
	got := denials.Explain(ended)
	want := `ended; before, it was denied: unknown syscall "a"; unknown syscall "b"; unknown syscall "c"; unknown syscall "d"`
	if got.Error() != want || !errors.Is(got, ended) {
		t.Errorf("got %q, want %q", got, want)
	}
}
