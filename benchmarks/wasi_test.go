package benchmarks_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	upstream "github.com/tetratelabs/wazero"
	preview1 "github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/enginetest/versus"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

const wasiModule = "wasi_snapshot_preview1"

// Functions of preview 1 that the commands import, by their type's letters: "i"
// is an i32 and "I" an i64.
func importWASI(m *asm.Module, name, params string) uint32 {
	types := make([]engines.ValueType, len(params))
	for i, c := range params {
		types[i] = map[rune]engines.ValueType{'i': engines.I32, 'I': engines.I64}[c]
	}
	return m.ImportFunc(wasiModule, name, asm.Func(types, asm.Types(engines.I32)))
}

// copyCommand is a command that copies /from to /to through a buffer.
func copyCommand(buffer int32) []byte {
	var m asm.Module
	open := importWASI(&m, "path_open", "iiiiiIIii")
	read := importWASI(&m, "fd_read", "iiii")
	write := importWASI(&m, "fd_write", "iiii")
	m.Memory("memory", uint32(buffer/engines.PageSize)+2)
	m.Data(0, "from"+"to")
	opening := func(c asm.Code, at, n, oflags int32, rights int64, fd int32) asm.Code {
		return c.I32Const(3).I32Const(0).I32Const(at).I32Const(n).I32Const(oflags).I64Const(rights).I64Const(0).I32Const(0).I32Const(fd).Call(open).Op(asm.Drop)
	}
	const from, to, vector, count = 16, 20, 24, 32
	body := opening(nil, 0, 4, 0, 1<<1, from)
	body = opening(body, 4, 2, 1|8, 1<<6, to)
	body = body.I32Const(vector).I32Const(engines.PageSize).I32Store(0).Loop().
		I32Const(vector).I32Const(buffer).I32Store(4).
		I32Const(0).I32Load(from).I32Const(vector).I32Const(1).I32Const(count).Call(read).Op(asm.Drop).
		I32Const(vector).I32Const(0).I32Load(count).I32Store(4).
		I32Const(0).I32Load(to).I32Const(vector).I32Const(1).I32Const(count).Call(write).Op(asm.Drop).
		I32Const(vector).I32Load(4).BrIf(0).End()
	m.Func("_start", engines.FuncType{}, body)
	return m.Bytes()
}

// writeCommand is a command that writes a byte to standard output, many times.
func writeCommand(times int32) []byte {
	var m asm.Module
	write := importWASI(&m, "fd_write", "iiii")
	m.Memory("memory", 1)
	body := asm.Code(nil).I32Const(0).I32Const(64).I32Store(0).I32Const(0).I32Const(1).I32Store(4).Loop().
		I32Const(1).I32Const(0).I32Const(1).I32Const(16).Call(write).Op(asm.Drop).
		LocalGet(0).I32Const(1).Op(asm.I32Add).LocalSet(0).
		LocalGet(0).I32Const(times).Op(asm.I32LtU).BrIf(0).End()
	m.Func("_start", engines.FuncType{}, body, engines.I32)
	return m.Bytes()
}

// BenchmarkWASI runs commands on ForgeOne and on wazero with its own WASI, both
// compiled before. ForgeOne meters them, decides each of their requests, and
// puts it on record.
func BenchmarkWASI(b *testing.B) {
	const size, writes = 64 << 20, 1_000_000
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "from"), make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name string
		wasm []byte
	}{
		{"copy-64MiB-by-4KiB", copyCommand(4 << 10)},
		{"copy-64MiB-by-64KiB", copyCommand(64 << 10)},
		{"copy-64MiB-by-1MiB", copyCommand(1 << 20)},
		{"write-" + strconv.Itoa(writes) + "-bytes", writeCommand(writes)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			out, err := os.Create(filepath.Join(b.TempDir(), "out"))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = out.Close() }()
			versus.Run(b,
				versus.Rival{Name: "wazero", Do: onWazero(b, bench.wasm, dir, out)},
				versus.Rival{Name: "forgeone", Do: onForgeOne(b, bench.wasm, dir, out)},
			)
		})
	}
}

func onWazero(b *testing.B, wasm []byte, dir string, out io.Writer) func() error {
	b.Helper()
	r := upstream.NewRuntime(ctx)
	b.Cleanup(func() { _ = r.Close(ctx) })
	preview1.MustInstantiate(ctx, r)
	m, err := r.CompileModule(ctx, wasm)
	if err != nil {
		b.Fatal(err)
	}
	c := upstream.NewModuleConfig().WithStdout(out).WithFSConfig(upstream.NewFSConfig().WithDirMount(dir, "/")).WithName("")
	return func() error {
		inst, err := r.InstantiateModule(ctx, m, c)
		if err != nil {
			return err
		}
		return inst.Close(ctx)
	}
}

func onForgeOne(b *testing.B, wasm []byte, dir string, out io.Writer) func() error {
	b.Helper()
	path := filepath.Join(b.TempDir(), "command.wasm")
	if err := os.WriteFile(path, wasm, 0o600); err != nil {
		b.Fatal(err)
	}
	registry := new(abi.SyscallRegistry)
	if err := registry.Register(syscalls.Registrations(syscalls.Options{Stdio: func(_, _ string, p []byte) { _, _ = out.Write(p) }})...); err != nil {
		b.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: b.TempDir(), Name: "bench", AllowGenerate: true})
	if err != nil {
		b.Fatal(err)
	}
	h, err := host.NewPluginHost(host.WithEngine(func() (engines.WasmEngine, error) {
		e, err := wazero.New()
		if err != nil {
			return nil, err
		}
		return meter.Wrap(e, meter.Limits{}), nil
	}), host.WithSyscalls(registry), host.WithLog(log), host.WithPolicies(zta.Enforce, zta.Policy{Name: "all"}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(h.Close(ctx), log.Close()); err != nil {
			b.Error(err)
		}
	})
	set, err := capability.New(capability.Grant{Syscalls: []string{"file_*", "stdio_*"}, Resources: []string{"file:///**"}})
	if err != nil {
		b.Fatal(err)
	}
	id, err := h.LoadPlugin(ctx, host.PluginConfig{
		Name: "command", WasmModule: path, TrustLevel: capability.Standard, Capabilities: set,
		Mounts: []host.Mount{{Guest: "/", Host: dir}}, Limits: host.Limits{Timeout: host.NoTimeout},
	})
	if err == nil {
		err = h.StartPlugin(ctx, id)
	}
	if err != nil {
		b.Fatal(err)
	}
	return func() error {
		_, err := h.Call(ctx, id, host.Start, nil)
		return err
	}
}
