package wasi

import (
	"context"
	"encoding/binary"
	"strconv"

	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/engines"
)

const (
	maxVectors = 1024     // of one fd_write, as IOV_MAX is on Linux
	maxWrite   = 1 << 20  // bytes of one fd_write; more is a short write
	maxRandom  = 64 << 10 // bytes of one random_get syscall; the function makes several
)

var streams = map[uint32]string{1: "stdout", 2: "stderr"}

// fdWrite is fd_write(fd, iovs, iovs_len, nwritten), to standard output and error.
func fdWrite(ctx context.Context, mem engines.Memory, args []uint64) (errno, error) {
	stream, ok := streams[uint32(args[0])]
	if !ok {
		return ebadf, nil
	}
	if uint32(args[2]) > maxVectors {
		return einval, nil
	}
	vectors, err := guest.Read(mem, uint32(args[1]), uint32(args[2])*8, nil)
	if err != nil {
		return efault, nil
	}
	var data []byte
	for ; len(vectors) > 0; vectors = vectors[8:] {
		ptr, n := binary.LittleEndian.Uint32(vectors), binary.LittleEndian.Uint32(vectors[4:])
		part, err := guest.Read(mem, ptr, min(n, uint32(maxWrite-len(data))), nil)
		if err != nil {
			return efault, nil
		}
		data = append(data, part...)
	}
	if len(data) > 0 {
		if _, code, err := syscall(ctx, "stdio_write", []string{stream}, data); err != nil || code != success {
			return code, err
		}
	}
	return putUint32(mem, uint32(args[3]), uint32(len(data))), nil
}

// randomGet is random_get(buf, buf_len).
func randomGet(ctx context.Context, mem engines.Memory, args []uint64) (errno, error) {
	ptr, left := uint32(args[0]), uint32(args[1])
	if uint64(ptr)+uint64(left) > mem.Size() {
		return efault, nil
	}
	for left > 0 {
		n := min(left, maxRandom)
		data, code, err := syscall(ctx, "random_get", []string{strconv.FormatUint(uint64(n), 10)}, nil)
		switch {
		case err != nil || code != success:
			return code, err
		case len(data) != int(n):
			return eio, nil
		}
		if code := put(mem, ptr, data); code != success {
			return code, nil
		}
		ptr, left = ptr+n, left-n
	}
	return success, nil
}
