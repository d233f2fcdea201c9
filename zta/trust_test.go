package zta_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

func TestTrustTable(t *testing.T) {
	const core = capability.Core
	for _, c := range []struct {
		vector    zta.TrustVector
		integrity float64
		ceiling   capability.TrustLevel
		score     float64
		level     capability.TrustLevel
	}{
		{zta.Root, 100, core, 1, core},
		{zta.Root, 95, core, 0.95, core},
		{zta.Root, 94.9, core, 0.949, capability.Trusted},
		{zta.Enclave, 100, core, 0.9, capability.Trusted},
		{zta.Signed, 100, core, 0.8, capability.Trusted},
		{zta.Signed, 100, capability.Limited, 0.8, capability.Limited},
		{zta.Signed, 93, core, 0.744, capability.Standard},
		{zta.EdgeGateway, 100, core, 0.7, capability.Standard},
		{zta.Unverified, 100, core, 0.5, capability.Standard},
		{zta.Unverified, 89, core, 0.445, capability.Limited},
		{zta.Unverified, 1, core, 0.005, capability.Limited},
		{zta.Unverified, 0, core, 0, capability.Quarantined},
		{zta.Root, 100, capability.Quarantined, 1, capability.Quarantined},
		{zta.Compromised, 100, core, 0, capability.Quarantined},
		{zta.Root + 1, 100, core, 0, capability.Quarantined},
		{zta.Root, math.NaN(), core, 0, capability.Quarantined},
		{zta.Root, math.Inf(1), core, 1, core},
		{zta.Root, -1, core, 0, capability.Quarantined},
	} {
		score, level := zta.Trust(c.vector, c.integrity, c.ceiling)
		if math.Abs(score-c.score) > 1e-12 || level != c.level {
			t.Errorf("Trust(%s, %v, %s) = %v, %s, want %v, %s", c.vector, c.integrity, c.ceiling, score, level, c.score, c.level)
		}
	}
}

func TestVerdict(t *testing.T) {
	for integrity, want := range map[float64]zta.Outcome{
		100: zta.Allow, 70: zta.Allow, 69.99: zta.Freeze, 50: zta.Freeze, 49.99: zta.Quarantine, 0: zta.Quarantine,
	} {
		if got := zta.Verdict(integrity); got != want {
			t.Errorf("Verdict(%v) = %s, want %s", integrity, got, want)
		}
	}
	if zta.Verdict(math.NaN()) != zta.Quarantine {
		t.Error("an integrity that is no number is not quarantined")
	}
}

func TestTrustIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := zta.TrustVector(rapid.IntRange(0, 5).Draw(t, "vector"))
		w := zta.TrustVector(rapid.IntRange(int(v), 5).Draw(t, "better vector"))
		i := rapid.Float64Range(0, 100).Draw(t, "integrity")
		j := rapid.Float64Range(i, 100).Draw(t, "more integrity")
		c := capability.TrustLevel(rapid.IntRange(0, 4).Draw(t, "ceiling"))
		s, l := zta.Trust(v, i, c)
		s2, l2 := zta.Trust(w, j, c)
		if s2 < s || l2 < l || l > c {
			t.Fatalf("%v %s, with more trust %v %s, ceiling %s", s, l, s2, l2, c)
		}
	})
}

func TestNamesRoundTrip(t *testing.T) {
	for v := range zta.Root + 1 {
		if got, err := zta.ParseTrustVector(v.String()); err != nil || got != v {
			t.Errorf("vector %d: %v, %v", v, got, err)
		}
	}
	for m := range zta.Permissive + 1 {
		if got, err := zta.ParseMode(m.String()); err != nil || got != m {
			t.Errorf("mode %d: %v, %v", m, got, err)
		}
	}
	for o := range zta.Allow + 1 {
		text, _ := o.MarshalText()
		var got zta.Outcome
		if err := got.UnmarshalText(text); err != nil || got != o {
			t.Errorf("outcome %d: %v, %v", o, got, err)
		}
	}
	vector, mode, outcome := zta.Root, zta.Audit, zta.Allow
	if vector.UnmarshalText([]byte("x")) == nil || vector != zta.Compromised {
		t.Errorf("a wrong vector is %s", vector)
	}
	if mode.UnmarshalText([]byte("x")) == nil || mode != zta.Enforce {
		t.Errorf("a wrong mode is %s", mode)
	}
	if outcome.UnmarshalText([]byte("x")) == nil {
		t.Error("a wrong outcome is taken")
	}
}
