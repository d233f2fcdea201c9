package diff_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/diff"
	"forgeone.dev/forgeone/engines/wazero"
)

func generate(seed uint64) *diff.Module { return diff.Generate(rand.New(rand.NewPCG(seed, 0))) }

func TestSeedDecides(t *testing.T) {
	if !bytes.Equal(generate(1).Bytes(), generate(1).Bytes()) {
		t.Error("one seed made two modules")
	}
	if bytes.Equal(generate(1).Bytes(), generate(2).Bytes()) {
		t.Error("two seeds made one module")
	}
}

// wrong is an engine that takes i32.and for the i32.sub by which gas is spent,
// so that less of it is left.
type wrong struct{ engines.WasmEngine }

func (w wrong) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	return w.WasmEngine.Compile(ctx, bytes.ReplaceAll(wasm, []byte{0x41, 0x01, 0x6b, 0x24, 0x00}, []byte{0x41, 0x01, 0x71, 0x24, 0x00}), opts)
}

// A difference is found, and what is made smaller shows it still.
func TestDifferenceIsFound(t *testing.T) {
	right, other := subject(t, "right", wazero.New), subject(t, "wrong", func() (engines.WasmEngine, error) {
		e, err := wazero.New()
		return wrong{e}, err
	})
	both := []diff.Subject{right, other}
	for seed := range uint64(100) {
		m := generate(seed)
		if m.Endless {
			continue
		}
		d, ok := errors.AsType[*diff.Difference](diff.CheckModule(t.Context(), both, m, seed, new(diff.Tally)))
		if !ok {
			continue
		}
		before := len(m.Bytes())
		small := diff.Minimize(t.Context(), both, d, 100)
		if after := len(small.Module.Bytes()); after >= before {
			t.Errorf("seed %d: a module of %d bytes was made %d", seed, before, after)
		}
		err := diff.CheckModule(t.Context(), both, small.Module, seed, new(diff.Tally))
		if again, ok := errors.AsType[*diff.Difference](err); !ok || again.GotA != small.GotA || again.GotB != small.GotB {
			t.Errorf("seed %d: the smaller module does %v, want %v", seed, err, small)
		}
		return
	}
	t.Error("an engine that counts wrongly was not found out")
}
