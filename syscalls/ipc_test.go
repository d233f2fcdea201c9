package syscalls_test

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
)

func TestIPC(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	from := k.plugin("from", capability.Standard, capability.Grant{Syscalls: []string{"ipc_send"}, Resources: []string{"ipc://jobs/*"}})
	to := k.plugin("to", capability.Standard, capability.Grant{Syscalls: []string{"ipc_recv"}, Resources: []string{"ipc://jobs/*"}})
	message := []byte("one")
	from.ok("ipc_send", message, "jobs/a")
	message[0] = 'x' // the message is the channel's own
	from.ok("ipc_send", nil, "jobs/a")
	from.ok("ipc_send", []byte("b"), "jobs/b")
	for _, want := range []string{"one", ""} {
		if got := to.ok("ipc_recv", nil, "jobs/a", "0"); string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	to.code(11, "ipc_recv", nil, "jobs/a", "0")
	to.code(11, "ipc_recv", nil, "jobs/a", "1000000")
	to.blocked("ipc_send", nil, "jobs/a")
	to.blocked("ipc_recv", nil, "other", "0")
	from.code(abi.CodeTooLarge, "ipc_send", make([]byte, syscalls.MaxIPCMessage+1), "jobs/a")

	for range syscalls.MaxQueued {
		from.ok("ipc_send", []byte("x"), "jobs/full")
	}
	from.code(11, "ipc_send", []byte("x"), "jobs/full")
	big := make([]byte, syscalls.MaxIPCMessage)
	n := 0
	for ; from.do("ipc_send", 0, big, "jobs/big").Status == abi.Success; n++ {
	}
	if n == 0 || n*len(big) > syscalls.MaxIPCMemory {
		t.Errorf("%d MiB wait", n)
	}
	to.ok("ipc_recv", nil, "jobs/big")
	from.ok("ipc_send", big, "jobs/big")
}

// Each message is received once, and who waits is woken or ends.
func TestIPCWaits(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	p := k.plugin("p", capability.Standard, capability.Grant{Resources: []string{"ipc://**"}})
	const n = 64
	got := make(chan string, n)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { got <- string(p.do("ipc_recv", 0, nil, "c").Data) })
	}
	for i := range n {
		p.ok("ipc_send", []byte(strconv.Itoa(i)), "c")
	}
	wg.Wait()
	seen := map[string]bool{}
	for range n {
		seen[<-got] = true
	}
	if len(seen) != n {
		t.Errorf("%d messages of %d", len(seen), n)
	}

	done := make(chan abi.SyscallResult)
	go func() { done <- p.do("ipc_recv", 0, nil, "c") }()
	time.Sleep(5 * time.Millisecond)
	p.s.Container.Quarantine("test")
	if res := <-done; res.Status == abi.Success {
		t.Error("it went on")
	}
	q := k.plugin("q", capability.Standard, capability.Grant{Resources: []string{"ipc://**"}})
	q.ok("ipc_send", []byte("late"), "c")
	if got := q.ok("ipc_recv", nil, "c"); string(got) != "late" {
		t.Errorf("%q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	q.failed(abi.CodeTimeout, q.gate.SecureSyscall(ctx, &abi.SyscallContext{Subject: q.s, Syscall: "ipc_recv", Args: []string{"c"}}))
}

// A shared buffer is as a slice.
func TestMem(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	p := k.plugin("p", capability.Standard, capability.Grant{Resources: []string{"mem://shared/*"}})
	q := k.plugin("q", capability.Standard, capability.Grant{Syscalls: []string{"mem_read"}, Resources: []string{"mem://shared/*"}})
	turn := 0
	rapid.Check(t, func(t *rapid.T) {
		turn++
		name := fmt.Sprint("shared/", turn)
		model := make([]byte, rapid.IntRange(0, 100).Draw(t, "size"))
		p.ok("mem_alloc", nil, name, strconv.Itoa(len(model)))
		for range rapid.IntRange(1, 8).Draw(t, "accesses") {
			offset := rapid.IntRange(0, 110).Draw(t, "offset")
			data := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "data")
			fits := offset+len(data) <= len(model)
			res := p.do("mem_write", 0, data, name, strconv.Itoa(offset))
			if (res.Status == abi.Success) != fits {
				t.Fatalf("%d bytes at %d of %d: %v", len(data), offset, len(model), res.Error())
			}
			if fits {
				copy(model[offset:], data)
			}
			if got := q.ok("mem_read", nil, name, "0", strconv.Itoa(len(model))); !bytes.Equal(got, model) {
				t.Fatalf("%x, want %x", got, model)
			}
		}
		p.code(abi.CodeExists, "mem_alloc", nil, name, "1")
		p.ok("mem_free", nil, name)
		p.code(abi.CodeNotFound, "mem_free", nil, name)
	})
	q.blocked("mem_write", nil, "shared/x", "0")
	p.blocked("mem_alloc", nil, "other", "1")
	p.code(abi.CodeTooLarge, "mem_alloc", nil, "shared/x", strconv.Itoa(syscalls.MaxBuffer+1))
	p.code(abi.CodeInvalid, "mem_alloc", nil, "shared/x", "-1")
	for i := range syscalls.MaxBufferMemory / syscalls.MaxBuffer {
		p.ok("mem_alloc", nil, fmt.Sprint("shared/b", i), strconv.Itoa(syscalls.MaxBuffer))
	}
	p.code(abi.CodeNoSpace, "mem_alloc", nil, "shared/x", "1")
	p.code(abi.CodeInvalid, "mem_read", nil, "shared/b0", strconv.FormatUint(1<<63-1, 10), "1")
	p.code(abi.CodeTooLarge, "mem_read", nil, "shared/b0", "0", strconv.Itoa(syscalls.MaxBufferAccess+1))
	p.ok("mem_free", nil, "shared/b0")
	p.ok("mem_alloc", nil, "shared/x", "1")
}
