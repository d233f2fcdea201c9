//go:build unix

package syscalls_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
)

// What changes between the decision and the effect: the effect is on what was
// decided about, or there is none.
func TestChangedAfterDecision(t *testing.T) {
	var open abi.Registration
	for _, r := range syscalls.Registrations(syscalls.Options{}) {
		if r.Name == "file_open" {
			open = r
		}
	}
	k := newKernel(t, syscalls.Options{})
	for _, c := range []struct {
		name   string
		path   string
		change func(in func(...string) string) error
		want   int32 // 0: opened
	}{
		{"file becomes another", "/data/pub/d/x", func(in func(...string) string) error {
			return os.Rename(in("priv", "x"), in("pub", "d", "x"))
		}, 116},
		{"file becomes a hard link to another", "/data/pub/d/x", func(in func(...string) string) error {
			return errors.Join(os.Remove(in("pub", "d", "x")), os.Link(in("priv", "x"), in("pub", "d", "x")))
		}, 116},
		{"file becomes a link within its directory", "/data/pub/d/x", func(in func(...string) string) error {
			return errors.Join(os.Remove(in("pub", "d", "x")), os.Symlink("y", in("pub", "d", "x")))
		}, 116},
		{"file becomes a link out of its directory", "/data/pub/d/x", func(in func(...string) string) error {
			return errors.Join(os.Remove(in("pub", "d", "x")), os.Symlink("../../priv/x", in("pub", "d", "x")))
		}, abi.CodePermission},
		{"file becomes a directory", "/data/pub/d/x", func(in func(...string) string) error {
			return errors.Join(os.Remove(in("pub", "d", "x")), os.Mkdir(in("pub", "d", "x"), 0o700))
		}, -1},
		{"file becomes a fifo", "/data/pub/d/x", func(in func(...string) string) error {
			return errors.Join(os.Remove(in("pub", "d", "x")), unix.Mkfifo(in("pub", "d", "x"), 0o600))
		}, -1},
		{"directory is moved away", "/data/pub/d/x", func(in func(...string) string) error {
			return os.Rename(in("pub", "d"), in("priv", "d"))
		}, 116},
		{"directory becomes a link", "/data/pub/d/x", func(in func(...string) string) error {
			return errors.Join(os.Rename(in("pub", "d"), in("priv", "d")), os.Symlink("../priv/d", in("pub", "d")))
		}, 116},
		{"directory above is moved away", "/data/pub/d/x", func(in func(...string) string) error {
			return os.Rename(in("pub"), in("priv", "pub"))
		}, 116},
		{"directory is moved away and back", "/data/pub/d/x", func(in func(...string) string) error {
			return errors.Join(os.Rename(in("pub", "d"), in("priv", "d")), os.Rename(in("priv", "d"), in("pub", "d")))
		}, 0},
		{"directory of a new file is moved away", "/data/pub/d/new", func(in func(...string) string) error {
			return os.Rename(in("pub", "d"), in("priv", "d"))
		}, 116},
		{"new file is made by another", "/data/pub/d/new", func(in func(...string) string) error {
			return os.WriteFile(in("pub", "d", "new"), []byte("theirs"), 0o600)
		}, 0},
		{"new file becomes a link", "/data/pub/d/new", func(in func(...string) string) error {
			return os.Symlink("../../priv/x", in("pub", "d", "new"))
		}, abi.CodeUnsupported},
		{"new file becomes a dangling link", "/data/pub/d/new", func(in func(...string) string) error {
			return os.Symlink("../../priv/new", in("pub", "d", "new"))
		}, abi.CodeUnsupported},
		{"new file becomes a fifo", "/data/pub/d/new", func(in func(...string) string) error {
			return unix.Mkfifo(in("pub", "d", "new"), 0o600)
		}, abi.CodeUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, mode := range []string{"w", "a", "w+"} {
				dir := t.TempDir()
				in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
				tree(t, dir, map[string]string{"pub/d/x": "x", "pub/d/y": "y", "priv/x": "private"})
				other, err := os.Open(in("priv", "x")) // wherever it goes
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close()
				y, err := os.Open(in("pub", "d", "y"))
				if err != nil {
					t.Fatal(err)
				}
				defer y.Close()
				p := k.plugin("p", capability.Standard, capability.Grant{}, mount(t, "/data", dir, false))
				sc := &abi.SyscallContext{Subject: p.s, Syscall: "file_open", Args: []string{c.path, mode}}
				res, err := open.Resolve(t.Context(), sc)
				if err != nil || res.Err != nil || res.Resources[0] != "file://"+c.path {
					t.Fatalf("%v, %v, %v", res.Resources, res.Err, err)
				}
				if err := c.change(in); err != nil {
					t.Fatal(err)
				}
				_, err = open.Handler(t.Context(), sc, &res)
				if err := res.Object.(io.Closer).Close(); err != nil {
					t.Error(err)
				}
				var se *abi.SyscallError
				switch {
				case c.want == 0 && err != nil, c.want != 0 && err == nil:
					t.Errorf("mode %s: %v", mode, err)
				case c.want > 0 && (!errors.As(err, &se) || se.Code != c.want):
					t.Errorf("mode %s: %v, want code %d", mode, err, c.want)
				}
				if b, err := io.ReadAll(other); err != nil || string(b) != "private" {
					t.Errorf("mode %s: priv/x holds %q (%v)", mode, b, err)
				}
				if b, err := io.ReadAll(y); err != nil || string(b) != "y" {
					t.Errorf("mode %s: y holds %q (%v)", mode, b, err)
				}
				for _, made := range []string{in("priv", "new"), in("priv", "d", "new")} {
					if _, err := os.Lstat(made); err == nil {
						t.Errorf("mode %s: %s was made", mode, made)
					}
				}
			}
		})
	}
}

// The same for what is done by name: it is done in the directory that was
// decided about, to the object that was, or not at all.
func TestNamesChangedAfterDecision(t *testing.T) {
	regs := map[string]abi.Registration{}
	for _, r := range syscalls.Registrations(syscalls.Options{}) {
		regs[r.Name] = r
	}
	k := newKernel(t, syscalls.Options{})
	type in = func(...string) string
	becomes := func(name string, put func(in, string) error) func(in) error {
		return func(in in) error {
			p := in("pub", "d", name)
			// What was there is kept: its inode number would be given out again.
			if err := os.Rename(p, in("priv", "was")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return put(in, p)
		}
	}
	changes := map[string]func(in) error{
		"its directory is moved away": func(in in) error { return os.Rename(in("pub", "d"), in("priv", "moved")) },
		"its directory becomes a link": func(in in) error {
			return errors.Join(os.Rename(in("pub", "d"), in("priv", "moved")), os.Symlink("../priv/d", in("pub", "d")))
		},
		"its directory becomes another": func(in in) error {
			return errors.Join(os.Rename(in("pub", "d"), in("priv", "moved")), os.Mkdir(in("pub", "d"), 0o700))
		},
		"it becomes another":    becomes("x", func(in in, p string) error { return os.WriteFile(p, []byte("another"), 0o600) }),
		"it becomes a link out": becomes("x", func(in in, p string) error { return os.Symlink("../../priv/x", p) }),
		"it is what is private": becomes("x", func(in in, p string) error { return os.Link(in("priv", "x"), p) }),
		"it is made by another": becomes("new", func(in in, p string) error { return os.Symlink("../../priv/x", p) }),
	}
	for _, c := range []struct {
		call   string
		change string
		want   int32
	}{
		{"mkdir /data/pub/d/new", "its directory is moved away", 116},
		{"mkdir /data/pub/d/new", "its directory becomes a link", 116},
		{"mkdir /data/pub/d/new", "its directory becomes another", 116},
		{"mkdir /data/pub/d/new", "it is made by another", abi.CodeExists},
		{"symlink /data/pub/d/new x", "its directory is moved away", 116},
		{"symlink /data/pub/d/new x", "it is made by another", abi.CodeExists},
		{"remove /data/pub/d/x file", "its directory is moved away", 116},
		{"remove /data/pub/d/x file", "its directory becomes a link", 116},
		{"remove /data/pub/d/x file", "it becomes another", 116},
		{"remove /data/pub/d/x file", "it becomes a link out", 116},
		{"remove /data/pub/d/x file", "it is what is private", 116},
		{"remove /data/pub/d/e dir", "its directory becomes another", 116},
		{"rename /data/pub/d/x /data/pub/y", "its directory is moved away", 116},
		{"rename /data/pub/d/x /data/pub/y", "it becomes a link out", 116},
		{"rename /data/pub/d/x /data/pub/y", "it is what is private", 116},
		{"rename /data/pub/z /data/pub/d/new", "its directory becomes a link", 116},
		{"rename /data/pub/z /data/pub/d/new", "its directory becomes another", 116},
		{"rename /data/pub/z /data/pub/d/new", "it is made by another", 116},
		{"rename /data/pub/z /data/pub/d/x", "it is what is private", 116},
		{"link /data/pub/d/x /data/pub/y", "its directory is moved away", 116},
		{"link /data/pub/d/x /data/pub/y", "it becomes another", 116},
		{"link /data/pub/d/x /data/pub/y", "it becomes a link out", 116},
		{"link /data/pub/d/x /data/pub/y", "it is what is private", 116},
		{"link /data/pub/z /data/pub/d/new", "its directory becomes a link", 116},
		{"link /data/pub/z /data/pub/d/new", "it is made by another", abi.CodeExists},
		{"stat /data/pub/d/x", "its directory is moved away", 116},
		{"stat /data/pub/d/x", "it is what is private", 116},
		{"readlink /data/pub/d/l", "its directory becomes another", 116},
		{"times /data/pub/d/x 1 1", "its directory becomes a link", 116},
		{"times /data/pub/d/x 1 1", "it becomes a link out", 116},
		{"times /data/pub/d/x 1 1", "it is what is private", 116},
		{"times /data/pub/d/e 1 1", "its directory is moved away", 116},
		{"open /data/pub/d/e rd", "its directory becomes a link", 116},
	} {
		dir := t.TempDir()
		in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
		tree(t, dir, map[string]string{"pub/d/x": "x", "pub/d/e": "dir", "pub/d/l": "-> x", "pub/z": "z", "priv/x": "private", "priv/d/x": "private", "priv/d/l": "-> secret"})
		p := k.plugin("p", capability.Standard, capability.Grant{}, mount(t, "/data", dir, false))
		args := strings.Fields(c.call)
		reg, sc := regs["file_"+args[0]], &abi.SyscallContext{Subject: p.s, Args: args[1:]}
		res, err := reg.Resolve(t.Context(), sc)
		if err != nil || res.Err != nil {
			t.Fatalf("%s: %v, %v", c.call, err, res.Err)
		}
		if err := changes[c.change](in); err != nil {
			t.Fatal(err)
		}
		before := list(t, dir)
		_, err = reg.Handler(t.Context(), sc, &res)
		if err := res.Object.(io.Closer).Close(); err != nil {
			t.Error(err)
		}
		if se := (*abi.SyscallError)(nil); !errors.As(err, &se) || se.Code != c.want {
			t.Errorf("%s, %s: %v, want code %d", c.call, c.change, err, c.want)
		}
		if after := list(t, dir); after != before {
			t.Errorf("%s, %s: there was\n%s and then\n%s", c.call, c.change, before, after)
		}
	}
}

// list is a tree as text, with inodes, links and times of modification.
func list(t *testing.T, dir string) string {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		_, err = fmt.Fprintln(&b, p[len(dir):], st.Ino, st.Nlink, st.Size, st.Mtim)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
