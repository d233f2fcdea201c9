package worker_test

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/worker"
)

// Crashes, recycling and closing leave no descriptor, file, process or
// goroutine behind.
func TestNothingIsLeft(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	once := func() {
		cfg := config(t)
		cfg.HealthEvery, cfg.MaxInstances = 20*time.Millisecond, 40
		e, err := worker.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var open []engines.Instance // never closed
		for i := range 60 {
			inst, err := mod.Instantiate(t.Context(), env(noop))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, inst)
			if i == 30 {
				kill(t, e, syscall.SIGKILL)
				wantCrash(t, fn2(inst))
			}
		}
		pids := worker.PIDs(e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
				t.Errorf("the process %d is left", pid)
			}
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("left in the temporary directory: %v (%v)", left, err)
		}
		runtime.KeepAlive(open)
	}
	once() // what is made once
	before, goroutines := fds(), runtime.NumGoroutine()
	for range 3 {
		once()
	}
	settled := func() bool { return fds() <= before && runtime.NumGoroutine() <= goroutines }
	for range 500 {
		if settled() {
			return
		}
		time.Sleep(10 * time.Millisecond) // the collector and gRPC take their time
		runtime.GC()
	}
	t.Errorf("%d descriptors and %d goroutines, were %d and %d", fds(), runtime.NumGoroutine(), before, goroutines)
}

// fn2 calls until the worker's end is noticed.
func fn2(inst engines.Instance) error {
	for {
		f, err := inst.Func("call")
		if err != nil {
			return err
		}
		if err := f.Call(context.Background(), nil); err != nil {
			return err
		}
	}
}

// A worker does not grow with the instances that it had.
func TestWorkerMemory(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const n, bound = 4001, 64 << 20
	pid := worker.PIDs(e)[0]
	var before uint64
	for i := range n {
		// A host module of its own for each: it must be forgotten.
		inst, err := mod.Instantiate(t.Context(), env(noop))
		if err != nil {
			t.Fatal(err)
		}
		if err := fn(t, inst, "call").Call(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := inst.Close(); err != nil {
			t.Fatal(err)
		}
		if i%500 == 0 {
			runtime.GC()
		}
		if i == n/2 {
			before = worker.ResidentMemory(pid)
		}
	}
	after := worker.ResidentMemory(pid)
	t.Logf("%d KiB after %d instances, %d KiB after %d", before>>10, n/2, after>>10, n)
	if before == 0 || after > before+bound || worker.PIDs(e)[0] != pid {
		t.Errorf("the worker grew from %d to %d KiB", before>>10, after>>10)
	}
}
