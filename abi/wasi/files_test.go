package wasi_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi/wasi"
)

// Rights, oflags and fdflags of preview 1.
const (
	fdRead, fdSeek, fdTell, fdWrite        = 1 << 1, 1 << 2, 1 << 5, 1 << 6
	creat, directory, excl, trunc          = 1, 2, 4, 8
	appending, nonblock, syncing           = 1, 4, 16
	pathOpen, fdReaddir, pathUnlink uint64 = 1 << 13, 1 << 14, 1 << 26
)

// newFiles makes a guest with "/" as descriptor 3, that may do everything.
func newFiles(t testing.TB) *guest {
	t.Helper()
	g := newGuest(t, "*")
	g.process = wasi.NewProcess(&wasi.Config{Preopens: []string{"/"}})
	if err := os.WriteFile(filepath.Join(g.dir, "file"), []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(g.dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	return g
}

// text puts a path into memory and returns it as arguments.
func (g *guest) text(at uint64, s string) []uint64 {
	g.Helper()
	g.write(at, []byte(s))
	return []uint64{at, uint64(len(s))}
}

// open opens a path below a directory, and returns its errno and descriptor.
func (g *guest) open(dir uint64, path string, oflags, base, inheriting, fdflags uint64) (errno uint64, fd uint32) {
	g.Helper()
	p := g.text(1<<16, path)
	errno, err := g.try("path_open", dir, 0, p[0], p[1], oflags, base, inheriting, fdflags, 8)
	if err != nil {
		g.Fatal(err)
	}
	return errno, g.uint32(8)
}

func (g *guest) wantOpen(errno uint64, dir uint64, path string, oflags, base, inheriting, fdflags uint64) uint64 {
	g.Helper()
	got, fd := g.open(dir, path, oflags, base, inheriting, fdflags)
	if got != errno {
		g.Errorf("opening %q: errno %d, want %d", path, got, errno)
	}
	return uint64(fd)
}

func TestModes(t *testing.T) {
	g := newFiles(t)
	for _, tc := range []struct {
		path                  string
		oflags, base, fdflags uint64
		mode                  string
	}{
		{"file", 0, 0, 0, "rn"},
		{"file", 0, fdRead, 0, "rn"},
		{"file", 0, fdWrite, 0, "wekn"},
		{"file", trunc, fdWrite, 0, "wen"},
		{"file", creat, fdRead, 0, "rcn"},
		{"file", 0, fdRead | 1<<22, 0, "rn"}, // as Go opens for reading
		{"file", creat | trunc, fdRead | fdWrite, 0, "r+ctn"},
		{"file", trunc, 0, 0, "r+tn"},
		{"new", creat | excl, fdWrite, syncing | appending, "wkxns"},
		{"dir", directory, 0, 0, "rdn"},
	} {
		g.asked = nil
		g.want(success, "fd_close", g.wantOpen(success, 3, tc.path, tc.oflags, tc.base, 0, tc.fdflags))
		if want := "file_open /" + tc.path + " " + tc.mode; g.asked[0] != want {
			t.Errorf("asked %q, want %q", g.asked[0], want)
		}
	}
	g.asked = nil
	g.wantOpen(success, 3, "dir", 0, fdRead, 0, nonblock)
	if len(g.asked) != 1 || g.asked[0] != "file_open /dir rdn" { // the file that it is not is no effect
		t.Errorf("asked %q", g.asked)
	}
	for _, tc := range []struct{ errno, oflags, base, fdflags uint64 }{
		{einval, 16, 0, 0}, {einval, 0, 0, 32}, {einval, creat | directory, 0, 0}, {eisdir, directory, fdRead | fdWrite, 0}, {eisdir, 0, fdWrite, 0}, {eisdir, creat, 0, 0},
	} {
		g.wantOpen(tc.errno, 3, "dir", tc.oflags, tc.base, 0, tc.fdflags)
	}
}

func TestPaths(t *testing.T) {
	g := newFiles(t)
	asked := len(g.asked)
	for path, errno := range map[string]uint64{
		"": enoent, "/file": enotcapable, "..": enotcapable, "dir/../../file": enotcapable, "fi\x00le": eilseq, "file\x00": eilseq,
		"\xff": eilseq, "new\nline": eilseq, strings.Repeat("a", 4096): enametoolong, strings.Repeat("a/", 1<<15): enametoolong,
	} {
		g.wantOpen(errno, 3, path, 0, 0, 0, 0)
		p := g.text(1<<16, path)
		g.want(errno, "path_filestat_get", 3, 0, p[0], p[1], 64)
		g.want(errno, "path_create_directory", 3, p[0], p[1])
		g.want(errno, "path_unlink_file", 3, p[0], p[1])
		g.want(errno, "path_rename", 3, p[0], p[1], 3, p[0], p[1])
		g.want(errno, "path_readlink", 3, p[0], p[1], 64, 8, 128)
	}
	for _, p := range [][2]uint64{{size, 1}, {size - 1, 2}, {1, 0xffff_ffff}, {0xffff_ffff, 0xffff_ffff}} {
		g.want(efault, "path_create_directory", 3, p[0], p[1])
	}
	if len(g.asked) != asked {
		t.Errorf("asked for what has no right form: %v", g.asked)
	}
	g.want(success, "fd_close", g.wantOpen(success, 3, "dir/.././/dir/../file", 0, 0, 0, 0))
	g.wantOpen(enotdir, 3, "file/", 0, 0, 0, 0)
	fd := g.wantOpen(success, 3, "file", 0, 0, 0, 0)
	g.wantOpen(enotdir, fd, "file", 0, 0, 0, 0)
	p := g.text(0, "file")
	g.want(einval, "path_filestat_get", 3, 2, p[0], p[1], 64)
	g.want(efault, "path_open", 3, 0, p[0], p[1], 0, 0, 0, 0, size-3)
}

func TestRightsAreNeverWon(t *testing.T) {
	g := newFiles(t)
	dir := g.wantOpen(success, 3, ".", directory, pathOpen|fdReaddir, fdRead, 0)
	g.wantOpen(enotcapable, dir, "file", 0, fdRead|fdWrite, 0, 0)
	g.wantOpen(enotcapable, dir, "new", creat, fdRead, 0, 0)
	g.wantOpen(enotcapable, dir, "file", trunc, fdRead, 0, 0)
	p := g.text(0, "file")
	g.want(enotcapable, "path_unlink_file", dir, p[0], p[1])

	fd := g.wantOpen(success, dir, "file", 0, fdRead|1<<40, 0, 0) // a right that nothing has
	g.want(success, "fd_fdstat_get", fd, 64)
	if base := g.uint64(64 + 8); base != fdRead {
		t.Errorf("rights %#x", base)
	}
	g.write(0, words(1024, 4))
	g.want(success, "fd_read", fd, 0, 1, 64)
	g.want(enotcapable, "fd_write", fd, 0, 1, 64)
	g.want(enotcapable, "fd_pread", fd, 0, 1, 0, 64)
	g.want(enotcapable, "fd_seek", fd, 1, 0, 64)
	g.want(enotcapable, "fd_tell", fd, 64)
	g.want(enotcapable, "fd_filestat_get", fd, 64)
	g.want(enotcapable, "fd_fdstat_set_rights", fd, fdRead|fdWrite, 0)
	g.want(success, "fd_fdstat_set_rights", fd, 0, 0)
	g.want(enotcapable, "fd_read", fd, 0, 1, 64)

	fd = g.wantOpen(success, 3, "file", 0, fdTell, 0, 0)
	g.want(success, "fd_seek", fd, 0, 1, 64) // which only tells
	g.want(enotcapable, "fd_seek", fd, 1, 1, 64)
}

func TestDescriptors(t *testing.T) {
	g := newFiles(t)
	capturable := func() bool {
		_, ok := g.process.Capture()
		return ok
	}
	if !capturable() {
		t.Error("a process cannot be captured before it ran")
	}
	g.want(success, "fd_prestat_get", 3, 64)
	if !capturable() {
		t.Error("a process cannot be captured once it was looked at")
	}
	if g.uint32(64) != 0 || g.uint32(68) != 1 {
		t.Errorf("prestat %v", g.read(64, 8))
	}
	g.want(success, "fd_prestat_dir_name", 3, 64, 9)
	g.want(enametoolong, "fd_prestat_dir_name", 3, 64, 0)
	g.want(ebadf, "fd_prestat_get", 4, 64)

	a, b := g.wantOpen(success, 3, "file", 0, fdRead, 0, 0), g.wantOpen(success, 3, "dir", 0, 0, 0, 0)
	if a != 4 || b != 5 || capturable() {
		t.Errorf("descriptors %d and %d, and the process can be captured: %v", a, b, capturable())
	}
	g.want(ebadf, "fd_renumber", a, 99)
	g.want(success, "fd_renumber", a, a)
	g.want(success, "fd_renumber", a, b)
	g.want(ebadf, "fd_close", a)
	g.want(success, "fd_fdstat_get", b, 64)
	if g.read(64, 1)[0] != 4 {
		t.Error("5 is no file")
	}
	g.want(success, "fd_close", b)
	g.want(ebadf, "fd_close", b)
	if !capturable() {
		t.Error("all was closed, and still the process cannot be captured")
	}
	g.want(success, "fd_close", 3)
	g.want(ebadf, "fd_prestat_get", 3, 64)
	captured, ok := g.process.Capture()
	if !ok {
		t.Fatal("a process without its directory cannot be captured")
	}
	g.process.Become(wasi.NewProcess(&wasi.Config{Preopens: []string{"/data"}}))
	g.want(success, "fd_prestat_get", 3, 64)
	g.process.Become(captured)
	g.want(ebadf, "fd_prestat_get", 3, 64)

	for _, name := range []string{"sock_accept", "sock_recv", "sock_send", "sock_shutdown"} {
		g.want(enotsock, name, 1)
		g.want(ebadf, name, 99)
	}
}

func TestTooManyDescriptors(t *testing.T) {
	g := newFiles(t)
	for fd := uint32(4); ; fd++ {
		errno, got := g.open(3, "file", 0, 0, 0, 0)
		if errno == 33 { // EMFILE
			if fd < 1000 {
				t.Errorf("no more than %d descriptors", fd)
			}
			return
		}
		if errno != success || got != fd || fd > 2000 {
			t.Fatalf("descriptor %d: got %d, errno %d", fd, got, errno)
		}
	}
}

func TestReadAndWrite(t *testing.T) {
	g := newFiles(t)
	fd := g.wantOpen(success, 3, "file", 0, fdRead|fdWrite|fdSeek|fdTell|1<<3, 0, 0)
	g.write(0, words(1024, 3, 5000, 0, 2048, 4))
	g.want(success, "fd_read", fd, 0, 3, 64)
	if n, a, b := g.uint32(64), g.read(1024, 4), g.read(2048, 5); n != 7 || string(a) != "012\x00" || string(b) != "3456\x00" {
		t.Errorf("read %d: %q %q", n, a, b)
	}
	g.want(success, "fd_pread", fd, 0, 1, 8, 64)
	if n, a := g.uint32(64), g.read(1024, 3); n != 2 || string(a) != "892" {
		t.Errorf("read %d: %q", n, a)
	}
	g.want(success, "fd_tell", fd, 64)
	if at := g.uint64(64); at != 7 {
		t.Errorf("position %d", at)
	}
	g.write(1024, []byte("abc"))
	g.want(success, "fd_pwrite", fd, 0, 1, 1, 64)
	g.want(success, "fd_fdstat_set_flags", fd, appending)
	g.want(success, "fd_write", fd, 0, 1, 64)
	if b, err := os.ReadFile(filepath.Join(g.dir, "file")); err != nil || string(b) != "0abc456789abc" {
		t.Errorf("the file is %q, %v", b, err)
	}
	g.want(enotsup, "fd_fdstat_set_flags", fd, syncing)
	g.want(einval, "fd_fdstat_set_flags", fd, 64)
	const negative = 1<<64 - 1
	g.want(einval, "fd_pread", fd, 0, 1, negative, 64)
	g.want(einval, "fd_pwrite", fd, 0, 1, negative, 64)
	g.want(einval, "fd_seek", fd, negative, 0, 64)
	g.want(einval, "fd_seek", fd, 0, 3, 64)

	// Nothing is read or written whose count could not be told.
	asked := len(g.asked)
	for _, name := range []string{"fd_read", "fd_write"} {
		g.want(efault, name, fd, 0, 1, size-3)
		g.want(efault, name, fd, size-7, 1, 64)
		g.want(einval, name, fd, 0, 1025, 64)
	}
	g.write(0, words(1024, 3, size-1, 2))
	g.want(efault, "fd_read", fd, 0, 2, 64)
	g.want(efault, "fd_write", fd, 0, 2, 64)
	g.write(0, words(0xffff_ffff, 0xffff_ffff))
	g.want(efault, "fd_read", fd, 0, 1, 64)
	if len(g.asked) != asked {
		t.Errorf("effects of bad pointers: %v", g.asked[asked:])
	}

	for _, name := range []string{"fd_read", "fd_write", "fd_seek", "fd_tell", "fd_allocate", "fd_filestat_set_size", "fd_advise"} {
		g.want(eisdir, name, 3, 0, 0, 0)
	}
	g.want(espipe, "fd_seek", 1, 0, 0, 64)
	g.want(einval, "fd_sync", 1)
	g.want(einval, "fd_allocate", g.wantOpen(success, 3, "file", 0, fdWrite|1<<8, 0, 0), 1<<63, 1<<63)
}

func TestReaddir(t *testing.T) {
	g := newFiles(t)
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprintf("%d-%s", i, strings.Repeat("é", i)))
		if err := os.WriteFile(filepath.Join(g.dir, "dir", want[i]), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fd := g.wantOpen(success, 3, "dir", directory, fdReaddir, 0, 0)
	for _, buf := range []uint32{200, 1000, 1 << 20} {
		names, cookie := map[string]bool{}, uint64(0)
		for end := false; !end; {
			g.want(success, "fd_readdir", fd, 1024, uint64(buf), cookie, 64)
			used := g.uint32(64)
			end = used < buf
			for b := g.read(1024, int(used)); len(b) >= 24; {
				n := int(binary.LittleEndian.Uint32(b[16:]))
				if len(b) < 24+n {
					break // cut: it is the first of the next
				}
				if name := string(b[24 : 24+n]); names[name] {
					t.Fatalf("%q comes twice", name)
				} else {
					names[name] = true
				}
				cookie = binary.LittleEndian.Uint64(b)
				b = b[24+n:]
			}
		}
		for _, name := range append(want, ".", "..") {
			if !names[name] {
				t.Errorf("in buffers of %d bytes %q is missing", buf, name)
			}
		}
		if len(names) != len(want)+2 {
			t.Errorf("%d names", len(names))
		}
	}
	g.want(efault, "fd_readdir", fd, size-1, 2, 0, 64)
	g.want(efault, "fd_readdir", fd, 0, 2, 0, size-1)
	g.want(enotdir, "fd_readdir", 1, 0, 2, 0, 64)
}

// TestStandardInput says how it is waited for.
func TestStandardInput(t *testing.T) {
	g := newFiles(t)
	g.write(0, words(1024, 4))
	poll := func() (types []byte, bytes uint64) {
		g.write(2048, subscription(1, 1, 0, 0, 0)) // standard input
		g.write(2048+48, subscription(2, 0, 1, time.Millisecond, 0))
		g.want(success, "poll_oneoff", 2048, 4096, 2, 64)
		for i := range g.uint32(64) {
			at := 4096 + 32*uint64(i)
			types = append(types, g.read(at+10, 1)[0])
			bytes = g.uint64(at + 16)
		}
		return types, bytes
	}
	if types, _ := poll(); string(types) != "\x00" {
		t.Errorf("nothing is there, and the events are %v", types)
	}
	g.want(success, "fd_fdstat_set_flags", 0, nonblock)
	g.want(eagain, "fd_read", 0, 0, 1, 64)
	g.want(success, "fd_fdstat_set_flags", 0, 0)

	go func() { _, _ = g.stdin.Write([]byte("abcdef")) }()
	for types := []byte{}; string(types) != "\x01"; {
		var n uint64
		if types, n = poll(); string(types) == "\x01" && n != 6 {
			t.Errorf("%d bytes are there", n)
		}
	}
	for _, want := range []string{"abcd", "ef"} {
		g.want(success, "fd_read", 0, 0, 1, 64)
		if got := string(g.read(1024, int(g.uint32(64)))); got != want {
			t.Errorf("read %q, want %q", got, want)
		}
	}
	if err := g.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	g.want(success, "fd_read", 0, 0, 1, 64)
	if n := g.uint32(64); n != 0 {
		t.Errorf("read %d after the end", n)
	}
}

func TestPollOfAFile(t *testing.T) {
	g := newFiles(t)
	fd := g.wantOpen(success, 3, "file", 0, fdRead|fdSeek|1<<27, 0, 0)
	g.want(success, "fd_seek", fd, 4, 0, 64)
	g.write(2048, subscription(1, 1, uint32(fd), 0, 0))
	g.want(success, "poll_oneoff", 2048, 4096, 1, 64)
	if n := g.uint64(4096 + 16); n != 6 {
		t.Errorf("%d bytes to read, want 6", n)
	}
}

func TestSignals(t *testing.T) {
	g := newFiles(t)
	g.want(success, "proc_raise", 0)
	g.want(success, "proc_raise", 16)
	g.want(enotsup, "proc_raise", 18)
	g.want(einval, "proc_raise", 31)
	_, err := g.try("proc_raise", 6)
	var exit *wasi.ExitError
	if !errors.As(err, &exit) || exit.Code != 134 {
		t.Errorf("got %v", err)
	}
}
