//go:build wasmer

package wasmer

import (
	"math"

	upstream "github.com/wasmerio/wasmer-go/wasmer"

	"forgeone.dev/forgeone/engines"
)

// noKind is the kind of types that wasmer-go cannot carry.
const noKind = upstream.ValueKind(0xff)

func kind(t engines.ValueType) upstream.ValueKind {
	switch t {
	case engines.I32:
		return upstream.I32
	case engines.I64:
		return upstream.I64
	case engines.F32:
		return upstream.F32
	case engines.F64:
		return upstream.F64
	}
	return noKind
}

func kinds(ts []engines.ValueType) []*upstream.ValueType {
	ks := make([]upstream.ValueKind, len(ts))
	for i, t := range ts {
		ks[i] = kind(t)
	}
	return upstream.NewValueTypes(ks...)
}

// fromWord is the Go value that wasmer-go takes for a word of type t.
func fromWord(t engines.ValueType, w uint64) any {
	switch t {
	case engines.I32:
		return int32(uint32(w))
	case engines.I64:
		return int64(w)
	case engines.F32:
		return math.Float32frombits(uint32(w))
	default:
		return math.Float64frombits(w)
	}
}

// toWord is the word for a Go value that wasmer-go gives.
func toWord(v any) uint64 {
	switch v := v.(type) {
	case int32:
		return uint64(uint32(v))
	case int64:
		return uint64(v)
	case float32:
		return uint64(math.Float32bits(v))
	case float64:
		return math.Float64bits(v)
	}
	return 0
}

// argument is the word for what wasmer-go passes to a host function.
func argument(v *upstream.Value) uint64 {
	switch v.Kind() {
	case upstream.I32:
		return uint64(uint32(v.I32()))
	case upstream.I64:
		return uint64(v.I64())
	case upstream.F32:
		return uint64(math.Float32bits(v.F32()))
	}
	return math.Float64bits(v.F64())
}
