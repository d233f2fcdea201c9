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

// A reset puts all back, however many pages were written to: few are filled
// from the file, and many are given up.
func TestResetOfPages(t *testing.T) {
	const pages = 3 * maxRefill
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
	for _, n := range []int{0, 1, 2, 50, maxRefill, maxRefill + 1, pages, 3, 0} {
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
