//go:build wasmtime

package wasmtime

// wasmtime-go brings the static library of Wasmtime, for each system that it
// has one for, and the linker flags.
import _ "github.com/bytecodealliance/wasmtime-go/v44"
