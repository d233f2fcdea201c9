package spec_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/wazero"
)

func TestWazero(t *testing.T) {
	newEngine := func(t testing.TB) engines.WasmEngine {
		e, err := wazero.New()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	total := 0
	for _, version := range []string{"v1", "v2"} {
		sum := spec.Run(t, version, newEngine, engines.CompileOptions{})
		t.Logf("spec %s: %s", version, sum)
		total += sum.Assertions()
	}
	// As many as there are: a vector that is not read is not a vector that holds.
	if total != 70_668 {
		t.Errorf("%d assertions, want 70,668", total)
	}
}
