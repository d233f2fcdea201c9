package spec_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/wazero"
)

// Package meter has the other modes of wazero.
func TestWazero(t *testing.T) {
	spec.Test(t, func(t testing.TB) engines.WasmEngine {
		e, err := wazero.New()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}, "plain")
}
