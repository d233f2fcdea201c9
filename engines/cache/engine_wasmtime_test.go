//go:build wasmtime && !wasmer

package cache_test

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wasmtime"
)

func newEngine() (engines.WasmEngine, error) { return wasmtime.New() }
