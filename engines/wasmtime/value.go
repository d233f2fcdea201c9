//go:build wasmtime

package wasmtime

// #include "shim.h"
//
// #cgo noescape forgeone_lower_externrefs
// #cgo noescape forgeone_lift_externrefs
// #cgo nocallback forgeone_lower_externrefs
// #cgo nocallback forgeone_lift_externrefs
import "C"

import (
	"errors"
	"math"
	"slices"
	"unsafe"

	"forgeone.dev/forgeone/engines"
)

var errTooManyRefs = errors.New("wasmtime: no room for another reference in this instance")

// raw is a value as Wasmtime's unchecked calls take it (wasmtime_val_raw_t):
// 16 bytes of little-endian, as all systems are that Wasmtime has a library for.
type raw [2]uint64

// signature is a function's type, made ready to convert its values.
type signature struct {
	params, results values
	slots           int // words of the contract's stack
	raws            int // values of Wasmtime's
}

func newSignature(t engines.FuncType) *signature {
	return &signature{
		params:  newValues(t.Params),
		results: newValues(t.Results),
		slots:   t.Slots(),
		raws:    max(len(t.Params), len(t.Results)),
	}
}

// values is a list of types.
type values struct {
	types []engines.ValueType
	// kinds has an element for each type, and is nil if none is an externref.
	kinds []C.uint8_t
}

func newValues(types []engines.ValueType) values {
	v := values{types: types}
	if slices.Contains(types, engines.ExternRef) {
		v.kinds = make([]C.uint8_t, len(types))
		for i, t := range types {
			if t == engines.ExternRef {
				v.kinds[i] = C.FORGEONE_EXTERNREF
			}
		}
	}
	return v
}

// lower converts words to what Wasmtime takes.
func (v *values) lower(context *C.wasmtime_context_t, words []uint64, raws []raw) error {
	w := 0
	for i, t := range v.types {
		switch t {
		case engines.I32, engines.F32:
			raws[i] = raw{words[w] & math.MaxUint32}
		case engines.V128:
			raws[i] = raw{words[w], words[w+1]}
			w++
		default:
			raws[i] = raw{words[w]}
		}
		w++
	}
	if v.kinds != nil && !C.forgeone_lower_externrefs(context, upstreamRaws(raws), &v.kinds[0], C.size_t(len(v.kinds))) {
		return errTooManyRefs
	}
	return nil
}

// lift converts what Wasmtime gives to words.
func (v *values) lift(context *C.wasmtime_context_t, raws []raw, words []uint64) {
	if v.kinds != nil {
		C.forgeone_lift_externrefs(context, upstreamRaws(raws), &v.kinds[0], C.size_t(len(v.kinds)))
	}
	w := 0
	for i, t := range v.types {
		switch t {
		case engines.I32, engines.F32:
			words[w] = raws[i][0] & math.MaxUint32
		case engines.V128:
			words[w], words[w+1] = raws[i][0], raws[i][1]
			w++
		default:
			words[w] = raws[i][0]
		}
		w++
	}
}

func upstreamRaws(raws []raw) *C.wasmtime_val_raw_t {
	return (*C.wasmtime_val_raw_t)(unsafe.Pointer(unsafe.SliceData(raws)))
}
