package examples_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/sdktest"
)

// buildC builds the example in C as its author would, with more flags, or skips
// the test where that cannot be done.
func buildC(t *testing.T, flags ...string) *sdktest.Guest {
	t.Helper()
	targets, err := exec.Command("clang", "--print-targets").Output()
	if err != nil || !strings.Contains(string(targets), "wasm32") {
		t.Skipf("needs clang with the target wasm32 (Debian: apt install clang): %v", err)
	}
	if _, err := exec.LookPath("wasm-ld"); err != nil {
		t.Skip("needs wasm-ld (Debian: apt install lld)")
	}
	wasm := filepath.Join(t.TempDir(), "greet.wasm")
	args := append([]string{"--target=wasm32", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-mbulk-memory", "-nostdlib",
		"-Wl,--no-entry", "-I../../sdk/c", "-o", wasm}, flags...)
	if out, err := exec.Command("clang", append(args, "c-greet/greet.c")...).CombinedOutput(); err != nil {
		t.Fatalf("clang: %v\n%s", err, out)
	}
	return sdktest.Load(t, wasm)
}

func TestCGreet(t *testing.T) { testGreeter(t, buildC(t, "-std=c99", "-pedantic")) }

// TestCBuffers reads files up to the size of the buffer, and one that is larger.
func TestCBuffers(t *testing.T) {
	g := buildC(t, "-std=c11", "-O0")
	for _, n := range []int{0, 1, 1023, 1024} {
		k := sdktest.New(t, greeterNeeds...).File(greeting, strings.Repeat("x", n))
		if out, err := g.Call(k, "greet", []byte("y")); err != nil || string(out) != strings.Repeat("x", n)+", y!" {
			t.Errorf("%d bytes: got %d bytes, %v", n, len(out), err)
		}
	}
	var failed *sdktest.FunctionError
	if _, err := g.Call(sdktest.New(t, greeterNeeds...).File(greeting, strings.Repeat("x", 1025)), "greet", nil); !errors.As(err, &failed) || failed.Code != sdk.CodeTooLarge {
		t.Errorf("too large: got %v", err)
	}
}

// TestCPlusPlus says that the header is C++ too.
func TestCPlusPlus(t *testing.T) {
	g := buildC(t, "-x", "c++", "-std=c++17", "-fno-exceptions")
	if out, err := g.Call(sdktest.New(t, greeterNeeds...).File(greeting, "hej"), "greet", []byte("World")); err != nil || string(out) != "hej, World!" {
		t.Errorf("got %q, %v", out, err)
	}
}
