package extism_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/abi/extism"
	"forgeone.dev/forgeone/engines"
)

// memory is an instance of memory.wasm.
type memory struct {
	testing.TB
	inst  engines.Instance
	bytes engines.Memory
}

func newMemory(t testing.TB, m engines.Module) memory {
	t.Helper()
	inst, err := m.Instantiate(context.Background(), extism.MemoryImports())
	if err != nil {
		t.Fatal(err)
	}
	return memory{t, inst, inst.Memory("memory")}
}

// do calls a function, which must not trap, and returns its result, if it has one.
func (m memory) do(name string, args ...uint64) uint64 {
	m.Helper()
	f, err := m.inst.Func(name)
	if err != nil {
		m.Fatal(err)
	}
	stack := make([]uint64, 2)
	copy(stack, args)
	if err := f.Call(context.Background(), stack); err != nil {
		m.Fatalf("%s(%#x): %v", name, args, err)
	}
	if len(f.Type().Results) == 0 {
		return 0
	}
	return stack[0]
}

// begin begins a call with an input.
func (m memory) begin(input string) uint64 {
	m.Helper()
	p := m.do("host_begin", uint64(len(input)))
	if len(input) > 0 && !m.bytes.Write(p, []byte(input)) {
		m.Fatalf("the input's %#x is out of bounds", p)
	}
	return p
}

// corners are addresses and lengths that go wrong where something is unchecked.
var corners = []uint64{
	0, 1, 7, 8, arena - 8, arena - 1, arena, arena + 1, arena + pad - 1, arena + pad, arena + pad + header,
	65535, 65536, 65537, math.MaxInt32, 1 << 31, math.MaxUint32 - 7, math.MaxUint32, 1 << 32, 1<<32 + arena + pad + header,
	math.MaxInt64, 1 << 63, math.MaxUint64 - 7, math.MaxUint64,
}

// TestHostileRanges: nothing traps, nothing outside of the arena is read or
// written, and the host gets no range that is out of bounds.
func TestHostileRanges(t *testing.T) {
	mod := compile(t, newEngine(t), extism.MemoryWasm())
	m := newMemory(t, mod)
	p := m.begin("0123456789")
	end := arena + m.arena() // of what is taken
	below := make([]byte, arena)
	m.bytes.Read(0, below)
	for _, a := range corners {
		inside := a >= arena && a < end
		if got := m.do("load_u8", a); !inside && got != 0 {
			t.Errorf("load_u8(%#x) is %#x", a, got)
		}
		if got := m.do("load_u64", a); (!inside || a > end-8) && got != 0 {
			t.Errorf("load_u64(%#x) is %#x", a, got)
		}
		if got := m.do("input_load_u8", a); a >= 10 && got != 0 {
			t.Errorf("input_load_u8(%d) is %#x", a, got)
		}
		if got := m.do("input_load_u64", a); a > 2 && got != 0 {
			t.Errorf("input_load_u64(%d) is %#x", a, got)
		}
		if a != p {
			if n := m.do("length", a); n != 0 {
				t.Errorf("length(%#x) is %d", a, n)
			}
			m.do("free", a)
		}
		if !inside {
			m.do("store_u8", a, 0xff)
			m.do("store_u64", a, math.MaxUint64)
		}
		m.do("error_set", a)
		for _, n := range corners {
			m.do("output_set", a, n)
			m.do("input_set", a, n)
			for _, what := range []string{"output", "input"} {
				if at, n := m.do(what+"_offset"), m.do(what+"_length"); at+n < at || at+n > m.bytes.Size() {
					t.Errorf("the %s is %d bytes at %#x", what, n, at)
				}
			}
		}
		if at := m.do("error_get"); at > m.bytes.Size() {
			t.Errorf("the error is at %#x", at)
		}
	}
	after := make([]byte, arena)
	m.bytes.Read(0, after)
	if !bytes.Equal(below, after) {
		t.Error("what lies below the arena has changed")
	}
	if got := m.do("length", p); got != 10 {
		t.Errorf("the input's block has %d bytes", got)
	}
}

// arena is how many bytes of the arena are taken: the highest address at which a
// store is seen again tells.
func (m memory) arena() uint64 {
	m.Helper()
	n := uint64(0)
	for m.do("load_u8", arena+n) != 0 || m.stores(arena+n) {
		n++
	}
	return n
}

func (m memory) stores(at uint64) bool {
	m.do("store_u8", at, 1)
	ok := m.do("load_u8", at) == 1
	m.do("store_u8", at, 0)
	return ok
}

// TestHugeAllocations fail as there is no room, and leave what there is.
func TestHugeAllocations(t *testing.T) {
	m := newMemory(t, compile(t, newEngine(t), extism.MemoryWasm()))
	m.begin("x")
	for _, n := range append(corners, maxAlloc+1, maxAlloc, maxAlloc-1, 5<<20) {
		if p := m.do("alloc", n); n > 4<<20 && p != 0 {
			t.Errorf("alloc(%d) is %#x", n, p)
		} else if p != 0 && (m.do("length", p) != n || p+n > m.bytes.Size()) {
			t.Errorf("alloc(%d) is %#x, of length %d, in a memory of %d", n, p, m.do("length", p), m.bytes.Size())
		}
	}
	if p := m.do("host_begin", 5<<20); p != 0 {
		t.Errorf("an input of 5 MiB is at %#x", p)
	}
	if p := m.begin("again"); p == 0 || m.do("input_length") != 5 {
		t.Error("no room after that")
	}
}

// TestOverwrittenHeaders writes over everything in the arena, and goes on: what
// comes of it is the guest's own affair, but nothing hangs or traps, and what is
// handed out lies in the arena.
func TestOverwrittenHeaders(t *testing.T) {
	mod := compile(t, newEngine(t), extism.MemoryWasm())
	rapid.Check(t, func(r *rapid.T) {
		m := newMemory(t, mod)
		defer m.inst.Close()
		m.begin("some input")
		var blocks []uint64
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			switch rapid.IntRange(0, 3).Draw(r, "do") {
			case 0:
				n := rapid.Uint64Range(1, 300).Draw(r, "n")
				if p := m.do("alloc", n); p != 0 {
					if p < arena || p+n > m.bytes.Size() {
						r.Fatalf("alloc(%d) is %#x", n, p)
					}
					blocks = append(blocks, p)
				}
			case 1:
				if len(blocks) > 0 {
					m.do("free", rapid.SampledFrom(blocks).Draw(r, "free"))
				}
			default:
				at := rapid.Uint64Range(arena, arena+2000).Draw(r, "at")
				values := append([]uint64{}, corners...)
				for _, b := range blocks {
					values = append(values, b, b<<32|b, uint64(tagOf(b))<<32|b)
				}
				m.do("store_u64", at, rapid.SampledFrom(values).Draw(r, "value"))
			}
			if n := m.do("length", arena+pad+header); n > m.bytes.Size() {
				r.Fatalf("a block of %d bytes", n)
			}
		}
		m.begin("new")
		if m.do("input_load_u8", 2) != 'w' {
			r.Fatal("a new call has not its input")
		}
	})
}

func tagOf(p uint64) uint32 {
	odd := int32(oddTag)
	return uint32(p)*uint32(odd) | 1
}

// TestBlocks holds the memory to a model: blocks in use do not overlap, keep what
// was written to them and have the length that was asked for; others have none.
func TestBlocks(t *testing.T) {
	mod := compile(t, newEngine(t), extism.MemoryWasm())
	rapid.Check(t, func(r *rapid.T) {
		m := newMemory(t, mod)
		defer m.inst.Close()
		input := rapid.StringN(0, 50, 100).Draw(r, "input")
		at := m.begin(input)
		model, freed := map[uint64][]byte{}, map[uint64]bool{}
		if input != "" {
			model[at] = []byte(input)
		}
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			switch rapid.IntRange(0, 2).Draw(r, "do") {
			case 0, 1:
				data := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(r, "data")
				if rapid.Bool().Draw(r, "large") {
					data = bytes.Repeat(data, 500)
				}
				p := m.do("alloc", uint64(len(data)))
				if p == 0 || p%8 != 0 {
					r.Fatalf("alloc(%d) is %#x", len(data), p)
				}
				for q, other := range model {
					if p < q+uint64(len(other)) && q < p+uint64(len(data)) {
						r.Fatalf("%d bytes at %#x overlap %d at %#x", len(data), p, len(other), q)
					}
				}
				i := 0
				for ; i+8 <= len(data); i += 8 {
					m.do("store_u64", p+uint64(i), binary.LittleEndian.Uint64(data[i:]))
				}
				for ; i < len(data); i++ {
					m.do("store_u8", p+uint64(i), uint64(data[i]))
				}
				model[p] = data
				delete(freed, p)
			case 2:
				for p := range model {
					m.do("free", p)
					if p == at && m.do("input_length") != 0 {
						r.Fatal("the input that was freed has a length")
					}
					delete(model, p)
					freed[p] = true
					break
				}
			}
			for p, data := range model {
				got := make([]byte, len(data))
				if n := m.do("length", p); n != uint64(len(data)) || !m.bytes.Read(p, got) || !bytes.Equal(got, data) {
					r.Fatalf("the block of %d bytes at %#x has %d, or others", len(data), p, n)
				}
			}
			for p := range freed {
				if n := m.do("length", p); n != 0 {
					r.Fatalf("a free block at %#x has %d bytes", p, n)
				}
				m.do("free", p) // again, which does nothing
			}
		}
	})
}

// TestFreedBlocksAreUsedAgain: a call that frees what it allocates takes no more
// memory the longer it runs.
func TestFreedBlocksAreUsedAgain(t *testing.T) {
	m := newMemory(t, compile(t, newEngine(t), extism.MemoryWasm()))
	m.begin("")
	for i := range uint64(20_000) {
		p := m.do("alloc", 1+i*7%1000)
		if p == 0 {
			t.Fatalf("no room after %d blocks", i)
		}
		m.do("free", p)
	}
	if size := m.bytes.Size(); size > engines.PageSize {
		t.Errorf("the memory has grown to %d bytes", size)
	}
}

// TestNewCallHasNothingOfTheLast: blocks are gone, and the bytes are 0.
func TestNewCallHasNothingOfTheLast(t *testing.T) {
	m := newMemory(t, compile(t, newEngine(t), extism.MemoryWasm()))
	secret := m.begin("secret")
	m.do("output_set", secret, 6)
	m.do("error_set", secret)
	m.do("free", m.do("alloc", 100))
	m.begin("")
	for _, f := range []string{"input_length", "output_length", "output_offset", "error_get"} {
		if got := m.do(f); got != 0 {
			t.Errorf("%s is %d", f, got)
		}
	}
	p := m.do("alloc", 64)
	if p != secret {
		t.Errorf("the first block is at %#x, was at %#x", p, secret)
	}
	for i := range uint64(64) {
		if b := m.do("load_u8", p+i); b != 0 {
			t.Fatalf("byte %d is %#x", i, b)
		}
	}
}

// TestMemoryIsMetered: what the memory does for a plugin is of the plugin's fuel.
func TestMemoryIsMetered(t *testing.T) {
	e := newEngine(t)
	few := options
	few.Fuel = 200_000
	wasm := echo()
	m, err := e.Compile(context.Background(), wasm, few)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := extism.New(context.Background(), e, few, m, extism.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	call := newWorld(t).begin(t)
	inst, err := b.Instantiate(call)
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	if out, err := b.Call(call, inst, "echo", make([]byte, 1000)); err != nil || len(out) != 1000 {
		t.Fatalf("%d bytes, %v", len(out), err)
	}
	_, err = b.Call(call, inst, "echo", make([]byte, 60_000))
	if trap, ok := errors.AsType[*engines.Trap](err); !ok || trap.Class != engines.TrapFuel {
		t.Errorf("got %v", err)
	}
}

// FuzzMemory holds that nothing that is called of the memory traps or hands out
// what lies outside of it.
func FuzzMemory(f *testing.F) {
	mod := compile(f, newEngine(f), extism.MemoryWasm())
	names := []string{"alloc", "free", "length", "load_u8", "load_u64", "store_u8", "store_u64", "input_load_u8", "input_load_u64", "input_set", "output_set", "error_set", "reset", "memory_bytes", "host_end"}
	f.Add([]byte{0, 16, 0, 1, 8, 1, 2, 8, 0, 6, 8, 40, 0, 16, 0})
	f.Add([]byte{0, 255, 0, 9, 3, 9, 10, 3, 30, 11, 3, 0, 14, 0, 0})
	f.Fuzz(func(t *testing.T, program []byte) {
		m := newMemory(t, mod)
		defer m.inst.Close()
		m.begin("input")
		// operand is a corner, or an address near one that there may be a block at.
		operand := func(b byte) uint64 {
			if int(b) < len(corners) {
				return corners[b]
			}
			return arena + uint64(b-byte(len(corners)))*8
		}
		for len(program) >= 3 && len(program) < 3000 {
			name := names[int(program[0])%len(names)]
			got := m.do(name, operand(program[1]), operand(program[2]))
			if name == "alloc" && got != 0 && (got < arena || got >= m.bytes.Size()) {
				t.Fatalf("alloc is %#x", got)
			}
			program = program[3:]
		}
		out, n := m.do("output_offset"), m.do("output_length")
		if out+n < out || out+n > m.bytes.Size() {
			t.Fatalf("the output is %d bytes at %#x", n, out)
		}
	})
}
