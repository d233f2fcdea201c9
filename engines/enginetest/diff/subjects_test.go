package diff_test

import (
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/diff"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

// subjects are the engines that are compared: wazero in this process, and the
// others that there are.
func subjects(t testing.TB) []diff.Subject {
	return append([]diff.Subject{subject(t, "wazero", wazero.New)}, others(t)...)
}

// takes says which modules are for an engine.
func takes(engine string) func(*diff.Module) bool {
	if engine != "wasmer" {
		return nil
	}
	// It does not compile all vector instructions, nor a table beside one that is
	// imported.
	return func(m *diff.Module) bool { return !m.Vectors && !(m.SharedTable && len(m.Tables) > 1) }
}

// subject is an engine that lasts as long as the test.
func subject(t testing.TB, name string, newEngine func() (engines.WasmEngine, error)) diff.Subject {
	t.Helper()
	open := func(wrap func(engines.WasmEngine) engines.WasmEngine) engines.WasmEngine {
		e, err := newEngine()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		e = wrap(e)
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Errorf("%s: Close: %v", name, err)
			}
		})
		return e
	}
	return diff.Subject{
		Name: name, Takes: takes(name),
		Bare:    open(func(e engines.WasmEngine) engines.WasmEngine { return e }),
		Metered: open(func(e engines.WasmEngine) engines.WasmEngine { return meter.Wrap(e, meter.Limits{}) }),
	}
}
