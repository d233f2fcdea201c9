//go:build !windows

package syscalls_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
)

// In any tree, any path that opens leads to what the system itself finds there,
// by the canonical path that was decided about; and what the system finds in
// the mount opens.
func TestWalkAgreesWithTheSystem(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	relative := rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "a", "b", "c", "..", ".", ""}), 1, 6).Draw(t, "parts")
		return strings.TrimLeft(strings.Join(parts, "/"), "/")
	})
	opened := 0
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "walk")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if dir, err = filepath.EvalSymlinks(dir); err != nil { // as on macOS
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 14).Draw(t, "entries") {
			parent := rapid.SliceOfN(name, 0, 2).Draw(t, "parent")
			p := filepath.Join(append([]string{dir}, parent...)...)
			if info, err := os.Lstat(p); err != nil || !info.IsDir() {
				p = dir
			}
			p = filepath.Join(p, name.Draw(t, "name"))
			// What is there already stays; that is no error here.
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				if f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
					// The parent may have been reached through a link: the mark
					// is where the file really is.
					if real, err := filepath.EvalSymlinks(p); err == nil && strings.HasPrefix(real, dir) {
						_, _ = f.WriteString(real[len(dir):])
					}
					_ = f.Close()
				}
			case 1:
				if to := relative.Draw(t, "to"); to != "" {
					_ = os.Symlink(to, p)
				}
			default:
				_ = os.Mkdir(p, 0o700)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		p := k.plugin("p", capability.Standard, capability.Grant{Resources: []string{"file:///**"}}, abi.Mount{Guest: "/data", Root: root})
		defer p.s.Container.Close("done")

		for range 10 {
			path := relative.Draw(t, "path")
			real, refErr := filepath.EvalSymlinks(dir + "/" + path)
			info, _ := os.Lstat(real)
			found := refErr == nil && info != nil && info.Mode().IsRegular()

			res := p.do("file_open", 0, nil, "/data/"+path, "r")
			switch {
			case res.Status == abi.Success:
				opened++
				h := abi.Handle(binary.LittleEndian.Uint64(res.Data))
				_, uri, _ := (&abi.SyscallContext{Subject: p.s, Handle: h}).Object()
				canonical := strings.TrimPrefix(uri, "file:///data")
				content := p.do("file_read", h, nil, "/data/"+path, "1000")
				if !found || real != dir+canonical || string(content.Data) != canonical {
					t.Fatalf("%q opened as %q with content %q; the system finds %q (%v)", path, canonical, content.Data, real, refErr)
				}
			case res.Status != abi.Failure:
				t.Fatalf("%q: %v", path, res.Error())
			case res.Err.Code == abi.CodePermission || res.Err.Code == 40:
				// Out of the mount, or more links than we follow.
			case found:
				t.Fatalf("%q: %v, but the system finds %q", path, res.Error(), real)
			}
		}
	})
	if opened == 0 {
		t.Error("no path opened")
	}
}

// Whatever a plugin passes for a path and a mode, it gets no file but those of
// its grant, by its canonical path.
func FuzzOpen(f *testing.F) {
	for _, s := range []string{"/data/pub/f", "/data/pub/../pub/f", "/data/l", "/data/pub/out", "/data/priv/f", "/data//pub/./f", "/", "", "/data/pub/up/priv/f", "/data/pub/\x00", "/data/pub/f/"} {
		f.Add(s, "r")
	}
	f.Add("/data/pub/f", "r+x")
	dir := f.TempDir()
	tree(f, dir, map[string]string{"pub/f": "/pub/f", "pub/d/g": "/pub/d/g", "priv/f": "SECRET", "l": "-> pub/f", "pub/out": "-> ../priv/f", "pub/up": "-> ..", "priv/in": "-> ../pub/d"})
	p := newKernel(f, syscalls.Options{}).plugin("p", capability.Standard, capability.Grant{Syscalls: []string{"read_file"}, Resources: []string{"file:///data/pub/**"}}, mount(f, "/data", dir, false))
	f.Fuzz(func(t *testing.T, path, mode string) {
		res := p.do("file_open", 0, nil, path, mode)
		if res.Status != abi.Success {
			return
		}
		if mode != "r" {
			t.Fatalf("opened with mode %q without file_write", mode)
		}
		h := abi.Handle(binary.LittleEndian.Uint64(res.Data))
		sc := &abi.SyscallContext{Subject: p.s, Handle: h}
		defer sc.CloseHandle()
		_, uri, _ := sc.Object()
		content := p.do("file_read", h, nil, path, "1000")
		if want := strings.TrimPrefix(uri, "file:///data"); string(content.Data) != want || !strings.HasPrefix(want, "/pub/") {
			t.Fatalf("%q opened as %s with content %q (%v)", path, uri, content.Data, content.Error())
		}
	})
}

func ExampleRegistrations() {
	var reg abi.SyscallRegistry
	if err := reg.Register(syscalls.Registrations(syscalls.Options{Version: "1.0"})...); err != nil {
		panic(err)
	}
	open, _ := reg.Lookup("open_file") // an alias
	fmt.Println(open.Name, open.Args, open.MinTrust)
	// Output: file_open [path mode] limited
}
