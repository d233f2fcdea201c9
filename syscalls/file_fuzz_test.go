//go:build !windows

package syscalls_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/syscalls"
)

// Whatever a plugin passes to any syscall of files, by path or by handle, it is
// answered, no failure tells a host path, and nothing outside of its grant, or
// in a read-only mount, is changed.
func FuzzFiles(f *testing.F) {
	var names []string
	for _, r := range syscalls.Registrations(syscalls.Options{}) {
		if strings.HasPrefix(r.Name, "file_") {
			names = append(names, r.Name)
		}
	}
	for i := range names {
		for _, args := range []string{
			"/data/pub/f\x00r", "/data/pub/f\x00/data/pub/g", "/data/pub/../priv/f\x00file", "/data/pub/d\x000\x00100", "/data/pub/f\x00-1\x00set", "/data/pub/f\x009223372036854775807\x00grow", "/data/pub/new\x00../../..\x00x",
			"/data/pub/f\x00now\x00keep\x00nofollow", "/data/pub/f\x00100\x000", "/ro/f\x00/ro/g", "/data/priv/f\x00/data/pub/f", "/data/pub/d/\x00dir", "",
		} {
			f.Add(uint8(i), args, uint8(i%3), []byte("payload"))
		}
	}
	dir, ro := f.TempDir(), f.TempDir()
	tree(f, dir, map[string]string{"priv/f": "SECRET"})
	tree(f, ro, map[string]string{"f": "READ-ONLY"})
	k := newKernel(f, syscalls.Options{})
	mounts := []abi.Mount{mount(f, "/data", dir, false), mount(f, "/ro", ro, true)}
	f.Fuzz(func(t *testing.T, which uint8, text string, on uint8, payload []byte) {
		if err := os.RemoveAll(filepath.Join(dir, "pub")); err != nil {
			t.Fatal(err)
		}
		tree(t, dir, map[string]string{"pub/f": "f", "pub/d/g": "g", "pub/l": "-> d", "pub/out": "-> ../priv/f"})
		p := (&kernel{t: t, gate: k.gate}).granted("file:///data/pub/**", "file:///ro/*")
		p.s.Mounts = mounts
		handles := []abi.Handle{0, p.open("/data/pub/f", "r+"), p.open("/data/pub/d", "rd")}
		name, args := names[int(which)%len(names)], strings.Split(text, "\x00")
		res := p.do(name, handles[int(on)%len(handles)], payload, args...)
		if err := res.Error(); err != nil && (strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), ro)) {
			t.Fatalf("%s%q tells a host path: %v", name, args, err)
		}
		if strings.Contains(string(res.Data), "SECRET") {
			t.Fatalf("%s%q told %q", name, args, res.Data)
		}
		for root, content := range map[string]string{filepath.Join(dir, "priv"): "SECRET", ro: "READ-ONLY"} {
			if b, err := os.ReadFile(filepath.Join(root, "f")); err != nil || string(b) != content {
				t.Fatalf("%s%q left %s with %q (%v)", name, args, root, b, err)
			}
			if entries, err := os.ReadDir(root); err != nil || len(entries) != 1 {
				t.Fatalf("%s%q left %v (%v)", name, args, entries, err)
			}
		}
	})
}
