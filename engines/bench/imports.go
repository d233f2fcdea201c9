package bench

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"forgeone.dev/forgeone/engines"
)

// The modules that programs may import from.
const (
	hostModule = "forgeone:bench"
	wasiModule = "wasi_snapshot_preview1"
)

// The errno values of WASI preview 1 that are used here
// (https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md#errno).
const (
	errnoSuccess = 0
	errnoBadf    = 8
	errnoFault   = 21
	errnoNotsup  = 58
)

// ExitError is the end of a guest by proc_exit.
type ExitError struct{ Code uint32 }

func (e *ExitError) Error() string {
	return fmt.Sprintf("the program ended itself with exit code %d", e.Code)
}

// Imports is what programs are linked to: "forgeone:bench".next, which adds one
// to an i32, and of WASI preview 1 what a Go program needs that has no files: no
// arguments and no environment, real clocks, sleep and random numbers, and
// standard output and error, which are dropped. These are for measuring modules
// that one trusts: no gate stands before them.
func Imports() engines.Imports {
	return engines.Imports{Host: map[string]*engines.HostModule{
		hostModule: {Functions: []engines.HostFunction{{
			Name: "next", Type: engines.FuncType{Params: []engines.ValueType{engines.I32}, Results: []engines.ValueType{engines.I32}},
			Call: func(_ context.Context, _ engines.Caller, stack []uint64) error {
				stack[0] = uint64(uint32(stack[0]) + 1)
				return nil
			},
		}}},
		wasiModule: wasi(time.Now()),
	}}
}

// wasi is WASI for programs that began at a time.
func wasi(began time.Time) *engines.HostModule {
	i32, i64 := engines.I32, engines.I64
	type params = []engines.ValueType
	// An errno is the one result, 0 if fn returns true; it is a fault else.
	memory := func(name string, p params, fn func(m guest, stack []uint64) uint64) engines.HostFunction {
		return engines.HostFunction{
			Name: name, Type: engines.FuncType{Params: p, Results: params{i32}},
			Call: func(_ context.Context, caller engines.Caller, stack []uint64) error {
				m := caller.Memory()
				if m == nil {
					return fmt.Errorf("%s needs a memory", name)
				}
				stack[0] = fn(guest{m}, stack)
				return nil
			},
		}
	}
	none := func(m guest, stack []uint64) uint64 {
		return errno(m.put32(stack[0], 0) && m.put32(stack[1], 0))
	}
	return &engines.HostModule{Functions: []engines.HostFunction{
		memory("args_sizes_get", params{i32, i32}, none),
		memory("environ_sizes_get", params{i32, i32}, none),
		memory("args_get", params{i32, i32}, func(guest, []uint64) uint64 { return errnoSuccess }),
		memory("environ_get", params{i32, i32}, func(guest, []uint64) uint64 { return errnoSuccess }),
		memory("clock_time_get", params{i32, i64, i32}, func(m guest, stack []uint64) uint64 {
			if uint32(stack[0]) == 0 { // realtime
				return errno(m.put64(stack[2], uint64(time.Now().UnixNano())))
			}
			return errno(m.put64(stack[2], uint64(time.Since(began))))
		}),
		memory("random_get", params{i32, i32}, func(m guest, stack []uint64) uint64 {
			size := uint64(uint32(stack[1]))
			if size > m.Size() {
				return errnoFault
			}
			b := make([]byte, size)
			_, _ = rand.Read(b) // never fails
			return errno(m.Write(uint64(uint32(stack[0])), b))
		}),
		memory("fd_write", params{i32, i32, i32, i32}, write),
		memory("sched_yield", nil, func(guest, []uint64) uint64 { return errnoSuccess }),
		{
			Name: "poll_oneoff", Type: engines.FuncType{Params: params{i32, i32, i32, i32}, Results: params{i32}},
			Call: func(ctx context.Context, caller engines.Caller, stack []uint64) error {
				m := caller.Memory()
				if m == nil {
					return fmt.Errorf("poll_oneoff needs a memory")
				}
				var err error
				stack[0], err = sleep(ctx, guest{m}, stack)
				return err
			},
		},
		{
			Name: "proc_exit", Type: engines.FuncType{Params: params{i32}},
			Call: func(_ context.Context, _ engines.Caller, stack []uint64) error { return &ExitError{uint32(stack[0])} },
		},
	}}
}

// guest is a memory with addresses as words of a stack.
type guest struct{ engines.Memory }

func (m guest) put32(addr uint64, v uint32) bool {
	return m.Write(uint64(uint32(addr)), binary.LittleEndian.AppendUint32(nil, v))
}

func (m guest) put64(addr, v uint64) bool {
	return m.Write(uint64(uint32(addr)), binary.LittleEndian.AppendUint64(nil, v))
}

func errno(ok bool) uint64 {
	if ok {
		return errnoSuccess
	}
	return errnoFault
}

// write is fd_write(fd, iovecs, count, written): it drops what it is given.
func write(m guest, stack []uint64) uint64 {
	if fd := uint32(stack[0]); fd != 1 && fd != 2 {
		return errnoBadf
	}
	at, count := uint64(uint32(stack[1])), uint64(uint32(stack[2]))
	var written uint32
	for i := range count {
		var iovec [8]byte
		if !m.Read(at+8*i, iovec[:]) {
			return errnoFault
		}
		written += binary.LittleEndian.Uint32(iovec[4:])
	}
	return errno(m.put32(stack[3], written))
}

// sleep is poll_oneoff(subscriptions, events, count, stored) for one relative
// time.
func sleep(ctx context.Context, m guest, stack []uint64) (uint64, error) {
	// userdata u64 · tag u8, 0 for a clock · at 16 its id u32 · at 24 the timeout
	// u64 · at 40 flags u16, bit 0 for an absolute time
	var s [48]byte
	if uint32(stack[2]) != 1 {
		return errnoNotsup, nil
	}
	if !m.Read(uint64(uint32(stack[0])), s[:]) {
		return errnoFault, nil
	}
	if s[8] != 0 || s[40]&1 != 0 {
		return errnoNotsup, nil
	}
	timer := time.NewTimer(time.Duration(min(binary.LittleEndian.Uint64(s[24:]), 1<<62)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	event := make([]byte, 32) // userdata u64 · errno u16 · type u8, 0 for a clock
	copy(event, s[:8])
	return errno(m.Write(uint64(uint32(stack[1])), event) && m.put32(stack[3], 1)), nil
}
