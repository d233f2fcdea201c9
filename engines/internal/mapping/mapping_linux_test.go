package mapping

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"forgeone.dev/forgeone/engines"
)

// A reset puts all back, however many pages were written to: few are copied, and
// many are given up.
func TestResetOfPages(t *testing.T) {
	const pages = 3 * maxCopied
	size := uint64(pages * unix.Getpagesize())
	size -= size % engines.PageSize
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := Reserve(size, size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Free()
	memory := r.Commit(size)
	var o Overlay
	defer o.Close()
	if err := o.Map(memory, file, size); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 2, 50, maxCopied, maxCopied + 1, pages, 3, 0} {
		for _, page := range rand.Perm(pages)[:n] {
			memory[(page*unix.Getpagesize()+rand.IntN(unix.Getpagesize()))%len(memory)]++
		}
		if err := o.Reset(memory); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(memory, content) {
			t.Fatalf("%d pages were written to, and not all are as they were", n)
		}
	}
	onDisk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(onDisk, content) {
		t.Error("the file was written to")
	}
}

// What is copied back is what was written to, and no more.
func TestOwnPages(t *testing.T) {
	if _, err := pagemap(); err != nil {
		t.Skipf("this system does not say which pages are a mapping's own: %v", err)
	}
	page := unix.Getpagesize()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 16*page), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	memory, err := unix.Mmap(int(file.Fd()), 0, 16*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	memory[3*page], memory[4*page], memory[9*page+1] = 1, memory[8*page], 2 // page 8 is read
	own, ok := new(pageScan).own(memory)
	if !ok {
		t.Skip("this kernel has no PAGEMAP_SCAN: it came with Linux 6.7")
	}
	n := 0
	for _, r := range own {
		n += int(r.end-r.start) / page
	}
	if n != 3 {
		t.Errorf("%d pages are the mapping's own: %+v, want 3", n, own)
	}
}
