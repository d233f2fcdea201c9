//go:build wasmtime

package wasmtime

// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"forgeone.dev/forgeone/engines"
)

var _ engines.Serializer = (*engine)(nil)

// Serialize implements engines.Serializer.
func (e *engine) Serialize(ctx context.Context, wasm []byte, opts engines.CompileOptions) ([]byte, error) {
	m, err := e.Compile(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Close() }() // it has nothing to report
	e.use.RLock()
	defer e.use.RUnlock()
	if e.closed {
		return nil, engines.ErrClosed
	}
	var code C.wasm_byte_vec_t
	if err := errorOf(C.wasmtime_module_serialize(m.(*module).upstream, &code)); err != nil {
		return nil, &engines.CompileError{Engine: name, Err: fmt.Errorf("the machine code cannot be taken out: %w", err)}
	}
	defer C.wasm_byte_vec_delete(&code)
	out := make([]byte, code.size)
	copy(out, unsafe.Slice((*byte)(unsafe.Pointer(code.data)), code.size))
	return out, nil
}

// Deserialize implements engines.Serializer.
func (e *engine) Deserialize(ctx context.Context, wasm, code []byte, opts engines.CompileOptions) (engines.Module, error) {
	return e.load(opts, func() (*module, error) {
		m, err := e.prepare(ctx, wasm, opts)
		if err != nil {
			return nil, err
		}
		if len(code) == 0 {
			return nil, errors.New("there is no machine code")
		}
		data := (*C.uint8_t)(unsafe.SliceData(code))
		if err := errorOf(C.wasmtime_module_deserialize(m.compiler.upstream, data, C.size_t(len(code)), &m.upstream)); err != nil {
			return nil, fmt.Errorf("the machine code is not recognised: %w", err)
		}
		C.wasmtime_module_imports(m.upstream, &m.imports)
		return m, nil
	})
}
