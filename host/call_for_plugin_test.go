package host_test

import (
	"context"
	"errors"
	"testing"

	"forgeone.dev/forgeone/abi"
)

func TestCallForPlugin(t *testing.T) {
	k := newKernel(t)
	ctx := context.Background()
	id, err := k.LoadPlugin(ctx, k.config("reader", artifacts.summariseWasm))
	if err != nil {
		t.Fatal(err)
	}
	code := func(want int32, name, function string) {
		t.Helper()
		_, err := k.CallForPlugin(ctx, name, function, nil)
		var se *abi.SyscallError
		if !errors.As(err, &se) || se.Code != want {
			t.Errorf("%s.%s: %v, want code %d", name, function, err, want)
		}
	}
	code(abi.CodeIO, "reader", "summarise") // it is stopped
	if err := k.StartPlugin(ctx, id); err != nil {
		t.Fatal(err)
	}
	if out, err := k.CallForPlugin(ctx, "reader", "summarise", []byte("/data/report.txt")); err != nil || len(out) == 0 {
		t.Errorf("%q (%v)", out, err)
	}
	code(abi.CodeIO, "reader", "no_such_function")
	code(abi.CodeNotFound, "gone", "summarise")
	code(abi.CodeNotFound, id.String(), "summarise") // by its name alone, as it is granted
	if err := k.PausePlugin(ctx, id); err != nil {
		t.Fatal(err)
	}
	code(abi.CodePermission, "reader", "summarise")
}
