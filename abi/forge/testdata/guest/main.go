//go:build wasip1

// Command guest is what the tests of abi/forge call.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	oldrand "math/rand"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/guest"
)

func main() {}

func note(text string) sdk.Hook {
	return func(ctx context.Context, k *sdk.Kernel) error {
		_, err := k.Syscall(ctx, "test_note", []string{text}, 0, nil)
		if _, blocked := errors.AsType[*sdk.BlockedError](err); blocked && text == "init" {
			return nil // most tests grant no test_note
		}
		return err
	}
}

//go:wasmexport forge_init
func onInit() uint32 { return guest.Hook(note("init")) }

//go:wasmexport forge_start
func onStart() uint32 { return guest.Hook(note("start")) }

//go:wasmexport forge_pause
func onPause() uint32 { return guest.Hook(note("pause")) }

//go:wasmexport forge_resume
func onResume() uint32 { return guest.Hook(note("resume")) }

//go:wasmexport forge_stop
func onStop() uint32 { return guest.Hook(note("stop")) }

//go:wasmexport echo
func echo(n uint32) uint32 {
	return guest.Call(n, func(_ context.Context, _ *sdk.Kernel, in []byte) ([]byte, error) { return in, nil })
}

var calls byte

//go:wasmexport count
func count(n uint32) uint32 {
	return guest.Call(n, func(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
		calls++
		return []byte{calls}, nil
	})
}

// ask makes the syscall that the input's first line names, with the bytes of
// the other lines as arguments, and says how it ended.
//
//go:wasmexport ask
func ask(n uint32) uint32 {
	return guest.Call(n, func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
		parts := strings.Split(string(in), "\n")
		data, err := k.Syscall(ctx, parts[0], parts[1:], 1<<63|7, []byte("pay\x00load"))
		if failed, ok := errors.AsType[*sdk.SyscallError](err); ok {
			return fmt.Appendf(nil, "failure %d %q %q", failed.Code, failed.Message, failed.Context), nil
		}
		if blocked, ok := errors.AsType[*sdk.BlockedError](err); ok {
			return []byte("blocked " + blocked.Reason), nil
		}
		return append([]byte("success "), data...), err
	})
}

// bulk sends the input as a payload and returns the result.
//
//go:wasmexport bulk
func bulk(n uint32) uint32 {
	return guest.Call(n, func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
		out, err := k.Syscall(ctx, "test_echo", nil, 0, in)
		return out[8:], err
	})
}

//go:wasmexport refuse
func refuse(n uint32) uint32 {
	return guest.Call(n, func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
		if len(in) > 0 {
			_, err := k.Syscall(ctx, string(in), nil, 0, nil)
			return nil, fmt.Errorf("wrapped: %w", err)
		}
		return []byte("never seen"), errors.New("out of luck\x1b[2J")
	})
}

//go:wasmexport panics
func panics(n uint32) uint32 {
	return guest.Call(n, func(_ context.Context, _ *sdk.Kernel, in []byte) ([]byte, error) { return in[:1<<20], nil })
}

//go:wasmexport crash
func crash(n uint32) uint32 {
	return guest.Call(n, func(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
		go panic("crashing")
		select {}
	})
}

//go:wasmexport exit
func exit(n uint32) uint32 {
	return guest.Call(n, func(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
		os.Exit(7)
		return nil, nil
	})
}

//go:wasmexport spin
func spin(n uint32) uint32 {
	return guest.Call(n, func(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
		for {
		}
	})
}

// system uses what Go's runtime gets from WASI.
//
//go:wasmexport system
func system(n uint32) uint32 {
	return guest.Call(n, func(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
		begun := time.Now()
		time.Sleep(2 * time.Millisecond)
		slept := time.Since(begun)
		var a, b [16]byte
		if _, err := rand.Read(a[:]); err != nil {
			return nil, err
		}
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		if _, err := fmt.Print("to stdout\n"); err != nil {
			return nil, err
		}
		if _, err := fmt.Fprint(os.Stderr, "to stderr\n"); err != nil {
			return nil, err
		}
		_, err := os.Open("/data")
		return fmt.Appendf(nil, "%v %v %v %d %d %v", slept >= 2*time.Millisecond, a == b, begun.Year() >= 2024, len(os.Args), len(os.Environ()), err != nil), nil
	})
}

// race makes syscalls from goroutines, with results that do not fit the SDK's
// own buffer.
//
//go:wasmexport race
func race(n uint32) uint32 {
	return guest.Call(n, func(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				for turn := range 20 {
					text := strings.Repeat(string(rune('a'+i)), 6<<10+turn)
					out, err := k.Syscall(ctx, "test_echo", []string{text}, uint64(i), nil)
					if err != nil || binary.LittleEndian.Uint64(out) != uint64(i) || string(out[8:]) != text+"|" {
						errs[i] = fmt.Errorf("goroutine %d got another's result (%v)", i, err)
						return
					}
				}
			})
		}
		wg.Wait()
		return []byte("ok"), errors.Join(errs...)
	})
}

var source = mathrand.NewChaCha8([32]byte{})

//go:wasmexport forge_reseed
func reseed(n uint32) uint32 { return guest.Reseed(n, source.Seed) }

// numbers takes one from each generator that a plugin may use.
//
//go:wasmexport numbers
func numbers(n uint32) uint32 {
	return guest.Call(n, func(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		own, err := k.Rand(ctx)
		if err != nil {
			return nil, err
		}
		return fmt.Appendf(nil, "math/rand %d\nmath/rand/v2 %d\nmaphash %d\nreseeded %d\ncrypto/rand %x\nsdk %d",
			oldrand.Int63(), mathrand.Uint64(), maphash.String(maphash.MakeSeed(), "x"), source.Uint64(), b, own.Uint64()), nil
	})
}
