package wazero

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"reflect"
	"sync"
	"unsafe"

	upstream "github.com/tetratelabs/wazero"

	"forgeone.dev/forgeone/engines"
)

var _ engines.Serializer = (*engine)(nil)

// codeKey is wazero's name for the code of a module: a hash of the binary, the
// features of the CPU and what else the code depends on.
type codeKey = [sha256.Size]byte

// codeStore is where a compilation cache finds code that was kept, and puts code
// that was compiled. wazero itself has folders only for this, where whoever runs
// as the same user can exchange the code after it was authenticated.
//
// Its methods are those of wazero's internal/filecache.Cache.
type codeStore struct {
	// use is held for reading by who compiles, and for writing by who loads:
	// wazero shows a module that it loads to others before it is complete.
	use     sync.RWMutex
	loading bool    // nothing is compiled: there is code, or an error
	keeps   bool    // what is compiled
	key     codeKey // of code
	code    []byte  // to be loaded, or the last that was compiled
}

var errForeignCode = errors.New("the machine code is not of this module, wazero version and CPU")

// Get has wazero load the code of a key.
func (s *codeStore) Get(key codeKey) (io.ReadCloser, bool, error) {
	switch {
	case !s.loading:
		return nil, false, nil
	case key != s.key:
		return nil, false, errForeignCode
	}
	return io.NopCloser(bytes.NewReader(s.code)), true, nil
}

// Add takes what wazero compiled.
func (s *codeStore) Add(key codeKey, content io.Reader) (err error) {
	if s.keeps {
		s.key = key
		s.code, err = io.ReadAll(content)
	}
	return err
}

// Delete is for code of another version of wazero, which is not loaded.
func (s *codeStore) Delete(codeKey) error { return errForeignCode }

// load has wazero find the code while f runs.
func (s *codeStore) load(key codeKey, code []byte, f func()) {
	s.use.Lock()
	defer s.use.Unlock()
	s.loading, s.key, s.code = true, key, code
	defer func() { s.loading, s.key, s.code = false, codeKey{}, nil }()
	f()
}

// newCache is a compilation cache with the store behind it; false if this version
// of wazero has no place for it.
func newCache(s *codeStore) (upstream.CompilationCache, bool) {
	c := upstream.NewCompilationCache()
	v := reflect.ValueOf(c)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return c, false
	}
	f := v.Elem().FieldByName("fileCache")
	if !f.IsValid() || f.Kind() != reflect.Interface || !reflect.TypeOf(s).Implements(f.Type()) {
		return c, false
	}
	// wazero exports no way to set the field, and its type is internal to it.
	reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Set(reflect.ValueOf(s))
	return c, true
}

// Serialize implements engines.Serializer. It compiles in a runtime of its own:
// which code is whose is not to be told otherwise.
func (e *engine) Serialize(ctx context.Context, wasm []byte, opts engines.CompileOptions) (_ []byte, err error) {
	opts, err = accept(ctx, opts)
	if err != nil {
		return nil, err
	}
	if e.isClosed() {
		return nil, engines.ErrClosed
	}
	store := codeStore{keeps: true}
	cache, ok := newCache(&store)
	if !ok {
		return nil, errNotKept("this version of it has changed how")
	}
	rt := newRuntime(ctx, opts, cache)
	defer func() { err = errors.Join(err, rt.close(), cache.Close(context.Background())) }()
	if _, err := rt.compile(ctx, wasm); err != nil {
		return nil, &engines.CompileError{Engine: name, Err: err}
	}
	if store.code == nil {
		return nil, errNotKept("it interprets on this system")
	}
	return append(store.key[:], store.code...), nil
}

func errNotKept(reason string) error {
	return &engines.UnsupportedError{Engine: name, Feature: "machine code that is kept", Reason: reason}
}

// Deserialize implements engines.Serializer.
func (e *engine) Deserialize(ctx context.Context, wasm, code []byte, opts engines.CompileOptions) (m engines.Module, err error) {
	opts, err = accept(ctx, opts)
	if err != nil {
		return nil, err
	}
	if !e.kept {
		return nil, errNotKept("this version of it has changed how")
	}
	if len(code) < sha256.Size {
		return nil, &engines.CompileError{Engine: name, Err: errForeignCode}
	}
	e.code.load(codeKey(code), code[sha256.Size:], func() { m, err = e.compile(ctx, wasm, opts) })
	return m, err
}

func (e *engine) isClosed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}
