//go:build (linux || darwin) && wasmtime

package worker_test

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wasmtime"
)

// The engine that these tests run.
const engineName = "wasmtime"

func newInProcess() (engines.WasmEngine, error) { return wasmtime.New() }
