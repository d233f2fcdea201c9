// Package guest makes a WASM plugin of functions written against package sdk.
// It speaks forge/1, the ABI of docs/abi.md, and builds for wasip1 alone:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o plugin.wasm .
//
// A function of the plugin is an export that hands over to [Call]:
//
//	//go:wasmexport greet
//	func greet(n uint32) uint32 { return guest.Call(n, run) }
//
//	func run(ctx context.Context, k *sdk.Kernel, name []byte) ([]byte, error) {
//		return append([]byte("hello "), name...), nil
//	}
//
//	func main() {} // a plugin has no main, Go wants one
//
// and a moment of its life one that hands over to [Hook]: forge_init,
// forge_start, forge_pause, forge_resume, forge_stop, forge_unload.
//
//	//go:wasmexport forge_init
//	func setUp() uint32 { return guest.Hook(load) }
//
// Each call has an instance of its own, as forge_init left it, unless the
// plugin is configured with state = "keep". Go's runtime needs time_get, and
// for goroutines that sleep time_sleep; grant them to every plugin in Go.
//
// As forge_init left it is every generator of random numbers, too: the top-level
// functions of math/rand and math/rand/v2 give each call the same numbers. A
// call has others from [sdk.Kernel.Rand] and crypto/rand; a generator of the
// plugin's own is reseeded by a hook:
//
//	var source = rand.NewChaCha8([32]byte{})
//
//	//go:wasmexport forge_reseed
//	func reseed(n uint32) uint32 { return guest.Reseed(n, source.Seed) }
package guest
