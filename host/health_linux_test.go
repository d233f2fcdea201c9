package host_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"forgeone.dev/forgeone/host"
)

// TestUnhealthyPluginFails: a process that hangs is found out, ended and said
// to have failed, and can be started again.
func TestUnhealthyPluginFails(t *testing.T) {
	k := newKernel(t, host.WithHealthEvery(500*time.Millisecond))
	id := k.start(k.config("summarise", artifacts.summarise))
	p, err := k.Plugin(id)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1200 * time.Millisecond) // two checks, that it passes
	if st := k.status(id); st.Phase != host.PluginActive {
		t.Fatalf("a healthy plugin is %s", st)
	}
	if err := syscall.Kill(p.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		if k.status(id).Phase == host.PluginFailed {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if st := k.status(id); st.Phase != host.PluginFailed || !strings.Contains(st.Reason, "health") {
		t.Fatalf("status %s", st)
	}
	if alive(p.PID) {
		t.Errorf("process %d is still there", p.PID)
	}
	if err := k.StartPlugin(ctx, id); err != nil {
		t.Errorf("start after it: %v", err)
	}
}
