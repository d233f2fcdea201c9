package summarise_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"forgeone.dev/forgeone/plugins/examples/summarise"
	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/sdktest"
)

// needs is what the plugin's README would ask an operator for.
var needs = []string{"read_file", "kv_get", "kv_put", "log_write", "file:///data/**"}

const document = "/data/report.txt"

// TestRun tests the function alone, as a native plugin has it.
func TestRun(t *testing.T) {
	k := sdktest.New(t, needs...).File(document, "All is well. All is very well!")
	for n := 1; n <= 2; n++ {
		out, err := sdktest.Call(t, k, summarise.Run, []byte(document))
		if err != nil {
			t.Fatal(err)
		}
		check(t, out, n)
	}
	if got := k.Records("log_write"); len(got) != 2 || !reflect.DeepEqual(got[0].Args, []string{"info", "document summarised", "path", document, "words", "7"}) {
		t.Errorf("log_write: got %+v", got)
	}
}

// TestRefused says what comes of answers that nobody hopes for.
func TestRefused(t *testing.T) {
	k := sdktest.New(t, needs...).File(document, "text")

	var blocked *sdk.BlockedError
	if _, err := sdktest.Call(t, k, summarise.Run, []byte("/etc/passwd")); !errors.As(err, &blocked) || blocked.Syscall != "file_open" {
		t.Errorf("beyond the grant: got %v", err)
	}
	k.Deny("kv_put", "the quota is used up")
	if _, err := sdktest.Call(t, k, summarise.Run, []byte(document)); !errors.As(err, &blocked) || blocked.Syscall != "kv_put" || !strings.Contains(blocked.Reason, "the quota is used up") {
		t.Errorf("denied: got %v", err)
	}
	k.Allow("kv_put").Fail("kv_get", sdk.CodeIO, "the disk is broken")
	var failed *sdk.SyscallError
	if _, err := sdktest.Call(t, k, summarise.Run, []byte(document)); !errors.As(err, &failed) || failed.Code != sdk.CodeIO {
		t.Errorf("failed: got %v", err)
	}
}

// TestGuest tests the plugin as it is shipped, with the grants of a Go guest.
func TestGuest(t *testing.T) {
	g := sdktest.Build(t, "../summarise-wasm")
	k := sdktest.New(t, append(needs, "time_get", "random_get")...).File(document, "All is well. All is very well!")
	out, err := g.Call(k, "summarise", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	check(t, out, 1)

	var failed *sdktest.FunctionError
	if _, err := g.Call(k.Deny("log_write", "be quiet"), "summarise", []byte(document)); !errors.As(err, &failed) || failed.Code != sdk.CodeAccess || !strings.Contains(failed.Message, "be quiet") {
		t.Errorf("denied: got %v", err)
	}
}

func check(t *testing.T, out []byte, count int) {
	t.Helper()
	var s summarise.Summary
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatal(err)
	}
	if s.Document != document || s.Words != 7 || s.Sentences != 2 || s.Top[0] != (summarise.Word{Word: "well", Count: 2}) || s.Count != count {
		t.Errorf("got %+v", s)
	}
}
