//go:build wasmtime

package wasmtime_test

import (
	"testing"


	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/wasmtime"
)

func newEngine(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wasmtime.New()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformance(t *testing.T) { enginetest.Test(t, newEngine) }
