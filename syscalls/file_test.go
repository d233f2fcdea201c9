package syscalls_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// tree makes files and links: a value that begins with "-> " is a link, one
// that is "dir" a directory, any other a file's content.
func tree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		p := filepath.Join(dir, filepath.FromSlash(n))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch v := files[n]; {
		case v == "dir":
			err = os.MkdirAll(p, 0o755)
		case strings.HasPrefix(v, "-> "):
			err = os.Symlink(v[3:], p)
		default:
			err = os.WriteFile(p, []byte(v), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// content reads a file through the gate.
func (p *plugin) content(path string) string {
	p.t.Helper()
	h := p.open(path, "r")
	var b []byte
	for {
		res := p.do("file_read", h, nil, path, "7")
		if err := res.Error(); err != nil {
			p.t.Fatalf("read %s: %v", path, err)
		}
		if len(res.Data) == 0 {
			break
		}
		b = append(b, res.Data...)
	}
	if err := p.do("file_close", h, nil, path).Error(); err != nil {
		p.t.Fatalf("close %s: %v", path, err)
	}
	return string(b)
}

// put writes a file through the gate.
func (p *plugin) put(path, mode, data string) {
	p.t.Helper()
	h := p.open(path, mode)
	res := p.do("file_write", h, []byte(data), path)
	if err := res.Error(); err != nil {
		p.t.Fatalf("write %s: %v", path, err)
	}
	if string(res.Data) != strconv.Itoa(len(data)) {
		p.t.Fatalf("wrote %s of %d", res.Data, len(data))
	}
	if err := p.do("file_close", h, nil, path).Error(); err != nil {
		p.t.Fatalf("close %s: %v", path, err)
	}
}

func dataPlugin(t testing.TB, dir string, resources ...string) *plugin {
	t.Helper()
	if resources == nil {
		resources = []string{"file:///data/**"}
	}
	return newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, capability.Grant{Resources: resources}, mount(t, "/data", dir, false))
}

func TestFileModes(t *testing.T) {
	dir := t.TempDir()
	p := dataPlugin(t, dir)
	const path = "/data/f"
	on := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != want {
			t.Fatalf("file holds %q (%v), want %q", b, err, want)
		}
	}
	p.code(abi.CodeNotFound, "file_open", nil, path, "r")
	p.code(abi.CodeNotFound, "file_open", nil, path, "r+")
	p.put(path, "wx", "hello")
	on("hello")
	p.code(abi.CodeExists, "file_open", nil, path, "wx")
	p.code(abi.CodeExists, "file_open", nil, path, "a+x")
	p.put(path, "a", " world")
	on("hello world")
	p.put(path, "r+", "J")
	on("Jello world")
	p.put(path, "w", "new")
	on("new")
	p.put(path, "a+", "er")
	on("newer")
	if got := p.content(path); got != "newer" {
		t.Errorf("read %q", got)
	}
	p.put("/data/g", "a", "made")
	if got := p.content("/data/g"); got != "made" {
		t.Errorf("read %q", got)
	}
	for _, mode := range []string{"", "x", "rx", "r++", "w+w", "rw", "wxx", "R", "r ", "r\x00"} {
		p.blocked("file_open", nil, path, mode)
	}

	h := p.open(path, "r")
	p.failed(abi.CodeBadHandle, p.do("file_write", h, []byte("x"), path))
	h = p.open(path, "w")
	p.failed(abi.CodeBadHandle, p.do("file_read", h, nil, path, "1"))
	h = p.open(path, "w+")
	p.failed(abi.CodeTooLarge, p.do("file_read", h, nil, path, strconv.Itoa(syscalls.MaxRead+1)))
	p.failed(abi.CodeInvalid, p.do("file_read", h, nil, path, "-1"))
	p.failed(abi.CodeTooLarge, p.do("file_write", h, make([]byte, syscalls.MaxWrite+1), path))
}

func TestFileHandles(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "content", "l": "-> f"})
	p := dataPlugin(t, dir)
	h := p.open("/data/f", "r")

	p.failed(abi.CodeBadHandle, p.do("file_read", 0, nil, "/data/f", "1"))
	p.failed(abi.CodeBadHandle, p.do("file_read", h+1, nil, "/data/f", "1"))
	if res := p.do("file_read", h, nil, "/data/other", "1"); res.Status != abi.Blocked {
		t.Errorf("read by another path: %v", res.Status)
	}
	other := dataPlugin(t, dir)
	other.failed(abi.CodeBadHandle, other.do("file_read", h, nil, "/data/f", "1"))

	// A handle by way of a link has the link's path as its argument.
	l := p.open("/data/l", "r")
	if res := p.do("file_read", l, nil, "/data/f", "1"); res.Status != abi.Blocked {
		t.Errorf("read by the target's path: %v", res.Status)
	}
	if res := p.do("file_read", l, nil, "/data/l", "100"); string(res.Data) != "content" {
		t.Errorf("read %q (%v)", res.Data, res.Error())
	}

	if err := p.do("file_close", h, nil, "/data/f").Error(); err != nil {
		t.Error(err)
	}
	p.failed(abi.CodeBadHandle, p.do("file_close", h, nil, "/data/f"))
	p.failed(abi.CodeBadHandle, p.do("file_read", h, nil, "/data/f", "1"))

	for range abi.MaxHandles - 1 {
		p.open("/data/f", "r")
	}
	p.code(abi.CodeTooMany, "file_open", nil, "/data/f", "r")
	p.s.Container.Quarantine("test")
	if res := p.do("file_read", l, nil, "/data/l", "1"); res.Status != abi.Quarantined {
		t.Errorf("after quarantine: %v", res.Status)
	}
}

// Close needs no grant, reading and writing do.
func TestFileGrants(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "content"})
	k := newKernel(t, syscalls.Options{})
	reader := k.plugin("reader", capability.Standard, capability.Grant{Syscalls: []string{"read_file"}, Resources: []string{"file:///data/**"}}, mount(t, "/data", dir, false))
	if got := reader.content("/data/f"); got != "content" {
		t.Errorf("read %q", got)
	}
	for _, mode := range []string{"r+", "w", "w+", "a", "a+", "wx"} {
		if why := reader.blocked("file_open", nil, "/data/f", mode); !strings.Contains(why, "file_write") {
			t.Errorf("mode %s: %s", mode, why)
		}
	}
	limited := k.plugin("limited", capability.Limited, capability.Grant{Resources: []string{"file:///data/**"}}, mount(t, "/data", dir, false))
	limited.blocked("file_open", nil, "/data/f", "w")
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "content" {
		t.Errorf("a denied open changed the file: %q", b)
	}
}

func TestReadOnlyMount(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "content"})
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, capability.Grant{Resources: []string{"file:///data/**"}}, mount(t, "/data", dir, true))
	for _, mode := range []string{"r+", "w", "a", "wx"} {
		p.code(abi.CodeReadOnly, "file_open", nil, "/data/f", mode)
	}
	p.code(abi.CodeReadOnly, "file_open", nil, "/data/new", "w")
	if got := p.content("/data/f"); got != "content" {
		t.Errorf("read %q", got)
	}
	p.blocked("file_open", nil, "/other/f", "w") // what is not granted is not told to be read-only
}

// What a path leads to: the canonical resource, which the reason of a denial
// names, and the content or the code of the failure.
func TestWalk(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs the right to make symbolic links")
	}
	dir, other, outside := t.TempDir(), t.TempDir(), t.TempDir()
	tree(t, outside, map[string]string{"secret": "OUTSIDE"})
	tree(t, other, map[string]string{"f": "other"})
	files := map[string]string{
		"a/f": "af", "a/b/g": "abg", "sub/hidden": "HIDDEN", "..data": "dots",
		"l": "-> a/f", "la": "-> a", "lb": "-> la/b", "a/up": "-> ../a/b/g", "a/b/self": "-> .",
		"abs": "-> " + filepath.Join(outside, "secret"), "root": "-> /", "out": "-> ../" + filepath.Base(outside) + "/secret",
		"dangling": "-> a/none", "loop": "-> loop", "loop1": "-> loop2", "loop2": "-> loop1", "tosub": "-> sub/f",
		"slash": "-> a/", "fslash": "-> a/f/",
	}
	for i := range syscalls.MaxLinks + 1 { // c0 -> a/f, c1 -> c0, …
		to := "a/f"
		if i > 0 {
			to = fmt.Sprintf("c%d", i-1)
		}
		files[fmt.Sprintf("c%d", i)] = "-> " + to
	}
	deep := strings.Repeat("d/", syscalls.MaxDepth+1)
	files[deep+"f"] = "too deep"
	tree(t, dir, files)
	mounts := []abi.Mount{mount(t, "/data", dir, false), mount(t, "/data/sub", other, false), mount(t, "/data/virtual", other, false)}
	k := newKernel(t, syscalls.Options{})
	all := k.plugin("all", capability.Standard, capability.Grant{Resources: []string{"file:///**"}}, mounts...)
	none := k.plugin("none", capability.Standard, capability.Grant{}, mounts...)

	for _, c := range []struct {
		path, canonical, content string
		code                     int32
	}{
		{"/data/a/f", "/data/a/f", "af", 0},
		{"//data/./a//f", "/data/a/f", "af", 0},
		{"/./data/a/f", "/data/a/f", "af", 0},
		{"/data/a/b/../f", "/data/a/f", "af", 0},
		{"/data/a/b/../../l", "/data/a/f", "af", 0},
		{"/data/la/b/../f", "/data/a/f", "af", 0},
		{"/data/lb/../f", "/data/a/f", "af", 0}, // ".." of where the link leads, not of the link
		{"/data/l", "/data/a/f", "af", 0},
		{"/data/lb/g", "/data/a/b/g", "abg", 0},
		{"/data/a/up", "/data/a/b/g", "abg", 0},
		{"/data/a/b/self/self/g", "/data/a/b/g", "abg", 0},
		{"/data/slash/f", "/data/a/f", "af", 0},
		{"/data/..data", "/data/..data", "dots", 0},
		{fmt.Sprintf("/data/c%d", syscalls.MaxLinks-1), "/data/a/f", "af", 0},
		{fmt.Sprintf("/data/c%d", syscalls.MaxLinks), "/data/c0", "", 40},
		{"/data/sub/f", "/data/sub/f", "other", 0},
		{"/data/tosub", "/data/sub/f", "other", 0},
		{"/data/a/../sub/f", "/data/sub/f", "other", 0},
		{"/data/virtual/f", "/data/virtual/f", "other", 0},
		{"/data/sub/hidden", "/data/sub/hidden", "", abi.CodeNotFound}, // shadowed
		{"/data/sub/../a/f", "/data/a/f", "", abi.CodePermission},
		{"/data/none", "/data/none", "", abi.CodeNotFound},
		{"/data/none/x/../y", "/data/none/y", "", abi.CodeNotFound},
		{"/data/dangling", "/data/a/none", "", abi.CodeNotFound},
		{"/data/a/f/", "/data/a/f", "", abi.CodeNotDir},
		{"/data/a/f/.", "/data/a/f", "", abi.CodeNotDir},
		{"/data/a/f/x", "/data/a/f/x", "", abi.CodeNotDir},
		{"/data/a/f/../f", "/data/a/f", "", abi.CodeNotDir},
		{"/data/fslash", "/data/a/f", "", abi.CodeNotDir},
		{"/data/a", "/data/a", "", abi.CodeIsDir},
		{"/data/a/", "/data/a", "", abi.CodeIsDir},
		{"/data", "/data", "", abi.CodeIsDir},
		{"/data/loop", "/data/loop", "", 40},
		{"/data/loop1", "/data/loop1", "", 40},
		{"/data/abs", "/data/abs", "", abi.CodePermission},
		{"/data/root/etc/passwd", "/data/root/etc/passwd", "", abi.CodePermission},
		{"/data/out", "/" + filepath.Base(outside) + "/secret", "", abi.CodePermission},
		{"/data/../data/a/f", "/data/a/f", "", abi.CodePermission},
		{"/x/../data/a/f", "/data/a/f", "", abi.CodeNotFound},
		{"/etc/passwd", "/etc/passwd", "", abi.CodeNotFound},
		{"/data2/f", "/data2/f", "", abi.CodeNotFound},
		{"/", "/", "", abi.CodeNotFound},
		{"/data/" + deep + "f", "/data/" + deep + "f", "", 36},
		{"/data/" + strings.Repeat("n", 300), "/data/" + strings.Repeat("n", 300), "", 36},
	} {
		if c.code != 0 {
			all.code(c.code, "file_open", nil, c.path, "r")
		} else if got := all.content(c.path); got != c.content {
			t.Errorf("%s holds %q, want %q", c.path, got, c.content)
		}
		if why := none.blocked("file_open", nil, c.path, "r"); !strings.Contains(why, strconv.Quote("file://"+c.canonical)) {
			t.Errorf("%s: want %s in %s", c.path, c.canonical, why)
		}
	}
	for _, path := range []string{"", "data/a/f", "./data", "/data/a\x00", "/data/a\n", "/data/\u0085", "/data/\xff", "/data/" + strings.Repeat("x/", syscalls.MaxPath/2)} {
		all.blocked("file_open", nil, path, "r")
	}
	// A dangling link is written through, but not made anew through.
	all.code(abi.CodeExists, "file_open", nil, "/data/dangling", "wx")
	all.put("/data/dangling", "w", "now")
	if got := all.content("/data/a/none"); got != "now" {
		t.Errorf("written through a link: %q", got)
	}
}

// A ".." through what is not granted would tell whether it exists.
func TestNoProbing(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"pub/f": "f", "pub/sub/g": "g", "private/x": "x"})
	p := dataPlugin(t, dir, "file:///data/pub/**")
	there := p.blocked("file_open", nil, "/data/private/../pub/f", "r")
	gone := p.blocked("file_open", nil, "/data/absent/../pub/f", "r")
	if strings.ReplaceAll(there, "private", "absent") != gone {
		t.Errorf("what exists is told from what does not:\n%s\n%s", there, gone)
	}
	if there, gone := p.blocked("file_open", nil, "/data/private/x", "w"), p.blocked("file_open", nil, "/data/private/y", "w"); strings.ReplaceAll(there, "/x", "/y") != gone {
		t.Errorf("what exists is told from what does not:\n%s\n%s", there, gone)
	}
	for _, path := range []string{"/data/pub/sub/../f", "/data/pub/../pub/f"} {
		if got := p.content(path); got != "f" {
			t.Errorf("%s holds %q", path, got)
		}
	}
}

// Policies on arguments see the path as the plugin wrote it.
func TestArgumentIsUncleaned(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"a/f": "f"})
	k := newKernel(t, syscalls.Options{}, zta.Policy{Name: "no dots", Args: map[int]zta.ArgConstraint{0: {Deny: `\.\.`}}})
	p := k.plugin("p", capability.Standard, capability.Grant{Resources: []string{"file:///data/**"}}, mount(t, "/data", dir, false))
	p.ok("file_open", nil, "/data/a/f", "r")
	p.blocked("file_open", nil, "/data/a/../a/f", "r")
}

// A host path is not a plugin's to know.
func TestFailuresKeepHostPaths(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "x", "d/g": "x"})
	p := dataPlugin(t, dir)
	for _, args := range [][]string{{"/data/none", "r"}, {"/data/d", "r"}, {"/data/f/x", "r"}, {"/data/f", "wx"}, {"/data/" + strings.Repeat("n", 300), "w"}} {
		res := p.do("file_open", 0, nil, args...)
		if res.Status != abi.Failure || strings.Contains(res.Err.Error(), dir) || res.Err.Context["path"] != args[0] {
			t.Errorf("%q: %v", args, res.Error())
		}
	}
}

// Where a file system takes other spellings for a name, only the listed one is
// found; where it does not, neither is.
func TestOneSpelling(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"Secret.txt": "s", "caf\u00e9": "c"})
	p := dataPlugin(t, dir)
	if got := p.content("/data/Secret.txt") + p.content("/data/caf\u00e9"); got != "sc" {
		t.Errorf("read %q", got)
	}
	for _, name := range []string{"secret.txt", "SECRET.TXT", "SECRET~1.TXT", "cafe\u0301"} {
		p.code(abi.CodeNotFound, "file_open", nil, "/data/"+name, "r")
	}
	// Two names for one file, as a hard link makes them, are both found.
	if err := os.Link(filepath.Join(dir, "Secret.txt"), filepath.Join(dir, "link.txt")); err == nil {
		if got := p.content("/data/link.txt"); got != "s" {
			t.Errorf("read %q", got)
		}
	}
}
