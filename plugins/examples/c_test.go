package examples_test

import (
	"context"
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

// greeting is the file that the greeters read.
const greeting = "/data/greeting.txt"

// greeterNeeds is what they need.
var greeterNeeds = []string{"read_file", "kv_get", "kv_put", "log_write", "file:///data/greeting.txt"}

func TestCGreet(t *testing.T) {
	g := buildC(t, "-std=c99", "-pedantic")
	k := sdktest.New(t, greeterNeeds...).File(greeting, "good day\n")
	for range 12 {
		if out, err := g.Call(k, "greet", []byte("World\x00!")); err != nil || string(out) != "good day, World\x00!!" {
			t.Fatalf("got %q, %v", out, err)
		}
	}
	if out, err := sdktest.Call(t, k, func(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) { return k.KVGet(ctx, "greetings") }, nil); err != nil || string(out) != "12" {
		t.Errorf("count: got %q, %v", out, err)
	}

	if out, err := g.Call(k.Deny("file_open", "not today"), "greet", []byte("World")); err != nil || string(out) != "hello, World!" {
		t.Errorf("blocked: got %q, %v", out, err)
	}
	for _, tc := range []struct {
		name   string
		kernel *sdktest.Kernel
		code   int32
		want   string
	}{
		{"no file", sdktest.New(t, greeterNeeds...), sdk.CodeNotFound, "no such file"},
		{"large file", sdktest.New(t, greeterNeeds...).File(greeting, strings.Repeat("x", 1025)), sdk.CodeTooLarge, "larger than the buffer"},
		{"no keys", sdktest.New(t, greeterNeeds...).File(greeting, "x").Deny("kv_put", "not today"), sdk.CodeAccess, "not today"},
		{"long message", sdktest.New(t, greeterNeeds...).File(greeting, "x").Fail("kv_get", 77, strings.Repeat("long ", 1000)), 77, "long long"},
	} {
		var failed *sdktest.FunctionError
		if out, err := g.Call(tc.kernel, "greet", []byte("World")); !errors.As(err, &failed) || failed.Code != tc.code || !strings.Contains(failed.Message, tc.want) {
			t.Errorf("%s: got %q, %v", tc.name, out, err)
		}
	}
}

// TestCBuffers reads files up to the size of the buffer.
func TestCBuffers(t *testing.T) {
	g := buildC(t, "-std=c11", "-O0")
	for _, n := range []int{0, 1, 1023, 1024} {
		k := sdktest.New(t, greeterNeeds...).File(greeting, strings.Repeat("x", n))
		if out, err := g.Call(k, "greet", []byte("y")); err != nil || string(out) != strings.Repeat("x", n)+", y!" {
			t.Errorf("%d bytes: got %d bytes, %v", n, len(out), err)
		}
	}
}

// TestCPlusPlus says that the header is C++ too.
func TestCPlusPlus(t *testing.T) {
	g := buildC(t, "-x", "c++", "-std=c++17", "-fno-exceptions")
	if out, err := g.Call(sdktest.New(t, greeterNeeds...).File(greeting, "hej"), "greet", []byte("World")); err != nil || string(out) != "hej, World!" {
		t.Errorf("got %q, %v", out, err)
	}
}
