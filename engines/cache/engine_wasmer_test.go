//go:build wasmer && !wasmtime

package cache_test

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wasmer"
)

func newEngine() (engines.WasmEngine, error) { return wasmer.New() }
