//go:build unix

package syscalls_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
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
