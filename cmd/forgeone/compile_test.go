package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// sizedModule has add, and is too large to be compiled in place.
func sizedModule() []byte {
	i32 := engines.I32
	var m asm.Module
	m.Func("add", asm.Func(asm.Types(i32, i32), asm.Types(i32)), asm.Code(nil).LocalGet(0).LocalGet(1).Op(asm.I32Add))
	for range 500 {
		m.Func("", asm.Func(nil, asm.Types(i32)), asm.Code(nil).I32Const(1))
	}
	return m.Bytes()
}

// endlessModule keeps compilers busy: each of its locals is read in the innermost
// of its loops.
func endlessModule() []byte {
	const n = 1000
	types := make([]engines.ValueType, n)
	var code asm.Code
	for i := range types {
		types[i] = engines.I32
		code = code.Loop()
	}
	for i := range types {
		code = code.LocalGet(uint32(i)).Op(asm.Drop)
	}
	for range types {
		code = code.I32Const(0).BrIf(0).End()
	}
	var m asm.Module
	m.Func("f", asm.Func(nil, nil), code, types...)
	return m.Bytes()
}

// code are the files of machine code below a directory.
func code(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", strings.Repeat("?", 64)))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCompiledOnce(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin)
	dir := filepath.Dir(config)
	write(t, filepath.Join(dir, "tool.wasm"), sizedModule())
	call := func() { t.Helper(); forgeone(t, "call", "--config", config, "tool", "add", "40", "2").want(t, 0, "42") }
	call()
	kept := code(t, filepath.Join(dir, "state", "cache"))
	if len(kept) != 1 {
		t.Fatalf("code that is kept: %q", kept)
	}
	first, err := os.Stat(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	call()
	if second, err := os.Stat(kept[0]); err != nil || !os.SameFile(first, second) {
		t.Errorf("it was compiled anew: %v", err)
	}
	// Another's code is not run, which it would be to no good end.
	b, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	write(t, kept[0], append(b[:len(b)/2], bytes.Repeat([]byte{0xcc}, len(b)/2)...))
	forgeone(t, "call", "--config", config, "--log-level", "warn", "tool", "add", "40", "2").want(t, 0, "refused and removed")

	write(t, config, []byte(baseConfig+toolPlugin+"compile {\n  cache = false\n}\n"))
	if err := os.RemoveAll(filepath.Join(dir, "state", "cache")); err != nil {
		t.Fatal(err)
	}
	call()
	if kept := code(t, filepath.Join(dir, "state", "cache")); len(kept) > 0 {
		t.Errorf("code is kept, and should not be: %q", kept)
	}
}

// A module that compiles for ever does not load, and says what of.
func TestEndlessCompile(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+toolPlugin+"compile {\n  timeout = \"300ms\"\n}\n")
	write(t, filepath.Join(filepath.Dir(config), "tool.wasm"), endlessModule())
	forgeone(t, "call", "--config", config, "tool", "f").want(t, 5, "limit of 300ms", "timeout in the compile block")
}

// What calls without a configuration keep is the user's.
func TestCallKeepsCode(t *testing.T) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		t.Skip("the user's directories are not told by XDG_CACHE_HOME")
	}
	dir := newDir(t)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "keys"))
	module := filepath.Join(dir, "sized.wasm")
	write(t, module, sizedModule())
	forgeone(t, "call", "--no-cache", module, "add", "40", "2").want(t, 0, "42")
	if kept := code(t, filepath.Join(dir, "cache", "forgeone")); len(kept) > 0 {
		t.Errorf("code is kept, and should not be: %q", kept)
	}
	forgeone(t, "call", module, "add", "40", "2").want(t, 0, "42")
	if kept := code(t, filepath.Join(dir, "cache", "forgeone")); len(kept) != 1 {
		t.Errorf("code that is kept: %q", kept)
	}
}

// The command that compiles is of no use by hand.
func TestCompileCommand(t *testing.T) {
	t.Parallel()
	forgeone(t, "compile", "wazero").want(t, 1, "started by a kernel")
	forgeone(t, "compile", "quickest").want(t, 1, "not linked into this binary")
}
