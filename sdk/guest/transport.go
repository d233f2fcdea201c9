//go:build wasip1

package guest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"forgeone.dev/forgeone/sdk"
)

// Limits of the ABI: beyond them the host ends the guest.
const (
	maxName    = 256
	maxRequest = 64 << 10
	maxPayload = 16 << 20
)

// kernel is the way to the host. There is one host and it keeps one result, so
// there is one transport.
var kernel = new(transport)

type transport struct {
	// mu is held from a syscall until its result is fetched: allocating room
	// for that may let another goroutine run.
	mu      sync.Mutex
	request []byte
	result  [4 << 10]byte // most results fit
}

// Syscall implements sdk.Transport. It blocks the whole plugin, whatever
// goroutines it has: the host does one thing at a time for an instance.
func (t *transport) Syscall(ctx context.Context, r sdk.Request) sdk.Result {
	if err := ctx.Err(); err != nil {
		return failed(sdk.CodeInterrupted, "not asked: %v", err)
	}
	if len(r.Name) > maxName || len(r.Args) > math.MaxUint16 {
		return failed(sdk.CodeInvalid, "a syscall has a name of at most %d bytes and at most %d arguments", maxName, math.MaxUint16)
	}
	if len(r.Payload) > maxPayload {
		return failed(sdk.CodeInvalid, "the payload of %d bytes is above the limit of %d", len(r.Payload), maxPayload)
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	t.request = appendRequest(t.request[:0], r)
	if len(t.request) > maxRequest {
		return failed(sdk.CodeInvalid, "the request of %d bytes is above the limit of %d; send bulk data as the payload", len(t.request), maxRequest)
	}
	answer := hostSyscall(at(t.request), uint32(len(t.request)), at(r.Payload), uint32(len(r.Payload)), at(t.result[:]), uint32(len(t.result)))
	status, n := sdk.Status(answer>>32), uint32(answer)
	var data []byte
	if n <= uint32(len(t.result)) {
		data = slices.Clone(t.result[:n])
	} else {
		data = make([]byte, n)
		hostResult(at(data), n)
	}
	switch status {
	case sdk.Success:
		return sdk.Result{Status: sdk.Success, Data: data}
	case sdk.Failure:
		return decodeFailure(data)
	}
	return sdk.Result{Status: status, Message: string(data)}
}

func failed(code int32, format string, args ...any) sdk.Result {
	return sdk.Result{Status: sdk.Failure, Code: code, Message: fmt.Sprintf(format, args...)}
}

func appendRequest(b []byte, r sdk.Request) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Name)))
	b = append(b, r.Name...)
	b = binary.LittleEndian.AppendUint64(b, r.Handle)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Args)))
	for _, a := range r.Args {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(a)))
		b = append(b, a...)
	}
	return b
}

// decodeFailure decodes what the host says of a failure. What it does not say
// is left empty.
func decodeFailure(b []byte) sdk.Result {
	uint := func(size int) (v uint32) {
		if len(b) < size {
			b = nil
			return 0
		}
		for i := range size {
			v |= uint32(b[i]) << (8 * i)
		}
		b = b[size:]
		return v
	}
	text := func() string {
		n := min(int(uint(4)), len(b))
		s := string(b[:n])
		b = b[n:]
		return s
	}
	r := sdk.Result{Status: sdk.Failure, Code: int32(uint(4)), Message: text()}
	for range uint(2) {
		if r.Context == nil {
			r.Context = map[string]string{}
		}
		key := text()
		r.Context[key] = text()
	}
	return r
}
