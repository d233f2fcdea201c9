//go:build wasmer && !wasmtime

package main

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wasmer"
)

const usesCgo = true

func newEngine() (engines.WasmEngine, error) { return wasmer.New() }
