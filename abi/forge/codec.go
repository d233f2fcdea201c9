package forge

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"forgeone.dev/forgeone/abi"
)

// request is a decoded syscall request.
type request struct {
	name   string
	handle abi.Handle
	args   []string
}

var (
	errShort    = errors.New("malformed request: it ends too early")
	errTrailing = errors.New("malformed request: bytes are left after the last argument")
)

// decodeRequest decodes the request that b is, all of it; it keeps nothing of
// b. Little endian:
//
//	u16 name length, name, u64 handle, u16 argument count, (u32 length, bytes)…
func decodeRequest(b []byte) (request, error) {
	// One string for all: name and arguments are parts of it.
	r := reader{s: string(b)}
	q := request{name: r.text(r.uint(2)), handle: abi.Handle(r.uint(8))}
	count := r.uint(2)
	if count > uint64(len(r.s))/4 {
		return request{}, errShort // each argument takes four bytes at least
	}
	q.args = make([]string, count)
	for i := range q.args {
		q.args[i] = r.text(r.uint(4))
	}
	switch {
	case r.short:
		return request{}, errShort
	case r.s != "":
		return request{}, errTrailing
	case len(q.name) > MaxName:
		return request{}, &LimitError{What: "syscall name", Limit: MaxName, Got: uint64(len(q.name))}
	}
	return q, nil
}

// reader takes from the head of s. Once short it yields zeros.
type reader struct {
	s     string
	short bool
}

func (r *reader) text(n uint64) string {
	if r.short || n > uint64(len(r.s)) {
		r.s, r.short = "", true
		return ""
	}
	t := r.s[:n]
	r.s = r.s[n:]
	return t
}

// uint is an unsigned integer of size bytes.
func (r *reader) uint(size uint64) (v uint64) {
	for i, c := range []byte(r.text(size)) {
		v |= uint64(c) << (8 * i)
	}
	return v
}

// encodeFailure encodes an error for the guest. Little endian:
//
//	i32 code, u32 length, message, u16 pairs, (u32 length, key, u32 length, value)…
func encodeFailure(e *abi.SyscallError) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(e.Code))
	b = appendText(b, e.Message)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.Context)))
	for _, k := range slices.Sorted(maps.Keys(e.Context)) {
		b = appendText(appendText(b, k), e.Context[k])
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}
