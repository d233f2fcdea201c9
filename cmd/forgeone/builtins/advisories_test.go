package builtins_test

import (
	"os/exec"
	"strings"
	"testing"

	"forgeone.dev/forgeone/cmd/forgeone/builtins"
)

// Whoever changes the version of an engine reads its advisories anew.
func TestAdvisoriesAreOfThePinnedVersions(t *testing.T) {
	for engine, module := range map[string]string{
		"wazero":   "github.com/tetratelabs/wazero",
		"wasmer":   "github.com/wasmerio/wasmer-go",
		"wasmtime": "github.com/bytecodealliance/wasmtime-go/v44",
	} {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
		if err != nil {
			t.Fatal(err)
		}
		version := strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
		found, reviewed := builtins.Advisories(engine, version)
		if !reviewed {
			t.Errorf("%s %s is pinned: read its advisories, then say so in advisories.go", engine, version)
		}
		if len(found) == 0 {
			t.Errorf("nothing is known of %s %s", engine, version)
		}
		for i, a := range found {
			if a.ID == "" || a.Summary == "" || a.Advice == "" || a.Reach == "" {
				t.Errorf("incomplete: %+v", a)
			}
			if i > 0 && a.Reach == builtins.Open && found[i-1].Reach != builtins.Open {
				t.Errorf("%s: %s is open and comes late", engine, a.ID)
			}
		}
	}
	if _, reviewed := builtins.Advisories("wazero", "0.0.1"); reviewed {
		t.Error("a version that nobody looked at counts as reviewed")
	}
}
