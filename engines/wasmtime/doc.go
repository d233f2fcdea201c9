// Package wasmtime adapts Wasmtime to the contract in package engines.
package wasmtime
