package wasi

import (
	"encoding/binary"

	"forgeone.dev/forgeone/abi/internal/guest"
)

// room checks that n bytes of guest memory can be written to: what a function
// tells of an effect must not get lost.
func (x frame) room(ptr uint64, n uint32) error {
	if uint64(uint32(ptr))+uint64(n) > x.mem.Size() {
		return efault
	}
	return nil
}

// read copies guest memory.
func (x frame) read(ptr, n uint32, buf []byte) ([]byte, error) {
	b, err := guest.Read(x.mem, ptr, n, buf)
	if err != nil {
		return nil, efault
	}
	return b, nil
}

// put writes to guest memory, all or nothing.
func (x frame) put(ptr uint64, b []byte) error {
	if guest.Write(x.mem, uint32(ptr), b) != nil {
		return efault
	}
	return nil
}

func (x frame) putUint32(ptr uint64, v uint32) error {
	return x.put(ptr, binary.LittleEndian.AppendUint32(nil, v))
}

func (x frame) putUint64(ptr uint64, v uint64) error {
	return x.put(ptr, binary.LittleEndian.AppendUint64(nil, v))
}

const (
	maxVectors = 1024    // of one read or write, as IOV_MAX is on Linux
	maxBytes   = 1 << 20 // of one read or write; more is a short one
	vectorSize = 8
)

// vector is a piece of guest memory.
type vector struct{ ptr, n uint32 }

// vectors reads a list of pieces of guest memory, cut after maxBytes, all of
// them in bounds. Nothing is read of it twice.
func (x frame) vectors(list, count uint64) (vs []vector, total uint32, err error) {
	if uint32(count) > maxVectors {
		return nil, 0, einval
	}
	if x.p.vectors, err = x.read(uint32(list), uint32(count)*vectorSize, x.p.vectors); err != nil {
		return nil, 0, err
	}
	vs = x.p.pieces[:0]
	for b := x.p.vectors; len(b) > 0; b = b[vectorSize:] {
		v := vector{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}
		if err := x.room(uint64(v.ptr), v.n); err != nil {
			return nil, 0, err
		}
		v.n = min(v.n, maxBytes-total)
		total += v.n
		if v.n > 0 {
			vs = append(vs, v)
		}
	}
	x.p.pieces = vs
	return vs, total, nil
}

// room is memory for n bytes, which is the same at each call.
func (p *Process) room(n uint32) []byte {
	if uint64(len(p.buffer)) < uint64(n) {
		p.buffer = make([]byte, n)
	}
	return p.buffer[:n]
}

// gather copies what a list of pieces of guest memory holds, to the process's
// room.
func (x frame) gather(list, count uint64) ([]byte, error) {
	vs, total, err := x.vectors(list, count)
	if err != nil {
		return nil, err
	}
	out := x.p.room(total)
	at := uint32(0)
	for _, v := range vs {
		if !x.mem.Read(uint64(v.ptr), out[at:at+v.n]) {
			return nil, efault
		}
		at += v.n
	}
	return out, nil
}

// scatter writes bytes to pieces of guest memory, which have room for them.
func (x frame) scatter(vs []vector, b []byte) error {
	for _, v := range vs {
		n := min(int(v.n), len(b))
		if !x.mem.Write(uint64(v.ptr), b[:n]) {
			return efault
		}
		b = b[n:]
	}
	return nil
}
