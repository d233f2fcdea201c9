package forge_test

import (
	"context"
	"testing"

	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// BenchmarkCall is a call of a function that does nothing, through the binding
// and bare.
func BenchmarkCall(b *testing.B) {
	var m asm.Module
	m.Memory("memory", 1)
	m.Func("forge_abi", function, asm.Code(nil).I32Const(int32(forge.Version)))
	m.Func("f", function, asm.Code(nil).I32Const(0))
	inst, binding, w := benchInstance(b, m.Bytes())
	call := w.begin(b)
	b.Run("bare", func(b *testing.B) {
		f, err := inst.Func("f")
		if err != nil {
			b.Fatal(err)
		}
		stack := make([]uint64, 1)
		b.ReportAllocs()
		for b.Loop() {
			if err := f.Call(context.Background(), stack); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("forge", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := binding.Call(call, inst, "f", nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSyscall is one syscall from a guest: decoded, gated, recorded (in a
// run of equals) and answered.
func BenchmarkSyscall(b *testing.B) {
	inst, binding, w := benchInstance(b, syscallLoop())
	call := w.begin(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := binding.Call(call, inst, "f", nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/syscallsPerCall, "ns/syscall")
}

const syscallsPerCall = 100

// syscallLoop is a guest whose function f asks for the wall clock again and again.
func syscallLoop() []byte {
	req := "\x08\x00time_get" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x01\x00" + "\x04\x00\x00\x00wall"
	var m asm.Module
	syscall := m.ImportFunc(forge.ModuleName, "syscall", importType["syscall"])
	m.Memory("memory", 1)
	m.Data(0, req)
	m.Func("forge_abi", function, asm.Code(nil).I32Const(int32(forge.Version)))
	body := asm.Code(nil).I32Const(syscallsPerCall).LocalSet(1).Loop()
	body = body.I32Const(0).I32Const(int32(len(req))).I32Const(0).I32Const(0).I32Const(1024).I32Const(64).Call(syscall).Op(asm.Drop)
	body = body.LocalGet(1).I32Const(1).Op(asm.I32Sub).LocalSet(1).LocalGet(1).BrIf(0).End()
	m.Func("f", function, body.I32Const(0), engines.I32)
	return m.Bytes()
}

func benchInstance(b *testing.B, wasm []byte) (engines.Instance, *forge.Binding, *world) {
	b.Helper()
	w := newWorld(b, "time_get")
	m, err := newEngine(b).Compile(context.Background(), wasm, engines.CompileOptions{})
	if err != nil {
		b.Fatal(err)
	}
	binding, err := forge.New(m)
	if err != nil {
		b.Fatal(err)
	}
	inst, err := binding.Instantiate(w.begin(b), m)
	if err != nil {
		b.Fatal(err)
	}
	return &remembering{inst, map[string]engines.Func{}}, binding, w
}

// remembering is an instance as a host keeps it: it looks each function up once.
type remembering struct {
	engines.Instance
	funcs map[string]engines.Func
}

func (r *remembering) Func(name string) (engines.Func, error) {
	if f, ok := r.funcs[name]; ok {
		return f, nil
	}
	f, err := r.Instance.Func(name)
	r.funcs[name] = f
	return f, err
}
