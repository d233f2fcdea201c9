//go:build unix

package syscalls_test

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"forgeone.dev/forgeone/abi"
)

// What is not a regular file is refused without being opened: a FIFO would
// hold the open up.
func TestSpecialFiles(t *testing.T) {
	dir, err := os.MkdirTemp("", "f1") // short: the name of a socket is at most about 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	names := []string{"fifo", "socket"}
	if err := unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err == nil {
		names = append(names, "null") // as root only
	}
	p := dataPlugin(t, dir)
	for _, name := range names {
		for _, mode := range []string{"r", "r+", "w", "a"} {
			p.code(abi.CodeUnsupported, "file_open", nil, "/data/"+name, mode)
		}
		p.code(abi.CodeExists, "file_open", nil, "/data/"+name, "wx")
		p.code(abi.CodeNotDir, "file_open", nil, "/data/"+name+"/x", "r")
	}
}

// Whatever becomes of a request, the directories on its way are let go of.
func TestDescriptors(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"a/b/f": "f", "a/l": "-> b/f", "a/abs": "-> /", "a/out": "-> ../../x", "a/loop": "-> loop", "secret/f": "f"})
	p := dataPlugin(t, dir, "file:///data/a/**")
	// Finalizers would hide a leak.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	count := func() int {
		t.Helper()
		entries, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Skipf("descriptors cannot be counted here: %v", err)
		}
		return len(entries)
	}
	before := count()
	for range 20 {
		for _, path := range []string{"a/b/f", "a/l", "a/b/../b/f", "a/b/../none", "a/none/x", "a/abs", "a/out", "a/loop", "a/b/f/x", "a/b", "secret/f", "a/../secret/f", "../x", "a/b/../../a/b/../../secret/../a/b/f"} {
			for _, call := range []string{"mkdir A", "remove A file", "remove A dir", "rename A B", "rename B A", "link A B", "link B A", "symlink A x", "readlink A", "stat A", "times A now now", "rename A bad", "rename bad A", "link A B bad"} {
				args := strings.Fields(strings.NewReplacer("A", "/data/"+path, "B", "/data/a/b/../b/g").Replace(call))
				p.do("file_"+args[0], 0, nil, args[1:]...)
			}
			for _, mode := range []string{"r", "rd", "wx", "a", "bad"} {
				res := p.do("file_open", 0, nil, "/data/"+path, mode)
				if res.Status == abi.Success {
					p.do("file_close", abi.Handle(binary.LittleEndian.Uint64(res.Data)), nil, "/data/"+path)
				}
			}
		}
	}
	if after := count(); after > before+5 { // the log opens some of its own
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}
