//go:build wasmtime && !wasmer

package main

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wasmtime"
)

const usesCgo = true

func newEngine() (engines.WasmEngine, error) { return wasmtime.New() }
