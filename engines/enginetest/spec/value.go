package spec

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// value is a number, vector or reference of a script.
type value struct {
	Type  string          `json:"type"`
	Lane  string          `json:"lane_type"`
	Value json.RawMessage `json:"value"` // a string; for a v128 a list of them
}

// lanes are the parts of a value, as they are written, and the bits of each.
func (v *value) lanes() (parts []string, bits int) {
	if v.Type == "v128" {
		// A script that is not of this form shows as a result that does not match.
		_ = json.Unmarshal(v.Value, &parts)
		return parts, width(v.Lane)
	}
	var s string
	_ = json.Unmarshal(v.Value, &s)
	return []string{s}, width(v.Type)
}

func width(typ string) int {
	for _, bits := range []int{8, 16, 32} {
		if strings.HasSuffix(typ, strconv.Itoa(bits)) {
			return bits
		}
	}
	return 64
}

// external reports whether it is, or has to be, an external reference but null.
func (v value) external() bool { return v.Type == "externref" && string(v.Value) != `"null"` }

// words encodes an argument.
func (v *value) words() []uint64 {
	parts, bits := v.lanes()
	out := make([]uint64, max(1, len(parts)*bits/64))
	for i, p := range parts {
		out[i*bits/64] |= v.lane(p, bits) << (i * bits % 64)
	}
	return out
}

// lane encodes one part. The word of an external reference n is n+1, because 0
// is null.
func (v *value) lane(s string, bits int) uint64 {
	if s == "null" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		signed, _ := strconv.ParseInt(s, 10, 64)
		n = uint64(signed) & (1<<bits - 1)
	}
	if v.Type == "externref" {
		n++
	}
	return n
}

// match compares results with what is expected.
func match(got []uint64, want []value) error {
	for i := range want {
		w := &want[i]
		parts, bits := w.lanes()
		words := max(1, len(parts)*bits/64)
		if len(got) < words {
			return fmt.Errorf("%d results, want %d more", i, len(want)-i)
		}
		for n, p := range parts {
			lane := got[n*bits/64] >> (n * bits % 64)
			if bits < 64 {
				lane &= 1<<bits - 1
			}
			if !w.is(lane, p, bits) {
				return fmt.Errorf("result %d, lane %d: %#x, want %s %s%s", i, n, lane, w.Type, w.Lane, string(w.Value))
			}
		}
		got = got[words:]
	}
	if len(got) > 0 {
		return fmt.Errorf("%d results too many", len(got))
	}
	return nil
}

// is reports whether a lane is what is written as s: a number, a class of NaNs,
// or, with nothing written, any reference but null.
func (v *value) is(lane uint64, s string, bits int) bool {
	canonical := uint64(0x7ff8) << 48
	if bits == 32 {
		canonical = 0x7fc00000
	}
	switch {
	case s == "nan:canonical":
		return lane&(1<<(bits-1)-1) == canonical
	case s == "nan:arithmetic":
		return lane&canonical == canonical
	case s == "" && strings.HasSuffix(v.Type, "ref"):
		return lane != 0
	}
	return lane == v.lane(s, bits)
}
