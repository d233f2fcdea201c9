package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/host"
)

// counting is a WASI command that opens a file of its directory and exits with
// the number of its descriptor; a library has an export open instead, which
// returns it.
func counting(library bool) []byte {
	i32, i64 := engines.I32, engines.I64
	var m asm.Module
	open := m.ImportFunc(wasi.ModuleName, "path_open", asm.Func(asm.Types(i32, i32, i32, i32, i32, i64, i64, i32, i32), asm.Types(i32)))
	exit := m.ImportFunc(wasi.ModuleName, "proc_exit", asm.Func(asm.Types(i32), nil))
	m.Memory("memory", 1)
	m.Data(0, "report.txt")
	body := asm.Code(nil).I32Const(3).I32Const(0).I32Const(0).I32Const(10).I32Const(0).I64Const(2).I64Const(0).I32Const(0).I32Const(64).Call(open).Op(asm.Drop).
		I32Const(0).I32Load(64)
	if library {
		m.Func("open", asm.Func(nil, asm.Types(i32)), body)
	} else {
		m.Func("_start", engines.FuncType{}, body.Call(exit))
	}
	return m.Bytes()
}

// TestCommands says how a WASI command is called, and for how long what it
// opens is open.
func TestCommands(t *testing.T) {
	k := newKernel(t)
	command, library := filepath.Join(k.dir, "command.wasm"), filepath.Join(k.dir, "library.wasm")
	for path, wasm := range map[string][]byte{command: counting(false), library: counting(true)} {
		if err := os.WriteFile(path, wasm, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id := k.start(k.config("command", command))
	p, err := k.Plugin(id)
	if err != nil || p.ABI != host.ABIWASI || !slices.Equal(p.Functions, []string{host.Start}) {
		t.Errorf("%+v, %v", p, err)
	}
	for range 3 { // each call is a process of its own
		_, err := k.Call(ctx, id, host.Start, nil)
		var failed *host.FunctionError
		if !errors.As(err, &failed) || failed.Code != 4 {
			t.Errorf("got %v, want exit code 4", err)
		}
	}
	for _, call := range []struct{ function, input string }{{"main", ""}, {host.Start, "x"}} {
		if _, err := k.Call(ctx, id, call.function, []byte(call.input)); err == nil || !strings.Contains(err.Error(), host.Start) {
			t.Errorf("%v: got %v", call, err)
		}
	}

	keep := k.config("keep", command)
	keep.State = host.StateKeep
	if _, err := k.LoadPlugin(ctx, keep); err == nil || !strings.Contains(err.Error(), "nothing to keep") {
		t.Errorf("got %v", err)
	}

	// What keeps its state keeps its descriptors, and what does not has none left.
	for state, want := range map[host.State][]string{host.StateKeep: {"4", "5", "6"}, host.StatePristine: {"4", "4", "4"}} {
		cfg := k.config("library-"+string(state), library)
		cfg.State = state
		id := k.start(cfg)
		for _, n := range want {
			if out, err := k.Call(ctx, id, "open", nil); err != nil || string(out) != n {
				t.Errorf("%s: descriptor %s, %v; want %s", state, out, err, n)
			}
		}
	}
}
