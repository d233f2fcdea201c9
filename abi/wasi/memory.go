package wasi

import (
	"encoding/binary"

	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/engines"
)

// put writes to guest memory; out of bounds is EFAULT.
func put(mem engines.Memory, ptr uint32, b []byte) errno {
	if guest.Write(mem, ptr, b) != nil {
		return efault
	}
	return success
}

func putUint32(mem engines.Memory, ptr uint32, v uint32) errno {
	return put(mem, ptr, binary.LittleEndian.AppendUint32(nil, v))
}

func putUint64(mem engines.Memory, ptr uint32, v uint64) errno {
	return put(mem, ptr, binary.LittleEndian.AppendUint64(nil, v))
}
