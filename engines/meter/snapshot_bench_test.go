package meter_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"forgeone.dev/forgeone/engines"
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

// BenchmarkSnapshot is an instance and its first call: made anew, from a
// snapshot, and restored to it.
func BenchmarkSnapshot(b *testing.B) {
	e := metered(b)
	defer e.Close()
	goMod, goImports := started(b, e, engines.CompileOptions{Interruptible: true})
	small := captured(b, e, counter().Bytes(), engines.CompileOptions{Interruptible: true})
	for _, guest := range []struct {
		name    string
		mod     engines.Module
		imports engines.Imports
		init    string
		call    string
		args    []uint64
	}{
		{"go/add", goMod, goImports, "_initialize", "add", []uint64{1, 2}},
		{"go/keep", goMod, goImports, "_initialize", "keep", []uint64{1}},
		{"small", small, engines.Imports{}, "next", "next", nil},
	} {
		fresh := func(b *testing.B) engines.Instance {
			inst, err := guest.mod.Instantiate(context.Background(), guest.imports)
			if err != nil {
				b.Fatal(err)
			}
			call(b, inst, guest.init)
			return inst
		}
		b.Run(guest.name+"/new", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				inst := fresh(b)
				call(b, inst, guest.call, guest.args...)
				_ = inst.Close()
			}
		})
		original := fresh(b)
		snap, err := guest.mod.(engines.Snapshotter).Snapshot(original)
		if err != nil {
			b.Fatal(err)
		}
		_ = original.Close()
		b.Run(guest.name+"/snapshot", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				inst, err := snap.Instantiate(context.Background(), guest.imports)
				if err != nil {
					b.Fatal(err)
				}
				call(b, inst, guest.call, guest.args...)
				_ = inst.Close()
			}
		})
		b.Run(guest.name+"/restore", func(b *testing.B) {
			inst, err := snap.Instantiate(context.Background(), guest.imports)
			if err != nil {
				b.Fatal(err)
			}
			f, err := inst.Func(guest.call)
			if err != nil {
				b.Fatal(err)
			}
			stack := make([]uint64, 4)
			b.ReportAllocs()
			for b.Loop() {
				copy(stack, guest.args)
				if err := f.Call(context.Background(), stack); err != nil {
					b.Fatal(err)
				}
				if !snap.Restore(inst) {
					b.Fatal("not restored")
				}
			}
			_ = inst.Close()
		})
		_ = snap.Close()
	}
}
