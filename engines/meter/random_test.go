package meter_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/meter"
)

// program draws a module whose run takes and returns an i32: blocks, loops and
// branches of all kinds round a few variables and a memory, calls of a small
// function and of itself.
func program(t *rapid.T) *asm.Module {
	m := new(asm.Module)
	m.Memory("memory", 1)
	const locals = 4
	leaf := m.Func("", i32ToI32, asm.Code{}.LocalGet(0).I32Const(3).Op(asm.I32Mul).I32Const(1).Op(asm.I32Add))
	self := leaf + 1
	n := func(limit int, what string) int { return rapid.IntRange(0, limit-1).Draw(t, what) }
	local := func() uint32 { return uint32(n(locals, "local")) }
	address := func(c asm.Code) asm.Code { return c.LocalGet(local()).I32Const(0xfff).Op(0x71) } // i32.and
	var stmts func(depth, labels int) asm.Code
	stmt := func(depth, labels int) asm.Code {
		kind := n(16, "statement")
		if depth == 0 {
			kind %= 9
		}
		c := asm.Code{}
		label := func() uint32 { return uint32(n(labels, "label")) }
		switch kind {
		case 0, 1:
			op := rapid.SampledFrom([]byte{asm.I32Add, asm.I32Sub, asm.I32Mul, asm.I32LtU, 0x71, 0x73}).Draw(t, "op")
			return c.LocalGet(local()).LocalGet(local()).Op(op).LocalSet(local())
		case 2:
			return c.I32Const(int32(n(100, "constant"))).LocalSet(local())
		case 3:
			return address(c).LocalGet(local()).I32Store(0)
		case 4:
			return address(c).I32Load(0).LocalSet(local())
		case 5:
			return memoryCopy(address(address(address(c))))
		case 6:
			return c.LocalGet(local()).Call(leaf).LocalSet(local())
		case 7, 8:
			if labels == 1 {
				return c.Op(asm.Nop)
			}
			return c.LocalGet(local()).I32Const(3).Op(0x71).BrIf(uint32(n(labels-1, "label"))) // not out of the function
		case 9:
			return append(c.Block(), stmts(depth-1, labels+1)...).End()
		case 10, 11:
			return append(c.Loop(), stmts(depth-1, labels+1)...).End()
		case 12:
			c = append(c.LocalGet(local()).If(), stmts(depth-1, labels+1)...)
			return append(c.Op(0x05), stmts(depth-1, labels+1)...).End()
		case 13:
			return c.LocalGet(local()).Br(label())
		case 14:
			return c.LocalGet(local()).I32Const(0x3f).Op(0x71, asm.I32Eqz).If().LocalGet(local()).Call(self).LocalSet(local()).End()
		}
		return c.LocalGet(local()).Op(asm.Return)
	}
	stmts = func(depth, labels int) asm.Code {
		c := asm.Code{}
		for range n(5, "statements") {
			c = append(c, stmt(depth, labels)...)
		}
		return c
	}
	// Nested too deeply for segments that are not straight lines, or not.
	around := rapid.SampledFrom([]int{0, 0, 40}).Draw(t, "blocks around")
	body := append(bytes.Repeat(asm.Code{}.Block(), around), stmts(4, 1+around)...)
	body = append(body, bytes.Repeat(asm.Code{}.End(), around)...)
	m.Func("run", i32ToI32, asm.Code(body).LocalGet(local()), i32, i32, i32)
	return m
}

// Any program does the same metered as not, and spends what its instructions
// cost, whatever it may.
func TestRandomPrograms(t *testing.T) {
	plain, wrapped := bare(t), metered(t)
	defer plain.Close()
	defer wrapped.Close()
	const fuel = 50_000
	ran, ended := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		wasm := program(t).Bytes()
		run := func(e engines.WasmEngine, opts engines.CompileOptions) (string, uint64, error) {
			mod, err := e.Compile(t.Context(), wasm, opts)
			if err != nil {
				t.Fatalf("%v: %x", err, wasm)
			}
			defer mod.Close()
			inst, err := mod.Instantiate(t.Context(), engines.Imports{})
			if err != nil {
				t.Fatal(err)
			}
			defer inst.Close()
			f, err := inst.Func("run")
			if err != nil {
				t.Fatal(err)
			}
			stack := []uint64{40}
			err = f.Call(t.Context(), stack)
			memory := make([]byte, engines.PageSize)
			inst.Memory("memory").Read(0, memory)
			counts, ok := inst.(engines.FuelMeter)
			if !ok {
				return fmt.Sprint(stack, class(err), memory), 0, err
			}
			return fmt.Sprint(stack, class(err), memory), counts.FuelUsed(), err
		}
		ran++
		got, used, err := run(wrapped, engines.CompileOptions{Fuel: fuel})
		if limited(err) {
			return // it may never end
		}
		ended++
		want, _, _ := run(plain, engines.CompileOptions{})
		if got != want {
			t.Fatalf("with fuel: %x", wasm)
		}
		if got, _, _ := run(wrapped, engines.CompileOptions{Interruptible: true}); got != want {
			t.Fatalf("with a deadline: %x", wasm)
		}
		if got, again, _ := run(wrapped, engines.CompileOptions{Fuel: math.MaxInt64, CallDepth: fuel}); got != want || again != used {
			t.Fatalf("with fuel and depth: %d units, want %d: %x", again, used, wasm)
		}
		if err != nil {
			return
		}
		if count := counted(t, plain, wasm); count != used {
			t.Fatalf("%d units, and the instructions cost %d: %x", used, count, wasm)
		}
		if _, again, err := run(wrapped, engines.CompileOptions{Fuel: used}); err != nil || again != used {
			t.Fatalf("with %d units: %d, %v: %x", used, again, err, wasm)
		}
		if used > 1 {
			_, _, err := run(wrapped, engines.CompileOptions{Fuel: used - 1})
			if class(err) != engines.TrapFuel {
				t.Fatalf("with %d of %d units: %v: %x", used-1, used, err, wasm)
			}
		}
	})
	if ended*4 < ran {
		t.Errorf("only %d of %d programs ended: what is drawn says little", ended, ran)
	}
}

// counted is what a call of run costs, counted as it runs.
func counted(t *rapid.T, e engines.WasmEngine, wasm []byte) uint64 {
	counting, err := meter.Counting(wasm)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := e.Compile(t.Context(), counting, engines.CompileOptions{})
	if err != nil {
		t.Fatalf("%v: %x", err, counting)
	}
	defer mod.Close()
	inst, err := mod.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	f, err := inst.Func("run")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Call(t.Context(), []uint64{40}); err != nil {
		t.Fatalf("counting: %v", err)
	}
	return inst.Global(meter.ExportCount).Get()
}
