package syscalls_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
)

// BenchmarkSyscall is one gated and recorded syscall with next to no effect:
// folded into its call, or with records of its own.
func BenchmarkSyscall(b *testing.B) {
	p := newKernel(b, syscalls.Options{}).plugin("p", capability.Limited, capability.Grant{})
	args := []string{"monotonic"}
	check := func(res abi.SyscallResult) {
		if res.Status != abi.Success {
			b.Fatal(res.Error())
		}
	}
	b.Run("folded", func(b *testing.B) {
		call, err := p.gate.Begin(b.Context(), p.s, "bench", nil)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			check(call.Syscall(call.Context(), "time_get", args, 0, nil))
		}
		if err := call.End(nil, nil); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("single", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			check(p.do("time_get", 0, nil, args...))
		}
	})
}

// BenchmarkOpen is an open and a close, three directories down.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "b", "c", "f"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	p := dataPlugin(b, dir)
	const path = "/data/a/b/c/f"
	b.ReportAllocs()
	for b.Loop() {
		res := p.do("file_open", 0, nil, path, "r")
		if res.Status != abi.Success {
			b.Fatal(res.Error())
		}
		p.do("file_close", abi.Handle(binary.LittleEndian.Uint64(res.Data)), nil, path)
	}
}

func BenchmarkKVPut(b *testing.B) {
	p := newKernel(b, syscalls.Options{State: openState(b)}).plugin("p", capability.Limited, capability.Grant{})
	value := make([]byte, 100)
	for b.Loop() {
		if res := p.do("kv_put", 0, value, "k"); res.Status != abi.Success {
			b.Fatal(res.Error())
		}
	}
}
