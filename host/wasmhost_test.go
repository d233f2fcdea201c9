package host_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
)

// loopModule has add, and spin, which never ends.
var loopModule = func() []byte {
	m := new(asm.Module)
	m.Memory("memory", 2)
	i32 := engines.I32
	m.Func("add", asm.Func(asm.Types(i32, i32), asm.Types(i32)), asm.Code{}.LocalGet(0).LocalGet(1).Op(0x6a))
	m.Func("spin", asm.Func(nil, nil), asm.Code{}.Loop().Br(0).End())
	return m.Bytes()
}()

func newWasmHost(t *testing.T, opts ...host.Option) *host.WasmHost {
	t.Helper()
	h, err := host.NewWasmHost(wazero.New, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(h.AuditDir())
	})
	return h
}

func add(h *host.WasmHost) error {
	_, err := h.CallFunction(ctx, "m", "add", engines.ValueI32(1), engines.ValueI32(2))
	return err
}

// TestModuleReloadsUnderCalls: whoever calls meets the old module or the new
// one, never none.
func TestModuleReloadsUnderCalls(t *testing.T) {
	h := newWasmHost(t)
	if _, err := h.LoadModule(ctx, "m", addModule); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := add(h); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 50 {
		binary := addModule
		if i%2 == 0 {
			binary = loopModule
		}
		if _, err := h.ReloadModule(ctx, "m", binary); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.ReloadModule(ctx, "m", []byte("no module")); err == nil {
		t.Error("reloaded nonsense")
	}
	close(done)
	wg.Wait()
	if err := add(h); err != nil {
		t.Error(err)
	}
}

// TestOneLoadWins: of loads of one name at the same time one is done, and on
// record as done.
func TestOneLoadWins(t *testing.T) {
	log, dir := openFaulty(t)
	h := newWasmHost(t, host.WithLog(log))
	var wg sync.WaitGroup
	won := make(chan struct{}, 8)
	for range cap(won) {
		wg.Go(func() {
			_, err := h.LoadModule(ctx, "m", addModule)
			if err == nil {
				won <- struct{}{}
			} else if !errors.Is(err, host.ErrExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ok := 0
	for r, err := range audit.Records(dir, audit.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind == audit.KindModule && r.Outcome == audit.OutcomeOK {
			ok++
		}
	}
	if len(won) != 1 || ok != 1 {
		t.Errorf("%d loads were done, %d are on record as done", len(won), ok)
	}
}

// TestInterruptedModule: the call that ran out of time says so, so does the one
// that waited for it, and a reload makes the module serve again.
func TestInterruptedModule(t *testing.T) {
	h := newWasmHost(t, host.WithExecutionTimeout(100*time.Millisecond))
	m, err := h.LoadModule(ctx, "m", loopModule)
	if err != nil {
		t.Fatal(err)
	}
	if m.MemoryUsage != 2*engines.PageSize {
		t.Errorf("memory usage %d", m.MemoryUsage)
	}
	var le *host.LimitError
	if _, err := h.CallFunction(ctx, "m", "spin"); !errors.As(err, &le) || le.Limit != "timeout" {
		t.Fatalf("got %v", err)
	}
	if err := add(h); err == nil || !strings.Contains(err.Error(), "reload") {
		t.Errorf("got %v, want the remedy", err)
	}
	if _, err := h.ReloadModule(ctx, "m", loopModule); err != nil {
		t.Fatal(err)
	}
	if err := add(h); err != nil {
		t.Error(err)
	}
}

// TestWaitingHonoursContext: neither a call behind a long one, nor an unload,
// waits longer than it is asked to.
func TestWaitingHonoursContext(t *testing.T) {
	h := newWasmHost(t)
	if _, err := h.LoadModule(ctx, "m", loopModule); err != nil {
		t.Fatal(err)
	}
	spun := make(chan error, 1)
	go func() {
		_, err := h.CallFunction(ctx, "m", "spin")
		spun <- err
	}()
	eventually(t, "it spins", func() bool { return h.Status().Phase == host.HostRunning })
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := h.CallFunction(short, "m", "add", engines.ValueI32(1), engines.ValueI32(2)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the call behind it: %v", err)
	}
	if err := h.UnloadModule(short, "m"); err != nil {
		t.Errorf("unload: %v", err)
	}
	if err := <-spun; err == nil || !strings.Contains(err.Error(), "unloaded") {
		t.Errorf("the call in flight: %v", err)
	}
}

func TestClosedHost(t *testing.T) {
	h := newWasmHost(t)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := add(h); !errors.Is(err, host.ErrClosed) {
		t.Errorf("call: %v", err)
	}
	if _, err := h.LoadModule(ctx, "m", addModule); !errors.Is(err, host.ErrClosed) {
		t.Errorf("load: %v", err)
	}
	if h.Status().Phase != host.HostTerminated {
		t.Errorf("status %s", h.Status())
	}
}

// TestTinyMemoryLimitIsRefused: less than a page would be no limit at all.
func TestTinyMemoryLimitIsRefused(t *testing.T) {
	if _, err := host.NewWasmHost(wazero.New, host.WithMemoryLimit(1000)); err == nil || !strings.Contains(err.Error(), "page") {
		t.Errorf("host: %v", err)
	}
	k := newKernel(t)
	cfg := k.config("p", artifacts.summariseWasm)
	cfg.Limits.Memory = 1000
	if _, err := k.LoadPlugin(ctx, cfg); err == nil || !strings.Contains(err.Error(), "page") {
		t.Errorf("plugin: %v", err)
	}
}
