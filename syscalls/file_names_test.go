package syscalls_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// Each operation's failures, by the numbers of Linux.
func TestNames(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs the right to make symbolic links")
	}
	dir, other := t.TempDir(), t.TempDir()
	tree(t, dir, map[string]string{
		"f": "f", "g": "g", "d/x": "x", "d/sub/y": "y", "e": "dir", "l": "-> f", "ld": "-> d", "dangling": "-> none", "abs": "-> /etc",
		"m/inside": "covered", "holds/m2/z": "covered",
	})
	tree(t, other, map[string]string{"o": "o"})
	k := newKernel(t, syscalls.Options{})
	p := k.plugin("p", capability.Standard, capability.Grant{Resources: []string{"file:///data/**", "file:///ro/**"}},
		mount(t, "/data", dir, false), mount(t, "/data/m", other, false), mount(t, "/data/holds/m2", other, false), mount(t, "/ro", dir, true))
	const exdev, notEmpty, busy, loop = 18, 39, 16, 40
	long := "/data/" + strings.Repeat("n", 300)
	for _, c := range []struct {
		call string
		code int32 // 0: success
	}{
		{"mkdir /data/f", abi.CodeExists},
		{"mkdir /data/f/", abi.CodeNotDir},
		{"mkdir /data/d", abi.CodeExists},
		{"mkdir /data/l", abi.CodeExists},
		{"mkdir /data/dangling", abi.CodeExists},
		{"mkdir /data", abi.CodeExists},
		{"mkdir /data/.", abi.CodeExists},
		{"mkdir /data/d/..", abi.CodeExists},
		{"mkdir /data/m", abi.CodeExists},
		{"mkdir /data/none/x", abi.CodeNotFound},
		{"mkdir /data/f/x", abi.CodeNotDir},
		{"mkdir /data/new/.", 0}, // a slash and a dot are one
		{"mkdir /data/new2/", 0},
		{"mkdir /data/ld/new3", 0},
		{"mkdir /ro/newer", abi.CodeReadOnly},
		{"mkdir /ro/d", abi.CodeExists},
		{"mkdir /other/x", -1},
		{"mkdir " + long, 36},

		{"remove /data/none file", abi.CodeNotFound},
		{"remove /data/none dir", abi.CodeNotFound},
		{"remove /data/d file", abi.CodeIsDir},
		{"remove /data/d/ file", abi.CodeIsDir},
		{"remove /data/d dir", notEmpty},
		{"remove /data/d/sub/.. dir", notEmpty},
		{"remove /data/d/. dir", notEmpty}, // is one with "d/"
		{"remove /data/d/sub/.. file", abi.CodeIsDir},
		{"remove /data dir", busy},
		{"remove /data/. dir", abi.CodeInvalid},
		{"remove /data/m dir", busy},
		{"remove /data/f dir", abi.CodeNotDir},
		{"remove /data/f/ file", abi.CodeNotDir},
		{"remove /data/l dir", abi.CodeNotDir},
		{"remove /data/ld/ dir", abi.CodeNotDir},
		{"remove /data/ld/ file", abi.CodeNotDir},
		{"remove /ro/f file", abi.CodeReadOnly},
		{"remove /data/new2/ dir", 0},
		{"remove /data/d/new3 dir", 0},

		{"rename /data/none /data/x", abi.CodeNotFound},
		{"rename /data/f /data/d", abi.CodeIsDir},
		{"rename /data/d /data/f", abi.CodeNotDir},
		{"rename /data/f /data/none/", abi.CodeNotDir},
		{"rename /data/f/ /data/x", abi.CodeNotDir},
		{"rename /data/f /data/g/", abi.CodeNotDir},
		{"rename /data/ld/ /data/x", abi.CodeNotDir},
		{"rename /data/e /data/d", notEmpty},
		{"rename /data/d/sub /data/d", notEmpty},
		{"rename /data/d /data/d/sub/in", abi.CodeInvalid},
		{"rename /data /data/x", busy},
		{"rename /data/e /data", busy},
		{"rename /data/m /data/x", busy},
		{"rename /data/holds /data/x", busy}, // would uncover holds/m2
		{"rename /data/e /data/holds", busy},
		{"rename /data/d/sub/.. /data/x", busy},
		{"rename /data/e /data/d/.", notEmpty},
		{"rename /data/f /data/m/f", exdev},
		{"rename /data/m/o /data/o", exdev},
		{"rename /data/f /ro/f", exdev},
		{"rename /ro/f /ro/x", abi.CodeReadOnly},
		{"rename /data/f /other/f", -1},
		{"rename /data/f /data/f", 0},
		{"rename /data/f /data/f2", 0},
		{"rename /data/f2 /data/f", 0},
		{"rename /data/l /data/l2", 0}, // the link, not what it leads to
		{"rename /data/l2 /data/l", 0},
		{"rename /data/d/ /data/e/", 0}, // onto an empty directory, with what is in it
		{"rename /data/e /data/d", 0},

		{"link /data/none /data/x", abi.CodeNotFound},
		{"link /data/d /data/x", abi.CodePermission},
		{"link /data /data/x", abi.CodePermission},
		{"link /data/f /data/g", abi.CodeExists},
		{"link /data/f /data/d", abi.CodeExists},
		{"link /data/f /data/dangling", abi.CodeExists},
		{"link /data/f /data/x/", abi.CodeNotFound},
		{"link /data/f/ /data/x", abi.CodeNotDir},
		{"link /data/f /data/m/f", exdev},
		{"link /ro/f /data/f2", exdev},
		{"link /ro/f /ro/f2", abi.CodeReadOnly},
		{"link /data/f /other/f", -1},
		{"link /other/f /data/f2", -1},
		{"link /data/dangling /data/x", abi.CodeNotFound},
		{"link /data/dangling /data/dangling2 nofollow", 0},
		{"link /data/l /data/l2 nofollow", 0},
		{"link /data/l /data/f2", 0},

		{"symlink /data/f x", abi.CodeExists},
		{"symlink /data/l x", abi.CodeExists},
		{"symlink /data x", abi.CodeExists},
		{"symlink /data/s/ x", abi.CodeNotFound},
		{"symlink /data/s /x", abi.CodePermission},
		{"symlink /data/s ../x", abi.CodePermission},
		{"symlink /data/d/s ../../x", abi.CodePermission},
		{"symlink /data/d/s a/../../../x", abi.CodePermission},
		{"symlink /data/m/s ../x", abi.CodePermission},
		{"symlink /ro/s x", abi.CodeReadOnly},
		{"symlink /data/s " + strings.Repeat("x", syscalls.MaxPath+1), 36},
		{"symlink /data/d/s ../f", 0},
		{"symlink /data/selfish selfish", 0},

		{"readlink /data/f", abi.CodeInvalid},
		{"readlink /data/d", abi.CodeInvalid},
		{"readlink /data", abi.CodeInvalid},
		{"readlink /data/ld/", abi.CodeInvalid},
		{"readlink /data/none", abi.CodeNotFound},
		{"readlink /data/abs", abi.CodePermission},
		{"readlink /data/selfish", 0},

		{"times /data/none 1 2", abi.CodeNotFound},
		{"times /data/dangling 1 2", abi.CodeNotFound},
		{"times /data/selfish 1 2", loop},
		{"times /data/f -1 2", abi.CodeInvalid},
		{"times /data/f 1 soon", abi.CodeInvalid},
		{"times /ro/f 1 2", abi.CodeReadOnly},
		{"times /ro/none 1 2", abi.CodeNotFound},
	} {
		p.s.Container = abi.NewContainer("p")
		args := strings.Fields(c.call)
		res := p.do("file_"+args[0], 0, nil, args[1:]...)
		switch {
		case c.code == 0 && res.Status != abi.Success,
			c.code > 0 && (res.Status != abi.Failure || res.Err.Code != c.code),
			c.code < 0 && res.Status != abi.Blocked:
			t.Errorf("%.80s: %v, want %d", c.call, res.Error(), c.code)
		}
	}
	for _, c := range [][]string{{"file_remove", "/data/f", "both"}, {"file_link", "/data/f", "/data/x", "maybe"}, {"file_link", "/data/f", "/data/x", "follow", "follow"}, {"file_times", "/data/f", "now", "now", "x"}, {"file_symlink", "/data/s", "a\nb"}, {"file_rename", "/data/f", "x"}, {"file_rename", "x", "/data/f"}, {"file_mkdir", ""}} {
		p.s.Container = abi.NewContainer("p")
		p.blocked(c[0], nil, c[1:]...)
	}
	p.s.Container = abi.NewContainer("p")
	for path, want := range map[string]string{"/data/f": "f", "/data/f2": "f", "/data/l2": "f", "/data/d/s": "f", "/data/d/x": "x", "/data/d/sub/y": "y", "/data/g": "g"} {
		if got := p.content(path); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	if got := string(p.ok("file_readlink", nil, "/data/d/s")); got != "../f" {
		t.Errorf("readlink: %q", got)
	}
	if f, f2 := p.stat("/data/f"), p.stat("/data/f2"); f != f2 || f.links != 2 {
		t.Errorf("%+v and %+v", f, f2)
	}
}

func TestTimes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs the right to make symbolic links")
	}
	dir := t.TempDir()
	tree(t, dir, map[string]string{"f": "f", "d/x": "x", "l": "-> f"})
	p := dataPlugin(t, dir)
	times := func(want func(filestat) bool, path string, stat ...string) {
		t.Helper()
		if s := p.stat(append([]string{path}, stat...)...); !want(s) {
			t.Errorf("%s: %+v", path, s)
		}
	}
	is := func(a, m uint64) func(filestat) bool {
		return func(s filestat) bool { return s.atim == a && s.mtim == m }
	}
	p.ok("file_times", nil, "/data/f", "1000000007", "2000000009000")
	times(is(1000000007, 2000000009000), "/data/f")
	p.ok("file_times", nil, "/data/l", "keep", "5000", "follow")
	times(is(1000000007, 5000), "/data/f")
	p.ok("file_times", nil, "/data/l", "7000", "8000", "nofollow")
	times(is(7000, 8000), "/data/l", "nofollow")
	times(is(1000000007, 5000), "/data/f")
	for _, path := range []string{"/data", "/data/d", "/data/d/", "/data/d/."} {
		p.ok("file_times", nil, path, "3000", "4000")
		times(is(3000, 4000), path)
	}
	h, d := p.open("/data/f", "r"), p.open("/data/d", "rd")
	p.on(h, "file_times", nil, "/data/f", "6000", "keep")
	times(is(6000, 5000), "/data/f")
	p.on(d, "file_times", nil, "/data/d", "keep", "9000")
	times(is(3000, 9000), "/data/d")
	before := uint64(time.Now().Add(-time.Minute).UnixNano())
	p.on(h, "file_times", nil, "/data/f", "keep", "now")
	times(func(s filestat) bool { return s.atim == 6000 && s.mtim > before }, "/data/f")

	ro := newKernel(t, syscalls.Options{}).fresh(mount(t, "/data", dir, true))
	h = ro.open("/data/f", "r")
	ro.failed(abi.CodeReadOnly, ro.do("file_times", h, nil, "/data/f", "1", "1"))
}

// A name decides what may be done with a file, so to give it another one needs
// all that a name can give, at both ends.
func TestNamesDoNotWiden(t *testing.T) {
	dir := t.TempDir()
	mine := func(in ...string) []string { return append([]string{"file:///data/mine/**"}, in...) }
	k := newKernel(t, syscalls.Options{},
		zta.Policy{Name: "all"},
		zta.Policy{Name: "drop box", Syscalls: []string{"file_read"}, Resources: []string{"file:///data/drop/**"}, DenyIdentities: []string{"p"}},
		zta.Policy{Name: "kept", Syscalls: []string{"file_write"}, Resources: []string{"file:///data/kept/**"}, DenyIdentities: []string{"p"}},
		zta.Policy{Name: "no secrets", Syscalls: []string{"file_*"}, Resources: []string{"file:///data/d/secret", "file:///data/*/deep/key"}, DenyIdentities: []string{"p"}},
	)
	files := map[string]string{"mine/m": "m", "drop/f": "f", "kept/k": "k", "d/secret": "s", "e/deep/key": "key", "v/w": "w", "v/u/t": "t"}
	all := []string{"file_*"}
	for _, c := range []struct {
		call      string
		syscalls  []string
		resources []string
		status    abi.Status
	}{
		{"link /data/drop/f /data/mine/f", all, []string{"file:///data/**"}, abi.Blocked},
		{"rename /data/drop/f /data/mine/f", all, []string{"file:///data/**"}, abi.Blocked},
		{"link /data/kept/k /data/mine/f", all, []string{"file:///data/**"}, abi.Blocked},
		{"rename /data/mine/m /data/kept/k", all, []string{"file:///data/**"}, abi.Blocked},
		{"link /data/d/secret /data/mine/f", all, []string{"file:///data/**"}, abi.Blocked},
		{"rename /data/d /data/mine/d", all, []string{"file:///data/**"}, abi.Blocked},
		{"rename /data/e /data/mine/e", all, []string{"file:///data/**"}, abi.Blocked},
		{"rename /data/e/deep /data/mine/deep", all, []string{"file:///data/**"}, abi.Blocked},
		{"rename /data/v /data/mine/v", all, []string{"file:///data/**"}, abi.Success},
		{"rename /data/v /data/mine/v", all, mine("file:///data/*"), abi.Failure},
		{"rename /data/v /data/mine/v", all, mine("file:///data/v", "file:///data/v/w"), abi.Failure},
		{"link /data/v/w /data/mine/w", all, mine(), abi.Blocked},
		{"link /data/mine/m /data/v/m", all, mine(), abi.Blocked},
		{"link /data/v/w /data/mine/w", all, mine("file:///data/v/*"), abi.Success},
		{"link /data/v/w /data/mine/w", []string{"file_link", "write_file"}, mine("file:///data/v/*"), abi.Blocked},
		{"rename /data/v/w /data/mine/w", []string{"file_rename", "read_file", "write_file"}, mine("file:///data/v/*"), abi.Blocked},
		{"rename /data/v/w /data/mine/w", []string{"file_rename", "read_file", "write_file", "file_remove"}, mine("file:///data/v/*"), abi.Success},
		{"mkdir /data/mine/n", []string{"write_file"}, mine(), abi.Blocked},
		{"remove /data/mine/m file", []string{"write_file"}, mine(), abi.Blocked},
		{"remove /data/mine/m file", []string{"file_remove"}, mine(), abi.Success},
		{"readlink /data/mine/m", []string{"read_file"}, mine(), abi.Blocked},
	} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		tree(t, dir, files)
		p := k.plugin("p", capability.Standard, capability.Grant{Syscalls: c.syscalls, Resources: c.resources}, mount(t, "/data", dir, false))
		args := strings.Fields(c.call)
		res := p.do("file_"+args[0], 0, nil, args[1:]...)
		if res.Status != c.status {
			t.Errorf("%s with %q on %q: %v, want %v", c.call, c.syscalls, c.resources, res.Error(), c.status)
		}
		if c.status == abi.Success {
			continue
		}
		for name, content := range files {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != content {
				t.Errorf("%s: %s holds %q (%v)", c.call, name, b, err)
			}
		}
		if strings.Contains(res.Error().Error(), "/v/u") {
			t.Errorf("what is not granted is told: %v", res.Error())
		}
	}
	// A directory is moved only as far as all in it can be decided about.
	for n, want := range map[int]abi.Status{31: abi.Success, 32: abi.Failure, 3000: abi.Failure} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "big"), 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if err := os.WriteFile(filepath.Join(dir, "big", strconv.Itoa(i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p := k.fresh(mount(t, "/data", dir, false))
		res := p.do("file_rename", 0, nil, "/data/big", "/data/new")
		if res.Status != want {
			t.Errorf("%d entries: %v", n, res.Error())
		}
		if want == abi.Failure {
			p.failed(18, res)
		}
	}
}

// What a plugin without rights asks for tells it nothing of what there is.
func TestNamesCannotProbe(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"pub/f": "f", "priv/there": "x", "priv/sub/y": "y"})
	k := newKernel(t, syscalls.Options{})
	for _, call := range []string{
		"mkdir /data/priv/%s", "remove /data/priv/%s file", "remove /data/priv/%s dir", "readlink /data/priv/%s", "stat /data/priv/%s", "times /data/priv/%s now now",
		"symlink /data/priv/%s x", "rename /data/pub/f /data/priv/%s", "rename /data/priv/%s /data/pub/g", "link /data/pub/f /data/priv/%s", "link /data/priv/%s /data/pub/g",
		"mkdir /data/priv/%s/../../pub/new", "rename /data/pub/f /data/priv/%s/../../pub/new",
	} {
		var reasons []string
		for _, name := range []string{"there", "sub", "gone"} {
			p := k.plugin("p", capability.Standard, capability.Grant{Resources: []string{"file:///data/pub/**"}}, mount(t, "/data", dir, false))
			args := strings.Fields(fmt.Sprintf(call, name))
			reason := p.blocked("file_"+args[0], nil, args[1:]...)
			reasons = append(reasons, strings.ReplaceAll(reason, "/"+name, "/…"))
		}
		if reasons[0] != reasons[1] || reasons[1] != reasons[2] {
			t.Errorf("%s: what is there is told from what is not: %q", call, reasons)
		}
	}
}

func handleOf(res abi.SyscallResult) abi.Handle {
	return abi.Handle(binary.LittleEndian.Uint64(res.Data))
}
