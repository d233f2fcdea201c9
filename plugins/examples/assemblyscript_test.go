package examples_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/sdk/sdktest"
)

// buildAssemblyScript builds the example in AssemblyScript as its author would,
// or skips the test where that cannot be done. It fetches nothing.
func buildAssemblyScript(t *testing.T) *sdktest.Guest {
	t.Helper()
	const example = "assemblyscript-greet"
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("needs node (Debian: apt install nodejs npm)")
	}
	asc := filepath.Join("node_modules", "assemblyscript", "bin", "asc.js")
	if _, err := os.Stat(filepath.Join(example, asc)); err != nil {
		t.Skipf("needs the compiler: npm install in plugins/examples/%s", example)
	}
	wasm := filepath.Join(t.TempDir(), "greet.wasm")
	cmd := exec.Command("node", asc, "assembly/index.ts", "-O", "--exportStart", "_initialize", "--use", "abort=", "-o", wasm)
	cmd.Dir = example
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("asc: %v\n%s", err, out)
	}
	return sdktest.Load(t, wasm)
}

func TestAssemblyScriptGreet(t *testing.T) {
	g := buildAssemblyScript(t)
	testGreeter(t, g)

	const size = 700_000 // three reads
	k := sdktest.New(t, greeterNeeds...).File(greeting, strings.Repeat("ä", size/2))
	if out, err := g.Call(k, "greet", []byte("y")); err != nil || string(out) != strings.Repeat("ä", size/2)+", y!" {
		t.Errorf("large file: got %d bytes, %v", len(out), err)
	}
}
