//go:build wasip1

// Command rogue-wasm is the rogue example as a WASM plugin:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o rogue.wasm .
package main

import (
	"forgeone.dev/forgeone/plugins/examples/rogue"
	"forgeone.dev/forgeone/sdk/guest"
)

//go:wasmexport write
func write(n uint32) uint32 { return guest.Call(n, rogue.Write) }

//go:wasmexport escape
func escape(n uint32) uint32 { return guest.Call(n, rogue.Escape) }

//go:wasmexport env
func env(n uint32) uint32 { return guest.Call(n, rogue.Env) }

//go:wasmexport loop
func loop(n uint32) uint32 { return guest.Call(n, rogue.Loop) }

//go:wasmexport crash
func crash(n uint32) uint32 { return guest.Call(n, rogue.Crash) }

//go:wasmexport flood
func flood(n uint32) uint32 { return guest.Call(n, rogue.Flood) }

func main() {}
