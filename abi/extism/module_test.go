package extism_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"os"
	"slices"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

var update = flag.Bool("update", false, "write memory.wasm anew")

// TestMemoryModule holds that memory.wasm is what this file makes:
//
//	go test ./abi/extism -run TestMemoryModule -update
func TestMemoryModule(t *testing.T) {
	made := memoryModule()
	if *update {
		if err := os.WriteFile("memory.wasm", made, 0o644); err != nil { //nolint:gosec // a source file
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("memory.wasm")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, made) {
		t.Error("memory.wasm is not what memoryModule makes; run this test with -update")
	}
}

// The layout of the memory. What lies below the arena is out of the guest's
// reach: the heads of the lists of free blocks, one for each class of sizes.
//
// A block is a header and its bytes. The header is the block's length and a tag,
// which is that of its address while the block is in use and 0 when it is free;
// a free block has in place of its length the next of its list. Blocks are taken
// off the lists, or from the end of the arena, so each operation ends after a
// few steps, whatever a guest has written over the headers.
const (
	headsSize = 512
	arena     = 1024    // where it begins
	pad       = 16      // bytes at its beginning that belong to no block
	header    = 8       // bytes of a header
	smallest  = 40      // bytes that the blocks of the smallest class hold
	maxAlloc  = 1 << 31 // bytes of the largest block
	pageBits  = 16
	oddTag    = -0x61c88647 // a tag is the low half of this times the address, made odd
)

// Globals, each an i64.
const (
	span         = iota // bytes of the arena that blocks and the pad take; at least pad
	inputOffset         // of the call
	inputLength         // of the call
	outputOffset        // of the call; 0 for none
	outputLength        // of the call
	errorOffset         // of the call; 0 for none
	numGlobals
)

// Instructions that package asm has no names for.
const (
	i32Load   = 0x28
	i64Load   = 0x29
	i32Load8  = 0x2d
	i32Store  = 0x36
	i64Store  = 0x37
	i32Store8 = 0x3a
	opSelect  = 0x1b
	i32Eq     = 0x46
	i32Ne     = 0x47
	i32GtU    = 0x4b
	i64Eqz    = 0x50
	i64Eq     = 0x51
	i64LtU    = 0x54
	i64GtU    = 0x56
	i64GeU    = 0x5a
	i32Clz    = 0x67
	i32Or     = 0x72
	i32Shl    = 0x74
	i32ShrU   = 0x76
	i64Sub    = 0x7d
	i64Or     = 0x84
	i64Shl    = 0x86
	i64ShrU   = 0x88
)

func seq(parts ...asm.Code) asm.Code { return slices.Concat(parts...) }

func op(ops ...byte) asm.Code     { return asm.Code(nil).Op(ops...) }
func get(i uint32) asm.Code       { return asm.Code(nil).LocalGet(i) }
func set(i uint32) asm.Code       { return asm.Code(nil).LocalSet(i) }
func tee(i uint32) asm.Code       { return binary.AppendUvarint(asm.Code{0x22}, uint64(i)) }
func global(i uint32) asm.Code    { return asm.Code(nil).GlobalGet(i) }
func setGlobal(i uint32) asm.Code { return asm.Code(nil).GlobalSet(i) }
func i32c(v int32) asm.Code       { return asm.Code(nil).I32Const(v) }
func i64c(v int64) asm.Code       { return asm.Code(nil).I64Const(v) }
func call(f uint32) asm.Code      { return asm.Code(nil).Call(f) }
func when(parts ...asm.Code) asm.Code {
	return seq(asm.Code(nil).If(), seq(parts...), asm.Code(nil).End())
}
func block(parts ...asm.Code) asm.Code {
	return seq(asm.Code(nil).Block(), seq(parts...), asm.Code(nil).End())
}
func leaveIf(depth uint32) asm.Code { return asm.Code(nil).BrIf(depth) }

// access is a load or store at the address on the stack plus offset.
func access(op byte, offset uint32) asm.Code {
	return binary.AppendUvarint(asm.Code{op, 0}, uint64(offset))
}

var (
	ret  = op(asm.Return)
	wrap = op(asm.I32WrapI64)
	wide = op(asm.I64ExtendI32U)
	fill = asm.Code{0xfc, 11, 0} // memory.fill
)

// sig is a function type: "i" is an i32, "I" an i64.
func sig(params, results string) engines.FuncType {
	types := func(s string) (ts []engines.ValueType) {
		for _, c := range s {
			ts = append(ts, map[rune]engines.ValueType{'i': engines.I32, 'I': engines.I64}[c])
		}
		return ts
	}
	return asm.Func(types(params), types(results))
}

// memoryModule is what a plugin gets as extism:host/env: the memory that plugin
// and host share and what is done in it alone, and wrappers of the effects, which
// the host does for them.
func memoryModule() []byte {
	const i32, i64 = engines.I32, engines.I64
	var m asm.Module

	// Effects get ranges of the memory. Those that have a result return its
	// length; "result" copies it to where it is told.
	host := func(name, params, results string) uint32 { return m.ImportFunc("host", name, sig(params, results)) }
	result := host("result", "I", "")
	configGet := host("config_get", "II", "I")
	varGet := host("var_get", "II", "I")
	varSet := host("var_set", "IIII", "")
	httpRequest := host("http_request", "IIII", "I")
	httpStatusCode := host("http_status_code", "", "i")
	httpHeaders := host("http_headers", "", "I")
	log := host("log", "iII", "")
	getLogLevel := host("get_log_level", "", "i")

	m.Memory("memory", 1)
	for g := range uint32(numGlobals) {
		begin := int64(0)
		if g == span {
			begin = pad
		}
		m.Global("", engines.GlobalType{Value: i64, Mutable: true}, i64c(begin))
	}
	getter := func(name string, g uint32) { m.Func(name, sig("", "I"), global(g)) }

	// class pops the length of a block, and sets step and q so that the blocks of
	// its class hold (q+1)<<step bytes, with q from 4 to 7.
	class := func(step, q uint32) asm.Code {
		const least = smallest - 8
		return seq(
			i32c(1), op(asm.I32Sub), tee(q), i32c(least), get(q), i32c(least), op(i32GtU, opSelect), set(q),
			i32c(29), get(q), op(i32Clz, asm.I32Sub), set(step),
			get(q), get(step), op(i32ShrU), set(q))
	}
	// head pushes the address of the head of the class's list.
	head := func(step, q uint32) asm.Code {
		return seq(get(step), i32c(4), op(i32Shl), get(q), i32c(2), op(i32Shl, asm.I32Add))
	}
	// before pushes an address so many bytes before p, an i32.
	before := func(p uint32, n int32) asm.Code { return seq(get(p), i32c(n), op(asm.I32Sub)) }
	// tag pushes the tag of p, an i32.
	tag := func(p uint32) asm.Code { return seq(get(p), i32c(oddTag), op(asm.I32Mul), i32c(1), op(i32Or)) }

	// alloc(n): a block of n bytes, or 0 where there is no room. Blocks have
	// addresses that are multiples of 8.
	var alloc uint32
	{
		const n, step, q, size, list, p, place = 0, 1, 2, 3, 4, 5, 6
		take := seq( // makes the block at p the guest's
			before(p, 8), get(n), wrap, access(i32Store, 0),
			before(p, 4), tag(p), access(i32Store, 0),
			get(p), wide, ret)
		alloc = m.Func("alloc", sig("I", "I"), seq(
			get(n), op(i64Eqz), get(n), i64c(maxAlloc), op(i64GtU, i32Or), when(i64c(0), ret),
			get(n), wrap, class(step, q),
			get(q), i32c(1), op(asm.I32Add), get(step), op(i32Shl), set(size),
			head(step, q), tee(list), access(i32Load, 0), tee(p),
			when(
				block(
					// What a guest has written over is no block: all of it must lie in the arena.
					get(p), wide, i64c(arena), op(i64Sub), tee(place), i64c(header), op(i64Sub), global(span), op(i64GtU), leaveIf(0),
					get(place), get(size), wide, op(asm.I64Add), global(span), op(i64GtU), leaveIf(0),
					get(list), before(p, 8), access(i32Load, 0), access(i32Store, 0),
					take),
				get(list), i32c(0), access(i32Store, 0)),
			global(span), i64c(header), op(asm.I64Add), tee(place), i64c(arena), op(asm.I64Add), wrap, set(p),
			get(place), get(size), wide, op(asm.I64Add), tee(place),
			i64c(arena+1<<pageBits-1), op(asm.I64Add), i64c(pageBits), op(i64ShrU), wrap, asm.Code(nil).MemorySize(), op(asm.I32Sub), tee(size),
			i32c(0), op(0x4a), // i32.gt_s
			when(get(size), asm.Code(nil).MemoryGrow(), i32c(-1), op(i32Eq), when(i64c(0), ret)),
			get(place), setGlobal(span),
			take), i32, i32, i32, i32, i32, i64)
	}

	// length(p): that of the block in use at p, or 0 if there is none.
	var length uint32
	{
		const p, place, a = 0, 1, 2
		length = m.Func("length", sig("I", "I"), seq(
			get(p), i64c(arena+header), op(i64Sub), tee(place), global(span), i64c(header), op(i64Sub, i64GtU), when(i64c(0), ret),
			get(p), wrap, set(a),
			get(place), wrap, access(i32Load, arena+4), tag(a), op(i32Ne), when(i64c(0), ret),
			get(place), wrap, access(i32Load, arena), wide, tee(p),
			global(span), i64c(header), op(i64Sub), get(place), op(i64Sub, i64GtU), when(i64c(0), ret),
			get(p)), i64, i32)
		m.Export("length_unsafe", engines.KindFunc, length)
	}

	// free(p) frees the block in use at p, if there is one.
	var free uint32
	{
		const p, step, q, a = 0, 1, 2, 3
		free = m.Func("free", sig("I", ""), seq(
			get(p), call(length), wrap, tee(q), op(asm.I32Eqz), when(ret),
			get(q), class(step, q),
			get(p), wrap, set(a),
			before(a, 8), head(step, q), access(i32Load, 0), access(i32Store, 0),
			before(a, 4), i32c(0), access(i32Store, 0),
			head(step, q), get(a), access(i32Store, 0),
			get(p), global(inputOffset), op(i64Eq), when(i64c(0), setGlobal(inputLength))), i32, i32, i32)
	}

	// Loads outside of the arena are 0, stores do nothing.
	{
		const p, v, place1, place2 = 0, 1, 1, 2
		locate := func(place uint32, size int64) asm.Code {
			return seq(get(p), i64c(arena), op(i64Sub), tee(place), global(span), i64c(size-1), op(i64Sub, i64GeU))
		}
		m.Func("load_u8", sig("I", "i"), seq(locate(place1, 1), when(i32c(0), ret), get(place1), wrap, access(i32Load8, arena)), i64)
		m.Func("load_u64", sig("I", "I"), seq(locate(place1, 8), when(i64c(0), ret), get(place1), wrap, access(i64Load, arena)), i64)
		m.Func("store_u8", sig("Ii", ""), seq(locate(place2, 1), when(ret), get(place2), wrap, get(v), access(i32Store8, arena)), i64)
		m.Func("store_u64", sig("II", ""), seq(locate(place2, 8), when(ret), get(place2), wrap, get(v), access(i64Store, arena)), i64)
	}

	// The input, of which what lies outside is 0.
	{
		const i = 0
		at := seq(global(inputOffset), get(i), op(asm.I64Add), wrap)
		beyond := seq(get(i), global(inputLength), op(i64GeU))
		m.Func("input_load_u8", sig("I", "i"), seq(beyond, when(i32c(0), ret), at, access(i32Load8, 0)))
		m.Func("input_load_u64", sig("I", "I"), seq(
			beyond, global(inputLength), get(i), op(i64Sub), i64c(8), op(i64LtU, i32Or), when(i64c(0), ret), at, access(i64Load, 0)))
	}

	// Ranges that do not lie in the arena are not set.
	{
		const p, n, place = 0, 1, 2
		setter := func(name string, offset, length uint32) {
			m.Func(name, sig("II", ""), seq(
				get(p), i64c(arena), op(i64Sub), tee(place), global(span), op(i64GtU),
				get(n), global(span), get(place), op(i64Sub, i64GtU, i32Or), when(ret),
				get(p), setGlobal(offset), get(n), setGlobal(length)), i64)
		}
		setter("input_set", inputOffset, inputLength)
		setter("output_set", outputOffset, outputLength)
		m.Func("error_set", sig("I", ""), seq(
			get(p), op(i64Eqz, asm.I32Eqz), get(p), i64c(arena), op(i64Sub), global(span), op(i64GtU, 0x71), when(ret), // i32.and
			get(p), setGlobal(errorOffset)))
	}
	getter("input_offset", inputOffset)
	getter("input_length", inputLength)
	getter("output_offset", outputOffset)
	getter("output_length", outputLength)
	getter("error_get", errorOffset)
	m.Func("memory_bytes", sig("", "I"), seq(asm.Code(nil).MemorySize(), wide, i64c(pageBits), op(i64Shl)))

	// reset() frees everything.
	clear := seq(
		i32c(0), i32c(0), i32c(headsSize), fill,
		i32c(arena), i32c(0), global(span), wrap, fill,
		i64c(pad), setGlobal(span))
	for _, g := range []uint32{inputOffset, inputLength, outputOffset, outputLength, errorOffset} {
		clear = seq(clear, i64c(0), setGlobal(g))
	}
	reset := m.Func("reset", sig("", ""), clear)

	// The host's own. begin(n) makes room for the input of a new call and returns
	// its address, 0 if there is none. end() returns the output and the error, each
	// as its offset<<32 | its length.
	m.Func("host_begin", sig("I", "I"), seq(
		call(reset), get(0), call(alloc), tee(1), op(i64Eqz), when(i64c(0), ret),
		get(1), setGlobal(inputOffset), get(0), setGlobal(inputLength), get(1)), i64)
	pair := func(offset, length asm.Code) asm.Code { return seq(offset, i64c(32), op(i64Shl), length, op(i64Or)) }
	m.Func("host_end", sig("", "II"), seq(
		pair(global(outputOffset), global(outputLength)),
		pair(global(errorOffset), seq(global(errorOffset), call(length)))))

	// give pops the length of a result, and pushes a block with it.
	give := m.Func("", sig("I", "I"), seq(
		get(0), op(i64Eqz), when(i64c(0), ret),
		get(0), call(alloc), tee(0), call(result), get(0)))
	// ranged pushes a block and its length.
	ranged := func(p uint32) asm.Code { return seq(get(p), get(p), call(length)) }
	m.Func("config_get", sig("I", "I"), seq(ranged(0), call(configGet), call(give)))
	m.Func("var_get", sig("I", "I"), seq(ranged(0), call(varGet), get(0), call(free), call(give)))
	m.Func("var_set", sig("II", ""), seq(ranged(0), ranged(1), call(varSet), get(0), call(free), get(1), call(free)))
	m.Func("http_request", sig("II", "I"), seq(ranged(0), ranged(1), call(httpRequest), get(0), call(free), get(1), call(free), call(give)))
	m.Func("http_headers", sig("", "I"), seq(call(httpHeaders), call(give)))
	m.Func("http_status_code", sig("", "i"), call(httpStatusCode))
	m.Func("get_log_level", sig("", "i"), call(getLogLevel))
	for level, name := range []string{"log_trace", "log_debug", "log_info", "log_warn", "log_error"} {
		m.Func(name, sig("I", ""), seq(i32c(int32(level)), ranged(0), call(log), get(0), call(free)))
	}
	return m.Bytes()
}
