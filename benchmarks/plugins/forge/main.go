//go:build wasip1

// Command forge is the plugin by ForgeOne's SDK:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o forge.wasm .
package main

import (
	"context"

	"forgeone.dev/forgeone/benchmarks/vowels"
	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/guest"
)

//go:wasmexport noop
func noop(n uint32) uint32 {
	return guest.Call(n, func(context.Context, *sdk.Kernel, []byte) ([]byte, error) { return nil, nil })
}

//go:wasmexport count_vowels
func countVowels(n uint32) uint32 {
	return guest.Call(n, func(_ context.Context, _ *sdk.Kernel, input []byte) ([]byte, error) {
		return vowels.Count(input), nil
	})
}

func main() {}
