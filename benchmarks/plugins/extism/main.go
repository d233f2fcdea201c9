//go:build wasip1

// Command extism is the plugin by Extism's Go PDK:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o extism.wasm .
package main

import (
	"github.com/extism/go-pdk"

	"forgeone.dev/forgeone/benchmarks/vowels"
)

//go:wasmexport noop
func noop() int32 { return 0 }

//go:wasmexport count_vowels
func countVowels() int32 {
	pdk.Output(vowels.Count(pdk.Input()))
	return 0
}

func main() {}
