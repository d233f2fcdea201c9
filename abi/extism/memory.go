package extism

import (
	"context"
	_ "embed" // memory.wasm
	"errors"

	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/engines"
)

// memoryWasm is the module whose instances are the memories of plugins. How it
// is made stands in module_test.go.
//
//go:embed memory.wasm
var memoryWasm []byte

// memory is what a plugin shares with the host: an instance of memory.wasm. What
// a plugin may have written over is of no consequence but to itself: each range
// is checked against the size of the memory.
type memory struct {
	inst                      engines.Instance
	bytes                     engines.Memory
	begin, end, alloc, length engines.Func
	stack                     [2]uint64 // reused from one call of a function to the next
}

func newMemory(ctx context.Context, m engines.Module) (*memory, error) {
	inst, err := m.Instantiate(ctx, memoryImports)
	if err != nil {
		return nil, err
	}
	mem := &memory{inst: inst, bytes: inst.Memory("memory")}
	for name, f := range map[string]*engines.Func{"host_begin": &mem.begin, "host_end": &mem.end, "alloc": &mem.alloc, "length": &mem.length} {
		if *f, err = inst.Func(name); err != nil {
			return nil, errors.Join(err, inst.Close())
		}
	}
	return mem, nil
}

// input begins a new call with its input. Errors: *[LimitError] when there is no
// room for it.
func (m *memory) input(ctx context.Context, input []byte) error {
	at, err := m.do(ctx, m.begin, uint64(len(input)))
	if err != nil {
		return err
	}
	if at == 0 && len(input) > 0 {
		return &LimitError{What: "input", Limit: m.bytes.Size(), Got: uint64(len(input))}
	}
	return guest.Write(m.bytes, uint32(at), input)
}

// outcome is the output of a call and its error message, which is cut; failed
// says that one was set. Errors: *[LimitError] when the output is too large.
func (m *memory) outcome(ctx context.Context) (output []byte, message string, failed bool, err error) {
	if err := m.end.Call(ctx, m.stack[:]); err != nil {
		return nil, "", false, err
	}
	out, text := m.stack[0], m.stack[1]
	if text != 0 {
		b, err := guest.Read(m.bytes, uint32(text>>32), min(uint32(text), MaxMessage), nil)
		return nil, string(b), true, err
	}
	n := uint32(out)
	if n > MaxOutput {
		return nil, "", false, &LimitError{What: "output", Limit: MaxOutput, Got: uint64(n)}
	}
	output, err = guest.Read(m.bytes, uint32(out>>32), n, nil)
	return output, "", false, err
}

// block is a copy of the block at an address, empty if there is none.
func (m *memory) block(ctx context.Context, at uint64) ([]byte, error) {
	n, err := m.do(ctx, m.length, at)
	if err != nil {
		return nil, err
	}
	return read(m.bytes, at, n)
}

// give makes a block of data and returns its address: 0 for none, and if there
// is no room.
func (m *memory) give(ctx context.Context, data []byte) (uint64, error) {
	at, err := m.do(ctx, m.alloc, uint64(len(data)))
	if err != nil || at == 0 {
		return 0, err
	}
	return at, guest.Write(m.bytes, uint32(at), data)
}

func (m *memory) do(ctx context.Context, f engines.Func, arg uint64) (uint64, error) {
	m.stack[0] = arg
	err := f.Call(ctx, m.stack[:])
	return m.stack[0], err
}
