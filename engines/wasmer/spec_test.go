//go:build wasmer

package wasmer_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest"
	"forgeone.dev/forgeone/engines/enginetest/spec"
	"forgeone.dev/forgeone/engines/meter"
)

func metered(t testing.TB) engines.WasmEngine { return meter.Wrap(newEngine(t), meter.Limits{}) }

func TestMeteredConformance(t *testing.T) { enginetest.Test(t, metered) }

func BenchmarkOvershoot(b *testing.B) { enginetest.Overshoot(b, metered) }

// specEnv says that this process is the one for the vectors.
const specEnv = "FORGEONE_WASMER_SPEC"

// The vectors of the core specification hold, plain and metered. They have a
// process of their own: wasmer looks each frame of a trap up among all modules
// that the process ever compiled, so that after thousands of them a stack that
// is exhausted keeps it busy for minutes.
func TestSpec(t *testing.T) {
	if os.Getenv(specEnv) != "" {
		spec.Test(t, newEngine)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSpec$", "-test.v")
	cmd.Env = append(os.Environ(), specEnv+"=1")
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if err != nil || strings.Contains(line, "enginetest: ") || strings.Contains(line, "skipped: ") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
