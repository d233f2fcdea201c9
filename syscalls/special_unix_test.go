//go:build unix

package syscalls_test

import (
	"net"
	"os"
	"path/filepath"
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
