// Package builtins says which engines are linked into the forgeone binary:
// wazero always, wasmer with the build tag wasmer or wasmtime with the build tag
// wasmtime, which need cgo. At most one cgo engine can be linked.
package builtins

import (
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
)

// Engine is an engine that is linked in.
type Engine struct {
	Name string // as written in HCL
	New  host.NewEngine
}

// Engines are the engines that are linked in, wazero first.
func Engines() []Engine {
	return append([]Engine{{Name: "wazero", New: wazero.New}}, tagged()...)
}
