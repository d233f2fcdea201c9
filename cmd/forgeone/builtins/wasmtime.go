//go:build wasmtime && !wasmer

package builtins

import "forgeone.dev/forgeone/engines/wasmtime"

// tagged are the engines that a build tag asked for.
func tagged() []Engine { return []Engine{{Name: "wasmtime", New: wasmtime.New}} }
