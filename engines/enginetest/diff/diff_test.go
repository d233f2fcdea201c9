package diff_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines/enginetest/diff"
)

// Variables of the environment that make a run of TestModules longer.
const (
	modulesEnv = "FORGEONE_DIFF_MODULES" // how many
	seedEnv    = "FORGEONE_DIFF_SEED"    // of the first; those that follow are one more each
)

// shrinking is how many smaller modules are tried when one shows a difference.
const shrinking = 3000

func TestModules(t *testing.T) {
	modules, first := number(t, modulesEnv, 150), number(t, seedEnv, 0)
	engines := subjects(t)
	// Compilers leave much behind.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	var tally diff.Tally
	begin := time.Now()
	for seed := first; seed < first+modules; seed++ {
		check(t, diff.Check(t.Context(), engines, seed, &tally), engines)
	}
	took := time.Since(begin)
	for _, s := range engines {
		t.Logf("enginetest/diff: engine=%s %s", s.Name, s.Bare.Info().Version)
	}
	t.Logf("enginetest/diff: seeds %d to %d: %s, %.0f modules a second", first, first+modules-1, &tally, float64(tally.Modules)/took.Seconds())
	t.Logf("enginetest/diff: instructions that no module had: %v", tally.Missing())
	if tally.Returned*2 < tally.Calls {
		t.Errorf("only %d of %d calls returned: what is generated says little", tally.Returned, tally.Calls)
	}
}

// FuzzModules generates from what it is given.
func FuzzModules(f *testing.F) {
	for seed := range byte(20) {
		f.Add([]byte{seed, 1, 2, 3})
	}
	engines := subjects(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := diff.Generate(rand.New(&source{data: data, state: uint64(len(data))}))
		check(t, diff.CheckModule(t.Context(), engines, m, uint64(len(data)), new(diff.Tally)), engines)
	})
}

func check(t *testing.T, err error, engines []diff.Subject) {
	t.Helper()
	if d, ok := errors.AsType[*diff.Difference](err); ok {
		t.Fatalf("%v\n\nmade smaller: %v", err, diff.Minimize(t.Context(), engines, d, shrinking))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func number(t testing.TB, env string, def uint64) uint64 {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s=%q is not a number", env, text)
	}
	return n
}

// source draws from bytes, two at a time, and when they are used up goes on
// with what follows from them.
type source struct {
	data  []byte
	state uint64
}

func (s *source) Uint64() uint64 {
	s.state = s.state*6364136223846793005 + 1442695040888963407
	v := s.state ^ s.state>>29
	if len(s.data) < 2 {
		return v
	}
	top := binary.LittleEndian.Uint16(s.data)
	s.data = s.data[2:]
	s.state ^= uint64(top)
	return uint64(top)<<48 | v>>16 // what is drawn from few values uses the top
}
