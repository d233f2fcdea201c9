//go:build wasmer

package wasmer_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/wasmer"
)

func newEngine(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wasmer.New()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformance(t *testing.T) { enginetest.Test(t, newEngine) }
