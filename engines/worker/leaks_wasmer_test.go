//go:build linux && wasmer

package worker_test

import (
	"sync"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/worker"
)

// large is a module that takes some machine code.
func large() []byte {
	m := new(asm.Module)
	host := m.ImportFunc("env", "f", toNothing)
	m.Func("call", toNothing, asm.Code{}.Call(host))
	m.Memory("memory", 1)
	for range 100 {
		var c asm.Code
		for range 10 {
			c = c.I32Const(0).I32Const(0).I32Load(0).I32Const(1).Op(asm.I32Add).I32Store(0)
		}
		m.Func("", toNothing, c)
	}
	return m.Bytes()
}

// Wasmer keeps some 200 KiB of each module that was ever compiled. Workers that
// grow are replaced; no call fails for that, and together they stay small.
func TestLeaks(t *testing.T) {
	cfg := config(t)
	probe := newEngine(t, cfg)
	begin := worker.ResidentMemory(worker.PIDs(probe)[0])
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	const grown, goroutines, modules = 16 << 20, 3, 100
	cfg.HealthEvery, cfg.MaxRSS = 20*time.Millisecond, begin+grown
	most := 3 * cfg.MaxRSS // one that serves, its successor, and one that still has instances
	e := newEngine(t, cfg)
	seen := make(map[int]bool)
	var largest uint64
	watch := func() {
		var sum uint64
		for _, pid := range worker.PIDs(e) {
			seen[pid] = true
			sum += worker.ResidentMemory(pid)
		}
		largest = max(largest, sum)
	}
	wasm := large()
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range modules {
				mod, err := e.Compile(t.Context(), wasm, engines.CompileOptions{MemoryLimitPages: 1})
				if err != nil {
					t.Error(err)
					return
				}
				inst, err := mod.Instantiate(t.Context(), env(noop))
				if err != nil {
					t.Error(err)
					return
				}
				if f, err := inst.Func("call"); err != nil || f.Call(t.Context(), nil) != nil {
					t.Error("a call failed", err)
				}
				_ = inst.Close()
				_ = mod.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-time.After(5 * time.Millisecond):
		}
		watch()
	}
	t.Logf("%d modules in %d workers, which begin with %d MiB and had %d at most", goroutines*modules, len(seen), begin>>20, largest>>20)
	if largest > most || len(seen) < 2 {
		t.Errorf("%d workers had %d MiB, at most %d are allowed to several", len(seen), largest>>20, most>>20)
	}
}
