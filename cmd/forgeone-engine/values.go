package main

import (
	"fmt"
	"math"
	"strconv"

	"forgeone.dev/forgeone/engines"
)

// encode puts numbers given as text on a stack for a function of type t.
func encode(t engines.FuncType, args []string) ([]uint64, error) {
	for _, v := range append(append([]engines.ValueType{}, t.Params...), t.Results...) {
		if !isNumber(v) {
			return nil, fmt.Errorf("the function is of type %s, and a %s is no number", t, v)
		}
	}
	if len(args) != len(t.Params) {
		return nil, usageError{fmt.Errorf("the function is of type %s and takes %d arguments, got %d", t, len(t.Params), len(args))}
	}
	stack := make([]uint64, t.Slots())
	for i, arg := range args {
		bits, err := parse(t.Params[i], arg)
		if err != nil {
			return nil, usageError{fmt.Errorf("argument %d: %q is not an %s", i+1, arg, t.Params[i])}
		}
		stack[i] = bits
	}
	return stack, nil
}

func isNumber(t engines.ValueType) bool {
	return t == engines.I32 || t == engines.I64 || t == engines.F32 || t == engines.F64
}

// parse reads an integer, signed or unsigned, in any base that Go writes, or a
// float.
func parse(t engines.ValueType, s string) (uint64, error) {
	switch t {
	case engines.F32:
		v, err := strconv.ParseFloat(s, 32)
		return uint64(math.Float32bits(float32(v))), err
	case engines.F64:
		v, err := strconv.ParseFloat(s, 64)
		return math.Float64bits(v), err
	}
	bits := 64
	if t == engines.I32 {
		bits = 32
	}
	if v, err := strconv.ParseInt(s, 0, bits); err == nil {
		return uint64(v) & (math.MaxUint64 >> (64 - bits)), nil
	}
	return strconv.ParseUint(s, 0, bits)
}

// decode is the results on a stack as text.
func decode(t engines.FuncType, stack []uint64) []string {
	results := make([]string, len(t.Results))
	for i, v := range t.Results {
		results[i] = engines.Value{Type: v, Bits: stack[i]}.String()
	}
	return results
}
