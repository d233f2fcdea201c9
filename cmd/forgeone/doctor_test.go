package main

import (
	"os"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/cmd/forgeone/builtins"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	d := decode[diagnosis](t, forgeone(t, "doctor", "--dir", filepath.Join(newDir(t), "state", "audit"), "--format", "json").want(t, 0))
	byCheck := map[string]finding{}
	areas := map[string]int{}
	for _, f := range d.Findings {
		byCheck[f.Check] = f
		areas[f.Area]++
		if f.Outcome != good && f.Remedy == "" {
			t.Errorf("%+v has no remedy", f)
		}
	}
	if byCheck["wazero"].Outcome != good {
		t.Errorf("wazero: %+v", byCheck["wazero"])
	}
	// The tests' binary has no engine binaries beside it.
	if byCheck["wasmtime"].Outcome != warning {
		t.Errorf("wasmtime: %+v", byCheck["wasmtime"])
	}
	for _, area := range []string{"system", "engines", "audit", "jail"} {
		if areas[area] == 0 {
			t.Errorf("nothing was looked at in %q", area)
		}
	}
	if len(d.Advisories) == 0 || d.Advisories[0].Engine != "wazero" || d.Advisories[0].Reach != builtins.Open {
		t.Errorf("advisories: %+v", d.Advisories)
	}
	forgeone(t, "doctor", "--dir", newDir(t)).want(t, 0, "ADVISORIES", "wrote, synced and verified a log")
}

// A place where no log can be written fails, and the exit code says so.
func TestDoctorFails(t *testing.T) {
	t.Parallel()
	file := filepath.Join(newDir(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	forgeone(t, "doctor", "--dir", file, "--format", "json").want(t, 1, `"healthy": false`, "not a directory")
	forgeone(t, "doctor", "--config", file+".hcl").want(t, 2, file)
}
