//go:build (linux || darwin) && !wasmer && !wasmtime

package worker_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wazero"
)

// The engine in cmd/forgeone-engine that these tests run.
const engineName, engineTags = "wazero", ""

// inProcess is that engine without a worker.
func inProcess(t testing.TB) engines.WasmEngine {
	t.Helper()
	e, err := wazero.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}
