package bench

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var update = flag.Bool("update", false, "write programs/kernels.wasm")

// Opcodes that asm does not name.
const (
	i32Load8U  = 0x2d
	i32Store8  = 0x3a
	i64Mul     = 0x7e
	bulk       = 0xfc
	memoryCopy = 10
	memoryFill = 11
	localTee   = 0x22
)

// kernels assembles programs/kernels.wasm.
func kernels() []byte {
	i32, i64 := engines.I32, engines.I64
	unary := asm.Func(asm.Types(i32), asm.Types(i32))
	const mib = 1 << 20
	m := new(asm.Module)
	next := m.ImportFunc(hostModule, "next", unary)
	m.Memory("memory", 2*mib/engines.PageSize)

	m.Func("add", asm.Func(asm.Types(i32, i32), asm.Types(i32)), asm.Code{}.LocalGet(0).LocalGet(1).Op(asm.I32Add))
	// for n > 0 { x = next(x); n-- }
	down := func(c asm.Code) asm.Code {
		return c.LocalGet(0).I32Const(1).Op(asm.I32Sub).Op(localTee, 0).BrIf(0).End().LocalGet(1)
	}
	m.Func("host", unary, down(asm.Code{}.Loop().LocalGet(1).Call(next).LocalSet(1)), i32)
	// for n > 0 { x = x*6364136223846793005 + 1442695040888963407; n-- }
	m.Func("loop", asm.Func(asm.Types(i32), asm.Types(i64)), down(asm.Code{}.Loop().LocalGet(1).
		I64Const(6364136223846793005).Op(i64Mul).I64Const(1442695040888963407).Op(asm.I64Add).LocalSet(1)), i64)
	// fib(n) = n < 2 ? n : fib(n-1) + fib(n-2)
	fib := next + 4
	if got := m.Func("fib", unary, asm.Code{}.LocalGet(0).I32Const(2).Op(asm.I32LtU).If().LocalGet(0).Op(asm.Return).End().
		LocalGet(0).I32Const(1).Op(asm.I32Sub).Call(fib).LocalGet(0).I32Const(2).Op(asm.I32Sub).Call(fib).Op(asm.I32Add)); got != fib {
		panic("fib calls another function")
	}
	m.Func("fill", unary, asm.Code{}.I32Const(0).LocalGet(0).I32Const(mib).Op(bulk, memoryFill, 0).
		I32Const(mib-1).Op(i32Load8U, 0, 0))
	m.Func("copy", unary, asm.Code{}.I32Const(mib-1).LocalGet(0).Op(i32Store8, 0, 0).
		I32Const(mib).I32Const(0).I32Const(mib).Op(bulk, memoryCopy, 0, 0).
		I32Const(2*mib-1).Op(i32Load8U, 0, 0))
	// for i = 0; i < 1 MiB; i += 64 { memory[i] = i + n }; for … { sum += memory[i] }
	each := func(c asm.Code) asm.Code {
		return c.LocalGet(1).I32Const(64).Op(asm.I32Add).Op(localTee, 1).I32Const(mib).Op(asm.I32LtU).BrIf(0).End()
	}
	m.Func("stride", unary, each(each(asm.Code{}.
		Loop().LocalGet(1).LocalGet(1).LocalGet(0).Op(asm.I32Add).I32Store(0)).
		I32Const(0).LocalSet(1).
		Loop().LocalGet(2).LocalGet(1).I32Load(0).Op(asm.I32Add).LocalSet(2)).LocalGet(2), i32, i32)
	return m.Bytes()
}

func TestKernelsAreWhatTheyAreMadeOf(t *testing.T) {
	const path = "programs/kernels.wasm"
	if *update {
		if err := os.WriteFile(path, kernels(), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(kernels(), kernelsWasm) {
		t.Errorf("%s is of other code; go test ./engines/bench -run Kernels -update writes it", path)
	}
}

// What was compiled is of the sources beside it.
func TestSums(t *testing.T) {
	list, err := os.ReadFile("programs/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for line := range strings.Lines(string(list)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		name = filepath.Clean(name)
		seen = append(seen, name)
		data, err := os.ReadFile(filepath.Join("programs", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
			t.Errorf("programs/%s has changed; programs/generate.sh compiles and writes the list", name)
		}
	}
	want := []string{"json.ts", "json.wasm", "sha256.ts", "sha256.wasm", "sort.ts", "sort.wasm"}
	if slices.Sort(seen); !slices.Equal(seen, want) {
		t.Errorf("the list is of %v, want %v", seen, want)
	}
}

// The answers that programs must give are those that Go comes to.
func TestAnswers(t *testing.T) {
	want := map[string]func() uint64{
		"add":  func() uint64 { return 1 + 2 },
		"host": func() uint64 { return 1000 },
		"loop": func() uint64 {
			var x uint64
			for range 1_000_000 {
				x = x*6364136223846793005 + 1442695040888963407
			}
			return x
		},
		"fib": func() uint64 {
			a, b := uint64(0), uint64(1)
			for range 25 {
				a, b = b, a+b
			}
			return a
		},
		"fill": func() uint64 { return 0xa5 },
		"copy": func() uint64 { return 0x5a },
		"stride": func() uint64 {
			var sum uint32
			for i := uint32(0); i < 1<<20; i += 64 {
				sum += i + 7
			}
			return uint64(sum)
		},
		"sha256":      sha256Answer,
		"sort":        sortAnswer,
		"json":        jsonAnswer,
		"instantiate": jsonAnswer,
		"compile":     jsonAnswer,
		Go:            goAnswer,
	}
	programs := append(Programs(), GoProgram(nil))
	for _, p := range programs {
		f := want[p.Name]
		if f == nil {
			t.Errorf("%s: nobody knows the answer", p.Name)
			continue
		}
		if w := f(); !slices.Equal(p.Want, []uint64{w}) {
			t.Errorf("%s: Want is %#x, should be %#x", p.Name, p.Want, w)
		}
	}
	if len(want) != len(programs) {
		t.Errorf("%d programs, want %d", len(programs), len(want))
	}
}

func sha256Answer() uint64 {
	message := make([]byte, 65536)
	for i := range message {
		message[i] = byte(i*31 + 7)
	}
	sum := sha256.Sum256(message)
	return binary.BigEndian.Uint64(sum[:])
}

func sortAnswer() uint64 {
	numbers := make([]int32, 10_000)
	x := uint32(2463534242)
	for i := range numbers {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		numbers[i] = int32(x)
	}
	slices.Sort(numbers)
	var sum int64
	for i, n := range numbers {
		sum += int64(n) * int64(i+1)
	}
	return uint64(sum)
}

func jsonAnswer() uint64 {
	var records []string
	for i := range 100 {
		records = append(records, fmt.Sprintf(
			`{"id":%d,"name":"item \"%d\"\n","price":%v,"change":%d,"stock":%v,"tags":["red","green",[],{}],"parent":null,"place":{"x":%d,"y":%d}}`,
			i, i*7919%1000, float64(i*104729%100000)/1000, -(i%90+1), i&1 == 1, i*i%977, i%31))
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "[%s]", strings.ReplaceAll(strings.Join(records, ","), "\n", `\n`))
	return h.Sum64()
}

func goAnswer() uint64 {
	sums := map[int]int{}
	for i := range 200 {
		sums[i*i%17] += i * 7919 % 4096
	}
	var report []string
	for user, sum := range sums {
		report = append(report, fmt.Sprintf("u%d=%d", user, sum))
	}
	slices.Sort(report)
	h := fnv.New64a()
	fmt.Fprint(h, strings.Join(report, "\n"))
	return h.Sum64()
}
