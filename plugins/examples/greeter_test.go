package examples_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/sdktest"
)

// greeting is the file that the greeters read.
const greeting = "/data/greeting.txt"

// greeterNeeds is what they need.
var greeterNeeds = []string{"read_file", "kv_get", "kv_put", "log_write", "file:///data/greeting.txt"}

// testGreeter calls a greeter with what is granted, refused and broken.
func testGreeter(t *testing.T, g *sdktest.Guest) {
	t.Helper()
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
		{"no keys", sdktest.New(t, greeterNeeds...).File(greeting, "x").Deny("kv_put", "not today"), sdk.CodeAccess, "not today"},
		{"long message", sdktest.New(t, greeterNeeds...).File(greeting, "x").Fail("kv_get", 77, strings.Repeat("long ", 1000)), 77, "long long"},
	} {
		var failed *sdktest.FunctionError
		if out, err := g.Call(tc.kernel, "greet", []byte("World")); !errors.As(err, &failed) || failed.Code != tc.code || !strings.Contains(failed.Message, tc.want) {
			t.Errorf("%s: got %q, %v", tc.name, out, err)
		}
	}
}
