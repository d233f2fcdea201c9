//go:build linux || darwin

package worker_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/meter"
)

// What the limits that are written into modules ask of an engine, one in a
// worker does.
func TestMetered(t *testing.T) {
	enginetest.Test(t, func(t testing.TB) engines.WasmEngine {
		return meter.Wrap(newEngine(t, config(t)), meter.Limits{})
	})
}
