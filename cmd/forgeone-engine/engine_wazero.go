//go:build !wasmer && !wasmtime

package main

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wazero"
)

const usesCgo = false

func newEngine() (engines.WasmEngine, error) { return wazero.New() }
