package syscalls_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
)

// on calls with a handle and expects success.
func (p *plugin) on(h abi.Handle, name string, payload []byte, args ...string) string {
	p.t.Helper()
	res := p.do(name, h, payload, args...)
	if err := res.Error(); err != nil {
		p.t.Fatalf("%s%q: %v", name, args, err)
	}
	return string(res.Data)
}

// What POSIX's open can say, a mode can: each combination of access, O_CREAT,
// O_EXCL and O_TRUNC, on a file that is there and on one that is not.
func TestModesArePOSIX(t *testing.T) {
	dir := t.TempDir()
	p := dataPlugin(t, dir)
	for _, c := range []struct {
		mode               string
		creat, excl, trunc bool
		readable, writable bool
	}{
		{"r", false, false, false, true, false},
		{"rc", true, false, false, true, false},
		{"rcx", true, true, false, true, false},
		{"wek", false, false, false, false, true},
		{"we", false, false, true, false, true},
		{"wk", true, false, false, false, true},
		{"w", true, false, true, false, true},
		{"wx", true, true, true, false, true},
		{"wkx", true, true, false, false, true},
		{"r+", false, false, false, true, true},
		{"r+t", false, false, true, true, true},
		{"w+e", false, false, true, true, true},
		{"r+c", true, false, false, true, true},
		{"w+k", true, false, false, true, true},
		{"w+", true, false, true, true, true},
		{"rc+x", true, true, false, true, true},
		{"ae", false, false, false, false, true},
		{"a", true, false, false, false, true},
		{"at", true, false, true, false, true},
		{"a+etsn", false, false, true, true, true},
	} {
		tree(t, dir, map[string]string{"there": "content"})
		for _, name := range []string{"there", "missing"} {
			path := "/data/" + name
			res := p.do("file_open", 0, nil, path, c.mode)
			switch {
			case name == "there" && c.excl:
				p.failed(abi.CodeExists, res)
				continue
			case name == "missing" && !c.creat:
				p.failed(abi.CodeNotFound, res)
				continue
			case res.Status != abi.Success:
				t.Fatalf("%s %s: %v", path, c.mode, res.Error())
			}
			h := abi.Handle(binary.LittleEndian.Uint64(res.Data))
			want := "content"
			if name == "missing" || c.trunc {
				want = ""
			}
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
				t.Errorf("%s %s: holds %q (%v), want %q", path, c.mode, b, err, want)
			}
			if res := p.do("file_read", h, nil, path, "1"); (res.Status == abi.Success) != c.readable {
				t.Errorf("%s: read: %v", c.mode, res.Error())
			}
			if res := p.do("file_write", h, []byte("x"), path); (res.Status == abi.Success) != c.writable {
				t.Errorf("%s: write: %v", c.mode, res.Error())
			}
			p.on(h, "file_close", nil, path)
			if err := os.RemoveAll(filepath.Join(dir, "missing")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// granted is a plugin of a new container.
func (k *kernel) granted(resources ...string) *plugin {
	return k.plugin("p", capability.Standard, capability.Grant{Resources: resources})
}

// fresh is one that may use all of its mounts.
func (k *kernel) fresh(mounts ...abi.Mount) *plugin {
	p := k.granted("file:///**")
	p.s.Mounts = mounts
	return p
}

func TestBadModes(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	m := mount(t, "/data", t.TempDir(), false)
	for _, mode := range []string{"re", "rk", "rt", "rtc", "wc", "wt", "ac", "ak", "rex", "wex", "aex", "rd+", "wd", "ad", "rdc", "rdd", "rz", "cr", "rd\x00", "r" + strings.Repeat("n", 99)} {
		k.fresh(m).blocked("file_open", nil, "/data/f", mode)
	}
}

func TestReadAndWriteAt(t *testing.T) {
	dir := t.TempDir()
	p := dataPlugin(t, dir)
	const path = "/data/f"
	for _, mode := range []string{"w+", "a+"} {
		h := p.open(path, mode)
		holds := func(want string) {
			t.Helper()
			if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != want {
				t.Fatalf("%s: holds %q (%v), want %q", mode, b, err, want)
			}
		}
		p.on(h, "file_truncate", nil, path, "0")
		p.on(h, "file_write", []byte("0123456789"), path)
		p.on(h, "file_write", []byte("ab"), path, "3") // whatever the mode
		holds("012ab56789")
		if got := p.on(h, "file_seek", nil, path, "0", "cur"); got != "10" {
			t.Errorf("%s: at %s after a write at an offset", mode, got)
		}
		if got := p.on(h, "file_read", nil, path, "4", "2"); got != "2ab5" {
			t.Errorf("%s: read %q", mode, got)
		}
		if got := p.on(h, "file_read", nil, path, "4", "8"); got != "89" {
			t.Errorf("%s: read %q", mode, got)
		}
		if got := p.on(h, "file_read", nil, path, "4", strconv.Itoa(1<<40)); got != "" {
			t.Errorf("%s: read %q", mode, got)
		}
		if got := p.on(h, "file_seek", nil, path, "1", "set"); got != "1" {
			t.Errorf("%s: at %s", mode, got)
		}
		if got := p.on(h, "file_read", nil, path, "3"); got != "12a" {
			t.Errorf("%s: read %q", mode, got)
		}
		p.on(h, "file_seek", nil, path, "0", "set")
		p.on(h, "file_write", []byte("END"), path, "append")
		holds("012ab56789END")
		if got := p.on(h, "file_seek", nil, path, "0", "cur"); got != "13" {
			t.Errorf("%s: at %s after appending", mode, got)
		}
		if got := p.on(h, "file_seek", nil, path, "-13", "end"); got != "0" {
			t.Errorf("%s: at %s", mode, got)
		}
		p.on(h, "file_write", []byte("X"), path)
		if mode == "a+" {
			holds("012ab56789ENDX")
		} else {
			holds("X12ab56789END")
		}
		p.on(h, "file_write", []byte("Y"), path, "20") // leaves a hole
		if got := p.on(h, "file_read", nil, path, "9", "16"); got != "\x00\x00\x00\x00Y" {
			t.Errorf("%s: read %q", mode, got)
		}
		p.failed(abi.CodeInvalid, p.do("file_seek", h, nil, path, "-1", "set"))
		p.failed(abi.CodeInvalid, p.do("file_seek", h, nil, path, "-100", "cur"))
		p.failed(abi.CodeInvalid, p.do("file_seek", h, nil, path, "1.5", "cur"))
		p.failed(abi.CodeInvalid, p.do("file_read", h, nil, path, "1", "-1"))
		p.failed(abi.CodeInvalid, p.do("file_write", h, nil, path, "end"))
		p.on(h, "file_close", nil, path)
	}
	h := p.open(path, "r")
	for _, args := range [][]string{{"file_seek", path, "0", "SET"}, {"file_read", path, "1", "0", "0"}, {"file_truncate", path, "0", "shrink"}, {"file_sync", path, "some"}, {"file_stat", path, "maybe"}} {
		if res := p.do(args[0], h, nil, args[1:]...); res.Status != abi.Blocked {
			t.Errorf("%q: %v", args, res.Error())
		}
	}
}

func TestTruncateAndSync(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "0123456789"})
	p := dataPlugin(t, dir)
	const path = "/data/f"
	h := p.open(path, "r+")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"5"}, "01234"},
		{[]string{"7"}, "01234\x00\x00"},
		{[]string{"3", "grow"}, "01234\x00\x00"},
		{[]string{"0", "grow"}, "01234\x00\x00"},
		{[]string{"9", "grow"}, "01234\x00\x00\x00\x00"},
		{[]string{"0"}, ""},
	} {
		p.on(h, "file_truncate", nil, append([]string{path}, c.args...)...)
		p.on(h, "file_sync", nil, path, "data")
		p.on(h, "file_sync", nil, path, "all")
		if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != c.want {
			t.Errorf("after %q: %q (%v), want %q", c.args, b, err, c.want)
		}
	}
	p.failed(abi.CodeInvalid, p.do("file_truncate", h, nil, path, "-1"))
	if res := p.do("file_truncate", h, nil, path, strconv.Itoa(math.MaxInt64)); res.Status != abi.Failure {
		t.Errorf("a file of 2^63-1 bytes: %v", res.Status)
	}
	h = p.open(path, "r")
	p.failed(abi.CodeInvalid, p.do("file_truncate", h, nil, path, "0"))

	reader := newKernel(t, syscalls.Options{}).plugin("r", capability.Standard, capability.Grant{Syscalls: []string{"file_open", "file_truncate"}, Resources: []string{"file:///data/**"}}, mount(t, "/data", dir, false))
	h = reader.open(path, "r")
	if res := reader.do("file_truncate", h, nil, path, "0"); res.Status != abi.Blocked || !strings.Contains(res.Reason, "file_write") {
		t.Errorf("truncate without file_write: %v", res.Error())
	}
}

// filestat is what file_stat returns.
type filestat struct {
	dev, ino, kind, links, size, atim, mtim, ctim uint64
}

func decodeStat(t testing.TB, b string) filestat {
	t.Helper()
	if len(b) != 64 {
		t.Fatalf("%d bytes", len(b))
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64([]byte(b[8*i:])) }
	return filestat{at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)}
}

func (p *plugin) stat(args ...string) filestat {
	p.t.Helper()
	return decodeStat(p.t, string(p.ok("file_stat", nil, args...)))
}

func TestStat(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs the right to make symbolic links")
	}
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "content", "g": "content", "d/x": "x", "l": "-> f", "ld": "-> d", "dangling": "-> none"})
	when := time.Unix(1234567890, 123456789)
	if err := os.Chtimes(filepath.Join(dir, "f"), when.Add(time.Second), when); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "same")); err != nil {
		t.Fatal(err)
	}
	p := dataPlugin(t, dir)
	f := p.stat("/data/f")
	if f.kind != 4 || f.links != 2 || f.size != 7 || f.mtim != uint64(when.UnixNano()) || f.atim != uint64(when.Add(time.Second).UnixNano()) || f.ctim == 0 {
		t.Errorf("%+v", f)
	}
	h := p.open("/data/f", "r")
	d := p.open("/data/d", "rd")
	for _, same := range []filestat{p.stat("/data/f", "nofollow"), p.stat("/data/l"), p.stat("/data/l", "follow"), p.stat("/data/same"), decodeStat(t, p.on(h, "file_stat", nil, "/data/f"))} {
		if same != f {
			t.Errorf("%+v, want %+v", same, f)
		}
	}
	for _, other := range []filestat{p.stat("/data/g"), p.stat("/data/l", "nofollow"), p.stat("/data"), p.stat("/data/d"), p.stat("/data/dangling", "nofollow")} {
		if other.ino == f.ino || other.dev != f.dev {
			t.Errorf("%+v beside %+v", other, f)
		}
	}
	if l := p.stat("/data/l", "nofollow"); l.kind != 7 {
		t.Errorf("%+v", l)
	}
	for _, same := range []filestat{p.stat("/data/d/"), p.stat("/data/ld"), p.stat("/data/ld/", "nofollow"), p.stat("/data/d/."), decodeStat(t, p.on(d, "file_stat", nil, "/data/d"))} {
		if want := p.stat("/data/d"); same != want || same.kind != 3 {
			t.Errorf("%+v, want %+v", same, want)
		}
	}
	// What the host calls its files is not told.
	info, err := os.Stat(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(fmt.Sprintf("%+v", info.Sys()), strconv.FormatUint(f.ino, 10)) {
		t.Errorf("inode number of the host: %d", f.ino)
	}
	p.code(abi.CodeNotFound, "file_stat", nil, "/data/none")
	p.code(abi.CodeNotFound, "file_stat", nil, "/data/dangling")
	p.code(abi.CodeNotDir, "file_stat", nil, "/data/f/")
	p.blocked("file_stat", nil, "/other")
}

// entry is a record of file_list.
type entry struct {
	next, ino uint64
	kind      byte
	name      string
}

func decodeList(t testing.TB, b string) (list []entry) {
	t.Helper()
	for len(b) > 0 {
		r := []byte(b)
		n := int(binary.LittleEndian.Uint32(r[16:]))
		list = append(list, entry{binary.LittleEndian.Uint64(r), binary.LittleEndian.Uint64(r[8:]), r[20], b[24 : 24+n]})
		b = b[24+n:]
	}
	return list
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"d/sub/x": "x"}
	for i := range 600 { // more than are read at once
		files[fmt.Sprintf("d/f%03d", i)] = "f"
	}
	tree(t, dir, files)
	p := dataPlugin(t, dir)
	const path = "/data/d"
	h := p.open(path, "rd")
	all := decodeList(t, p.on(h, "file_list", nil, path, "0", "1000000"))
	if len(all) != 603 || all[0].name != "." || all[1].name != ".." {
		t.Fatalf("%d entries, %v", len(all), all[:2])
	}
	if all[0].ino != p.stat(path).ino || all[1].ino != p.stat("/data").ino || all[0].kind != 3 || all[1].kind != 3 {
		t.Errorf("%v", all[:2])
	}
	names := map[string]bool{}
	for _, e := range all[2:] {
		if names[e.name] {
			t.Errorf("%s twice", e.name)
		}
		names[e.name] = true
		if s := p.stat(path + "/" + e.name); s.ino != e.ino || s.kind != uint64(e.kind) {
			t.Errorf("%v, stat has %+v", e, s)
		}
	}
	// From any cookie, with any size, the same list.
	for _, size := range []int{31, 100, 5000} {
		for _, from := range []int{0, 1, 2, 3, 300, 599, 10, 602} {
			got := append([]entry{}, all[:from]...)
			for {
				cookie := uint64(0)
				if len(got) > 0 {
					cookie = got[len(got)-1].next
				}
				part := decodeList(t, p.on(h, "file_list", nil, path, strconv.FormatUint(cookie, 10), strconv.Itoa(size)))
				if len(part) == 0 {
					break
				}
				got = append(got, part...)
			}
			if !slices.Equal(got, all) {
				t.Fatalf("from %d by %d bytes: %d entries", from, size, len(got))
			}
		}
	}
	// What is removed while it is listed disturbs nothing, and from the
	// beginning the list is a new one.
	part := decodeList(t, p.on(h, "file_list", nil, path, "0", "3000"))
	for _, e := range part[2:] {
		if e.kind == 4 {
			if err := os.Remove(filepath.Join(dir, "d", e.name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	rest := decodeList(t, p.on(h, "file_list", nil, path, strconv.FormatUint(part[len(part)-1].next, 10), "1000000"))
	if len(part)+len(rest) != len(all) {
		t.Errorf("%d and %d entries of %d", len(part), len(rest), len(all))
	}
	if again := decodeList(t, p.on(h, "file_list", nil, path, "0", "1000000")); len(again) >= len(all) {
		t.Errorf("%d entries after some were removed", len(again))
	}
	if got := p.on(h, "file_list", nil, path, strconv.Itoa(math.MaxInt64), "100"); got != "" {
		t.Errorf("past the end: %q", got)
	}

	p.failed(abi.CodeInvalid, p.do("file_list", h, nil, path, "0", "24"))
	p.failed(abi.CodeInvalid, p.do("file_list", h, nil, path, "-1", "100"))
	p.failed(abi.CodeIsDir, p.do("file_read", h, nil, path, "1"))
	p.failed(abi.CodeBadHandle, p.do("file_write", h, nil, path))
	p.failed(abi.CodeIsDir, p.do("file_seek", h, nil, path, "0", "set"))
	p.failed(abi.CodeInvalid, p.do("file_truncate", h, nil, path, "0"))
	p.on(h, "file_sync", nil, path, "all")
	p.on(h, "file_sync", nil, path, "data")
	f := p.open("/data/d/sub/x", "r")
	p.failed(abi.CodeNotDir, p.do("file_list", f, nil, "/data/d/sub/x", "0", "100"))

	root := p.open("/data", "rd")
	list := decodeList(t, p.on(root, "file_list", nil, "/data", "0", "1000"))
	if list[0].ino != list[1].ino || list[0].ino != p.stat("/data").ino {
		t.Errorf("above the mount: %v", list)
	}
	p.code(abi.CodeNotDir, "file_open", nil, "/data/d/sub/x", "rd")
	p.code(abi.CodeNotFound, "file_open", nil, "/data/none", "rd")
	p.code(abi.CodeNotFound, "file_open", nil, "/data/none/", "r")
	p.code(abi.CodeIsDir, "file_open", nil, "/data/none/", "w")
}

// A read-only mount's directories are listed, and its files opened with modes
// that would make them if they were missing.
func TestReadOnlyModes(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "content"})
	p := newKernel(t, syscalls.Options{}).fresh(mount(t, "/data", dir, true))
	h := p.open("/data", "rd")
	if list := decodeList(t, p.on(h, "file_list", nil, "/data", "0", "1000")); len(list) != 3 {
		t.Errorf("%v", list)
	}
	p.open("/data/f", "rc")
	p.code(abi.CodeReadOnly, "file_open", nil, "/data/new", "rc")
	for _, mode := range []string{"wek", "r+t", "at"} {
		p.code(abi.CodeReadOnly, "file_open", nil, "/data/f", mode)
	}
}

func TestNoFollow(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs the right to make symbolic links")
	}
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "f", "d/x": "x", "l": "-> f", "ld": "-> d", "dangling": "-> none"})
	p := dataPlugin(t, dir)
	for _, path := range []string{"/data/l", "/data/ld", "/data/dangling"} {
		for _, mode := range []string{"rn", "w+n", "rdn"} {
			p.code(40, "file_open", nil, path, mode)
		}
	}
	p.open("/data/f", "rn")
	p.open("/data/ld/x", "rn")
	p.open("/data/ld/", "rdn")
	p.open("/data/new", "wn")
}
