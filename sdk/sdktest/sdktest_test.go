package sdktest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/sdktest"
)

// ask is a function that asks for a syscall with the input as its argument.
func ask(syscall string) sdk.Function {
	return func(ctx context.Context, k *sdk.Kernel, input []byte) ([]byte, error) {
		return k.Syscall(ctx, syscall, []string{string(input)}, 0, nil)
	}
}

// TestAnswers says what a plugin is told for each way to answer, as a Go
// function.
func TestAnswers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		kernel func() *sdktest.Kernel
		want   string // in the error, or the output
		kind   error
	}{
		{"not granted", func() *sdktest.Kernel { return sdktest.New(t) }, "not in the capability set", &sdk.BlockedError{}},
		{"nothing there", func() *sdktest.Kernel { return sdktest.New(t, "kv_get") }, "", &sdk.SyscallError{}},
		{"answered", func() *sdktest.Kernel { return sdktest.New(t, "kv_get").Answer("kv_get", "v") }, "v", nil},
		{"answered without a grant", func() *sdktest.Kernel { return sdktest.New(t).Answer("kv_get", "v") }, "not in the capability set", &sdk.BlockedError{}},
		{"computed", func() *sdktest.Kernel {
			return sdktest.New(t, "kv_get").AnswerFunc("kv_get", func(args []string, _ []byte) ([]byte, error) { return []byte(args[0] + "!"), nil })
		}, "x!", nil},
		{"failed", func() *sdktest.Kernel { return sdktest.New(t, "kv_get").Fail("kv_get", sdk.CodeTimeout, "slow") }, "slow (errno 110)", &sdk.SyscallError{}},
		{"denied", func() *sdktest.Kernel { return sdktest.New(t, "kv_get").Deny("kv_get", "not today") }, "not today", &sdk.BlockedError{}},
		{"denied what is answered", func() *sdktest.Kernel {
			return sdktest.New(t, "kv_get").Answer("kv_get", "v").Deny("kv_get", "not today")
		}, "not today", &sdk.BlockedError{}},
		{"allowed again", func() *sdktest.Kernel {
			return sdktest.New(t, "kv_get").Deny("kv_get", "no").Allow("kv_get").Answer("kv_get", "v")
		}, "v", nil},
		{"quarantined", func() *sdktest.Kernel { return sdktest.New(t, "kv_get").Quarantine("kv_get", "caught") }, "caught", &sdk.QuarantinedError{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := sdktest.Call(t, tc.kernel(), ask("kv_get"), []byte("x"))
			if reflect.TypeOf(err) != reflect.TypeOf(tc.kind) {
				t.Fatalf("got %q, %v (%T), want %T", out, err, err, tc.kind)
			}
			if got := string(out); err == nil && got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			} else if err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestEffects are the kernel's own, where nothing else was said.
func TestEffects(t *testing.T) {
	k := sdktest.New(t, "read_file", "write_file", "kv_*", "env_get", "file:///**", "env://**").File("/in/a.txt", "text").Env("LANG", "C")
	out, err := sdktest.Call(t, k, func(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
		b, err := k.ReadFile(ctx, "/in/a.txt")
		if err != nil {
			return nil, err
		}
		lang, err := k.Getenv(ctx, "LANG")
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(k.KVPut(ctx, "key", b), k.WriteFile(ctx, "/in/b.txt", append(b, lang...)))
	}, nil)
	if err != nil || len(out) > 0 {
		t.Fatalf("got %q, %v", out, err)
	}
	if got := k.ReadFile("/in/b.txt"); got != "textC" {
		t.Errorf("b.txt: got %q", got)
	}
	if out, err = sdktest.Call(t, k, ask("kv_get"), []byte("key")); err != nil || string(out) != "text" { // keys last
		t.Errorf("kv_get: got %q, %v", out, err)
	}
	if got := k.Records("kv_put"); len(got) != 1 || got[0].Decision != "allowed" || got[0].Args[0] != "key" {
		t.Errorf("records: got %+v", got)
	}
	if all := k.Records(""); len(all) < 6 {
		t.Errorf("all records: got %d", len(all))
	}
}

func TestPanicAndHook(t *testing.T) {
	k := sdktest.New(t, "kv_put")
	if _, err := sdktest.Call(t, k, func(context.Context, *sdk.Kernel, []byte) ([]byte, error) { panic("oh") }, nil); err == nil || err.Error() != "panic: oh" {
		t.Errorf("panic: got %v", err)
	}
	var blocked *sdk.BlockedError
	err := sdktest.Hook(t, k.Deny("kv_put", "not at night"), func(ctx context.Context, k *sdk.Kernel) error { return k.KVPut(ctx, "a", nil) })
	if !errors.As(err, &blocked) {
		t.Errorf("hook: got %v", err)
	}
}

// asker is a guest whose function "ask" asks for kv_get of "x" and outputs the
// result, or fails with its status and result.
func asker() []byte {
	i32 := func(n int) []engines.ValueType {
		types := make([]engines.ValueType, n)
		for i := range types {
			types[i] = engines.I32
		}
		return types
	}
	function := engines.FuncType{Params: i32(1), Results: i32(1)}
	var m asm.Module
	output := m.ImportFunc("forge", "output", engines.FuncType{Params: i32(2)})
	syscall := m.ImportFunc("forge", "syscall", engines.FuncType{Params: i32(6), Results: []engines.ValueType{engines.I64}})
	result := m.ImportFunc("forge", "result", engines.FuncType{Params: i32(2), Results: i32(1)})
	m.Memory("memory", 1)
	m.Data(0, "\x06\x00kv_get\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00\x00\x00x")
	m.Func("forge_abi", function, asm.Code(nil).I32Const(int32(forge.Version)))
	m.Func("ask", function, asm.Code(nil).
		I32Const(0).I32Const(23).I32Const(0).I32Const(0).I32Const(0).I32Const(0).Call(syscall).Op(0x1a).
		I32Const(1024).I32Const(1024).I32Const(512).Call(result).Call(output).
		I32Const(0))
	return m.Bytes()
}

// TestGuest calls a compiled guest.
func TestGuest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "asker.wasm")
	if err := os.WriteFile(file, asker(), 0o600); err != nil {
		t.Fatal(err)
	}
	g := sdktest.Load(t, file)
	if got := g.Functions(); !reflect.DeepEqual(got, []string{"ask"}) {
		t.Errorf("functions: got %q", got)
	}
	k := sdktest.New(t, "kv_get").Answer("kv_get", "v")
	if out, err := g.Call(k, "ask", nil); err != nil || string(out) != "v" {
		t.Errorf("answered: got %.20q, %v", out, err)
	}
	if out, err := g.Call(k.Deny("kv_get", "not today"), "ask", nil); err != nil || !strings.Contains(string(out), "not today") {
		t.Errorf("denied: got %.80q, %v", out, err)
	}
	k.Allow("kv_get").Quarantine("kv_get", "caught")
	for range 2 { // and it stays so
		var denied *sdktest.DeniedError
		if out, err := g.Call(k, "ask", nil); !errors.As(err, &denied) || out != nil || !strings.Contains(err.Error(), "caught") {
			t.Errorf("quarantined: got %.20q, %v", out, err)
		}
	}
}

// fatal is a test that ends where it fails.
type fatal struct {
	testing.TB
	said string
}

func (f *fatal) Helper() {}

func (f *fatal) Fatalf(format string, args ...any) {
	f.said = strings.TrimSpace(format)
	for _, a := range args {
		if err, ok := a.(error); ok {
			f.said += " " + err.Error()
		}
	}
	panic(f)
}

// TestMistakes of the test itself end it, with the reason.
func TestMistakes(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.wasm")
	for name, tc := range map[string]struct {
		do   func(t testing.TB)
		want string
	}{
		"grant":         {func(t testing.TB) { sdktest.New(t, "://x") }, "://x"},
		"relative path": {func(t testing.TB) { sdktest.New(t).File("a.txt", "") }, "not absolute"},
		"no module":     {func(t testing.TB) { sdktest.Load(t, none) }, "none.wasm"},
		"no policy":     {func(t testing.TB) { _, _ = sdktest.Call(t, sdktest.New(t).Deny("kv get", ""), ask("kv_get"), nil) }, "kv get"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fatal{TB: t}
			defer func() {
				if v := recover(); v != f || !strings.Contains(f.said, tc.want) {
					t.Errorf("got %q (%v), want %q", f.said, v, tc.want)
				}
			}()
			tc.do(f)
		})
	}
}
