//go:build wasmer && wasmtime

package wasmtime

// Both engines in one binary would link, and the calls of one would land in the
// other. So the build fails here, by a name that is defined nowhere.
var _ = build_with_one_cgo_engine_only_wasmer_and_wasmtime_share_174_C_symbols
