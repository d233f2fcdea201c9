//go:build !wasmer && !wasmtime

package cache_test

import (
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/wazero"
)

func newEngine() (engines.WasmEngine, error) { return wazero.New() }
