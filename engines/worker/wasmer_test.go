//go:build (linux || darwin) && wasmer

package worker_test

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wasmer"
)

// The engine that these tests run.
const engineName = "wasmer"

func newInProcess() (engines.WasmEngine, error) { return wasmer.New() }
