//go:build (linux || darwin) && !wasmer && !wasmtime

package worker_test

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wazero"
)

// The engine that these tests run.
const engineName = "wazero"

func newInProcess() (engines.WasmEngine, error) { return wazero.New() }
