//go:build linux || darwin

package worker_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/worker"
)

func wantLimit(t testing.TB, err error, want meter.LimitError) {
	t.Helper()
	limit, ok := errors.AsType[*meter.LimitError](err)
	if !ok || *limit != want {
		t.Errorf("the error is %v, want %v", err, &want)
	}
	if _, ok := errors.AsType[*engines.CompileError](err); !ok {
		t.Errorf("the error is a %T, want a CompileError", err)
	}
}

// A module beyond a limit is refused by the worker, and one that is too large
// before the worker has it.
func TestModuleLimits(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.MaxModuleBytes = 4096
	e := newEngine(t, cfg)
	m := new(asm.Module)
	for i := range 101 {
		m.Table("t"+string(rune('a'+i%26))+string(rune('a'+i/26)), 1)
	}
	_, err := e.Compile(t.Context(), m.Bytes(), engines.CompileOptions{})
	wantLimit(t, err, meter.LimitError{What: "tables", Got: 101, Limit: 100})
	_, err = e.Compile(t.Context(), make([]byte, 4097), engines.CompileOptions{})
	wantLimit(t, err, meter.LimitError{What: "bytes", Got: 4097, Limit: 4096})
}

// Memory of a worker's is not the kernel's to map.
func TestMappedMemory(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	_, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{MappedMemory: true})
	if _, ok := errors.AsType[*engines.UnsupportedError](err); !ok || e.Info().MappedMemory {
		t.Errorf("%v; Features.MappedMemory is %v", err, e.Info().MappedMemory)
	}
}

// A worker that does not meter holds no limits, and says so.
func TestBare(t *testing.T) {
	t.Parallel()
	e := newEngine(t, role(t, "bare"))
	_, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{Fuel: 1})
	if _, ok := errors.AsType[*engines.UnsupportedError](err); !ok || e.Info().Metering {
		t.Errorf("%v; Features.Metering is %v", err, e.Info().Metering)
	}
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantWorks(t, mod)
}

// Fuel and the deadline hold where the guest runs, and their traps and counts
// are the kernel's to see. No worker dies for them.
func TestMetered(t *testing.T) {
	t.Parallel()
	e := newEngine(t, config(t))
	mod, err := e.Compile(t.Context(), spinning(), engines.CompileOptions{Fuel: 1 << 20, Interruptible: true})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := mod.Instantiate(t.Context(), env(noop))
	if err != nil {
		t.Fatal(err)
	}
	used := inst.(engines.FuelMeter).FuelUsed
	err = fn(t, inst, "spin").Call(t.Context(), nil)
	if trap, ok := errors.AsType[*engines.Trap](err); !ok || trap.Class != engines.TrapFuel || used() != 1<<20 {
		t.Errorf("spin = %v and used %d, want %d and out of fuel", err, used(), 1<<20)
	}
	if err := fn(t, inst, "call").Call(t.Context(), nil); err != nil || used() == 0 || used() >= 100 {
		t.Errorf("call = %v and used %d", err, used())
	}

	mod, err = e.Compile(t.Context(), spinning(), engines.CompileOptions{Interruptible: true})
	if err != nil {
		t.Fatal(err)
	}
	if inst, err = mod.Instantiate(t.Context(), env(noop)); err != nil {
		t.Fatal(err)
	}
	// A guest that calls the host all the time is late to look at its deadline.
	calls := 0
	chatting, err := mod.Instantiate(t.Context(), env(func(ctx context.Context, _ engines.Caller) error {
		if ctx.Err() != nil {
			calls++
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	before := worker.PIDs(e)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		err = fn(t, chatting, "chat").Call(ctx, nil)
		cancel()
		wantInterrupted(t, err, context.DeadlineExceeded)
	}
	if after := worker.PIDs(e); !slices.Equal(before, after) || calls > 3 {
		t.Errorf("the workers are %v, were %v; %d host calls began after the deadline", after, before, calls)
	}

	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		err = fn(t, inst, "spin").Call(ctx, nil)
		cancel()
		wantInterrupted(t, err, context.DeadlineExceeded)
		canceled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		wantInterrupted(t, fn(t, inst, "spin").Call(canceled, nil), context.Canceled)
		if err := fn(t, inst, "call").Call(t.Context(), nil); err != nil {
			t.Errorf("a call after one that was interrupted: %v", err)
		}
	}
}
