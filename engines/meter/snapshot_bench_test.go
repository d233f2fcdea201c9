package meter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/versus"
	"forgeone.dev/forgeone/engines/meter"
)

// goGuest is the program in testdata/guest.
var goGuest = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "forgeone-guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", out, "./testdata/guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w: %s", err, text)
	}
	return os.ReadFile(out)
})

// wasi answers all that a Go program asks for when it starts: there are no
// arguments, no environment and no folders, and it is always the same time.
func wasi(mod engines.Module) engines.Imports {
	const badDescriptor = 8 // there are no more folders
	answers := map[string]func(engines.Caller, []uint64) uint64{
		"fd_prestat_get": func(engines.Caller, []uint64) uint64 { return badDescriptor },
		"clock_time_get": func(caller engines.Caller, args []uint64) uint64 {
			caller.Memory().Write(args[2], []byte{7: 1})
			return 0
		},
	}
	host := map[string]*engines.HostModule{}
	for _, im := range mod.Imports() {
		hm := host[im.Module]
		if hm == nil {
			hm = new(engines.HostModule)
			host[im.Module] = hm
		}
		answer := answers[im.Name]
		hm.Functions = append(hm.Functions, engines.HostFunction{
			Name: im.Name, Type: im.Type.Func,
			Call: func(_ context.Context, caller engines.Caller, stack []uint64) error {
				result := uint64(0)
				if answer != nil {
					result = answer(caller, stack)
				}
				if len(stack) > 0 {
					stack[0] = result
				}
				return nil
			},
		})
	}
	return engines.Imports{Host: host}
}

// started compiles the Go guest for snapshots.
func started(t testing.TB, e engines.WasmEngine, opts engines.CompileOptions) (engines.Module, engines.Imports) {
	t.Helper()
	wasm, err := goGuest()
	if err != nil {
		t.Fatal(err)
	}
	mod := captured(t, e, wasm, opts)
	return mod, wasi(mod)
}

// BenchmarkWazeroSnapshot is an instance and its first call: made and started anew,
// from a snapshot, and restored to it. In "unmapped", memory is written and not
// mapped.
func BenchmarkWazeroSnapshot(b *testing.B) {
	small := func(b *testing.B, e engines.WasmEngine) (engines.Module, engines.Imports) {
		return captured(b, e, counter().Bytes(), engines.CompileOptions{Interruptible: true}), engines.Imports{}
	}
	goProgram := func(b *testing.B, e engines.WasmEngine) (engines.Module, engines.Imports) {
		return started(b, e, engines.CompileOptions{Interruptible: true})
	}
	for _, guest := range []struct {
		name       string
		load       func(*testing.B, engines.WasmEngine) (engines.Module, engines.Imports)
		init, call string
		args       []uint64
	}{
		{"go_add", goProgram, "_initialize", "add", []uint64{1, 2}},
		{"go_keep", goProgram, "_initialize", "keep", []uint64{1}},
		{"small", small, "next", "next", nil},
	} {
		b.Run(guest.name, func(b *testing.B) {
			e := metered(b)
			defer e.Close()
			unmapped := meter.Wrap(unmapped{bare(b)}, meter.Limits{})
			defer unmapped.Close()
			var rivals []versus.Rival
			for suffix, e := range []engines.WasmEngine{e, unmapped} {
				mod, imports := guest.load(b, e)
				l := lifetimes{guest.call, guest.args}
				begin := func() (engines.Instance, error) {
					inst, err := mod.Instantiate(context.Background(), imports)
					if err == nil {
						call(b, inst, guest.init)
					}
					return inst, err
				}
				original, err := begin()
				if err != nil {
					b.Fatal(err)
				}
				defer original.Close()
				snap, err := mod.(engines.Snapshotter).Snapshot(original)
				if err != nil {
					b.Fatal(err)
				}
				defer snap.Close()
				fromSnapshot := func() (engines.Instance, error) { return snap.Instantiate(context.Background(), imports) }
				kept, err := fromSnapshot()
				if err != nil {
					b.Fatal(err)
				}
				defer kept.Close()
				name := []string{"", "-unmapped"}[suffix]
				rivals = append(rivals,
					versus.Rival{Name: "new" + name, Do: func() error { return l.once(begin) }},
					versus.Rival{Name: "snapshot" + name, Do: func() error { return l.once(fromSnapshot) }},
					versus.Rival{Name: "restore" + name, Do: func() error {
						if err := l.use(kept); err != nil {
							return err
						}
						if !snap.Restore(kept) {
							return errors.New("not restored")
						}
						return nil
					}},
				)
			}
			versus.Run(b, rivals...)
		})
	}
}

// lifetimes is how instances are used: each for one call.
type lifetimes struct {
	call string
	args []uint64
}

// once makes an instance for one call.
func (l *lifetimes) once(make func() (engines.Instance, error)) error {
	inst, err := make()
	if err != nil {
		return err
	}
	return errors.Join(l.use(inst), inst.Close())
}

func (l *lifetimes) use(inst engines.Instance) error {
	f, err := inst.Func(l.call)
	if err != nil {
		return err
	}
	var stack [4]uint64
	copy(stack[:], l.args)
	return f.Call(context.Background(), stack[:])
}
