//go:build linux || darwin

package worker_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/wazero"
)

var roles = map[string]func() (engines.WasmEngine, error){
	"wazero": wazero.New,
}

func TestConformance(t *testing.T) {
	enginetest.Test(t, func(t testing.TB) engines.WasmEngine { return newEngine(t, config(t)) })
}
