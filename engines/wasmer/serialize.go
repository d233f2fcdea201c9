//go:build wasmer

package wasmer

import (
	"context"
	"errors"
	"fmt"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/binfmt"
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
	code, err := m.(*module).upstream.Serialize()
	if err != nil {
		return nil, &engines.CompileError{Engine: name, Err: fmt.Errorf("the machine code cannot be taken out: %w", err)}
	}
	return code, nil
}

// Deserialize implements engines.Serializer.
func (e *engine) Deserialize(ctx context.Context, wasm, code []byte, opts engines.CompileOptions) (engines.Module, error) {
	return e.load(opts, func() (*module, error) {
		m, err := e.prepare(ctx, wasm)
		if err != nil {
			return nil, err
		}
		if len(code) == 0 {
			return nil, errors.New("there is no machine code")
		}
		m.upstream, err = upstream.DeserializeModule(e.store, code)
		if err != nil {
			return nil, fmt.Errorf("the machine code is not recognised: %w", err)
		}
		return m, nil
	})
}

// prepare is the module of a binary, before there is code for it.
func (e *engine) prepare(ctx context.Context, wasm []byte) (*module, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	iface, err := binfmt.Decode(wasm)
	if err != nil {
		return nil, err
	}
	if err := refuse(iface); err != nil {
		return nil, err
	}
	return newModule(e, iface), nil
}
