package cache

import "forgeone.dev/forgeone/engines"

// KeepAll has a wrapped engine keep what it compiles however small it is.
func KeepAll(e engines.WasmEngine) { e.(*engine).harmless = 0 }
