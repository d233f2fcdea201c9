//go:build wasmer && !wasmtime

package builtins

import "forgeone.dev/forgeone/engines/wasmer"

// tagged are the engines that a build tag asked for.
func tagged() []Engine { return []Engine{{Name: "wasmer", New: wasmer.New}} }
