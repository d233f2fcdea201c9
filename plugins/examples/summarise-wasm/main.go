//go:build wasip1

// Command summarise-wasm is the summarise example as a WASM plugin:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o summarise.wasm .
package main

import (
	"forgeone.dev/forgeone/plugins/examples/summarise"
	"forgeone.dev/forgeone/sdk/guest"
)

//go:wasmexport summarise
func run(n uint32) uint32 { return guest.Call(n, summarise.Run) }

func main() {}
