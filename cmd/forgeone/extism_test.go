package main

import (
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
)

// extismModule is an Extism plugin: echo returns its input, lang what its
// configuration says of it by the name that is its input, and fail fails.
func extismModule() []byte {
	const module = "extism:host/env"
	i32, i64 := engines.I32, engines.I64
	function := asm.Func(nil, asm.Types(i32))
	var m asm.Module
	offset := m.ImportFunc(module, "input_offset", asm.Func(nil, asm.Types(i64)))
	length := m.ImportFunc(module, "length", asm.Func(asm.Types(i64), asm.Types(i64)))
	output := m.ImportFunc(module, "output_set", asm.Func(asm.Types(i64, i64), nil))
	config := m.ImportFunc(module, "config_get", asm.Func(asm.Types(i64), asm.Types(i64)))
	fail := m.ImportFunc(module, "error_set", asm.Func(asm.Types(i64), nil))
	m.ImportFunc(module, "log_info", asm.Func(asm.Types(i64), nil))
	m.Func("echo", function, asm.Code(nil).Call(offset).Call(offset).Call(length).Call(output).I32Const(0))
	m.Func("lang", function, asm.Code(nil).Call(offset).Call(config).LocalSet(0).LocalGet(0).LocalGet(0).Call(length).Call(output).I32Const(0), i64)
	m.Func("fail", function, asm.Code(nil).Call(offset).Call(fail).I32Const(7))
	return m.Bytes()
}

// quietModule is one that imports nothing.
func quietModule() []byte {
	var m asm.Module
	m.Func("run", asm.Func(nil, asm.Types(engines.I32)), asm.Code(nil).I32Const(0))
	return m.Bytes()
}

func TestExtismPlugin(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	module, quiet := filepath.Join(dir, "p.wasm"), filepath.Join(dir, "q.wasm")
	write(t, module, extismModule())
	write(t, quiet, quietModule())

	for _, abi := range []string{"auto", "extism"} {
		if r := forgeone(t, "call", module, "echo", "--input", "hello", "--abi", abi).want(t, 0); r.out != "hello" {
			t.Errorf("echo with --abi %s: %+v", abi, r)
		}
	}
	forgeone(t, "call", module, "fail", "--input", "why").want(t, 1, "why (code 7)")
	forgeone(t, "call", module, "shout").want(t, 1, "functions: echo, fail, lang")
	forgeone(t, "call", module, "echo", "--abi", "core").want(t, 2, "it is extism")
	forgeone(t, "call", module, "echo", "1").want(t, 2, "--input")
	if r := forgeone(t, "call", quiet, "run").want(t, 0); r.out != "0" {
		t.Errorf("as a plain export: %+v", r)
	}
	if r := forgeone(t, "call", quiet, "run", "--abi", "extism").want(t, 0); r.out != "" {
		t.Errorf("as an Extism plugin: %+v", r)
	}
	r := forgeone(t, "module", "inspect", module).want(t, 0)
	for _, want := range []string{"extism", "echo, fail, lang", "log_write"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("inspect does not show %s:\n%s", want, r.out)
		}
	}
}

func TestExtismPluginConfigured(t *testing.T) {
	t.Parallel()
	config := setup(t, baseConfig+`
plugin "p" {
  wasm        = "p.wasm"
  trust_level = "limited"
  config      = { lang = "en" }
}
plugin "q" {
  wasm        = "q.wasm"
  abi         = "extism"
  trust_level = "limited"
}
plugin "other" {
  wasm        = "q.wasm"
  trust_level = "limited"
  config      = { lang = "en" }
}
plugin "wrong" {
  wasm        = "q.wasm"
  abi         = "forge/1"
  trust_level = "limited"
}
`)
	write(t, filepath.Join(filepath.Dir(config), "p.wasm"), extismModule())
	write(t, filepath.Join(filepath.Dir(config), "q.wasm"), quietModule())
	if r := forgeone(t, "call", "--config", config, "p", "lang", "--input", "lang").want(t, 0); r.out != "en" {
		t.Errorf("lang: %+v", r)
	}
	if r := forgeone(t, "call", "--config", config, "q", "run").want(t, 0); r.out != "" {
		t.Errorf("run: %+v", r)
	}
	forgeone(t, "call", "--config", config, "other", "run").want(t, 2, "config is for Extism plugins")
	forgeone(t, "call", "--config", config, "wrong", "run").want(t, 2, "the ABI is to be forge/1, and this module's is core")
}
