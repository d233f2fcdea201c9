//go:build unix

package syscalls_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forgeone.dev/forgeone/abi"
)

// raceOps is how many operations a race is run for: FORGEONE_RACE_OPS, or n.
func raceOps(t *testing.T, n int) int {
	if text := os.Getenv("FORGEONE_RACE_OPS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("FORGEONE_RACE_OPS: %v", err)
		}
	}
	return n
}

// A plugin that may use /data/pub opens /data/pub/d/x over and over, while the
// host turns d and x into links to what it may not use, a FIFO and back, and
// moves d out of pub, where its x is another file, and back. Whatever it reads
// was in pub, and nothing it writes is anywhere else.
func TestSwaps(t *testing.T) {
	const (
		public, private = "PUBLIC", "PRIVATE"
	)
	opens := raceOps(t, 6000) / 4
	dir, outside := t.TempDir(), t.TempDir()
	tree(t, dir, map[string]string{"pub/d/x": public, "priv/d/x": private, "stash": "dir"})
	tree(t, outside, map[string]string{"x": private})
	p := dataPlugin(t, dir, "file:///data/pub/**")

	in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	d, x := in("pub", "d"), in("pub", "d", "x")
	step := func(err error) {
		if err != nil {
			t.Errorf("swap: %v", err)
		}
	}
	untouched := func(name string) {
		if b, err := os.ReadFile(name); err != nil || string(b) != private {
			t.Errorf("%s holds %q (%v)", name, b, err)
		}
	}
	replaceX := func(put func() error) {
		step(os.Rename(x, in("stash", "x")))
		// The plugin may have made a file in the gap.
		for err := put(); err != nil; err = put() {
			if !errors.Is(err, fs.ErrExist) {
				step(err)
				break
			}
			step(os.Remove(x))
		}
		step(os.Remove(x))
		step(os.Rename(in("stash", "x"), x))
	}
	swaps := []func(){
		func() { // d is a link into priv
			step(os.Rename(d, in("stash", "d")))
			step(os.Symlink("../priv/d", d))
			step(os.Remove(d))
			step(os.Rename(in("stash", "d"), d))
		},
		func() { replaceX(func() error { return os.Symlink("../../priv/d/x", x) }) },
		func() { replaceX(func() error { return os.Symlink(filepath.Join(outside, "x"), x) }) },
		func() { replaceX(func() error { return unix.Mkfifo(x, 0o600) }) },
		func() { // d is moved into priv
			moved := in("priv", "moved")
			step(os.Rename(d, moved))
			step(os.Rename(filepath.Join(moved, "x"), in("stash", "x")))
			other := filepath.Join(moved, "x")
			f, err := os.OpenFile(other, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				// A plugin that found no x in pub/d has made one in the directory
				// it holds, just as it was moved. It is told so, and cannot write.
				if b, err := os.ReadFile(other); err != nil || len(b) > 0 {
					t.Errorf("written outside of pub: %q (%v)", b, err)
				}
				step(os.Remove(other))
				f, err = os.OpenFile(other, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			}
			step(err)
			_, err = f.WriteString(private)
			step(err)
			step(f.Close())
			untouched(other)
			step(os.Remove(other))
			step(os.Rename(in("stash", "x"), other))
			step(os.Rename(moved, d))
		},
	}

	var done atomic.Bool
	var swapper, plugins sync.WaitGroup
	swapper.Go(func() {
		for i := 0; !done.Load(); i++ {
			swaps[i%len(swaps)]()
			untouched(in("priv", "d", "x"))
			untouched(filepath.Join(outside, "x"))
		}
	})
	var opened, refused atomic.Int64
	for _, mode := range []string{"r", "r+", "w", "a+"} {
		plugins.Go(func() {
			const path = "/data/pub/d/x"
			for range opens {
				res := p.do("file_open", 0, nil, path, mode)
				if res.Status != abi.Success {
					refused.Add(1)
					continue
				}
				opened.Add(1)
				h := abi.Handle(binary.LittleEndian.Uint64(res.Data))
				if mode != "r" {
					if err := p.do("file_write", h, []byte(public), path).Error(); err != nil {
						t.Errorf("write: %v", err)
					}
				}
				if mode == "r" || mode == "r+" {
					if res := p.do("file_read", h, nil, path, "100"); strings.Trim(string(res.Data), public) != "" || res.Error() != nil {
						t.Errorf("read %q (%v)", res.Data, res.Error())
					}
				}
				if err := p.do("file_close", h, nil, path).Error(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
		})
	}
	plugins.Wait()
	done.Store(true)
	swapper.Wait()
	t.Logf("%d opened, %d refused", opened.Load(), refused.Load())
	if opened.Load() == 0 || refused.Load() == 0 {
		t.Error("nothing was raced for")
	}
}

// A plugin that may use /data/pub does everything there is to do by name in
// /data/pub/d and beside it, while the host turns d, and what the plugin makes
// in it, into links to what it may not use, and moves d out of pub and back.
// Nothing outside of pub is made, removed, renamed, linked or touched, and
// nothing of it is told.
func TestNameSwaps(t *testing.T) {
	const secret = "what only priv and outside have"
	dir, outside := t.TempDir(), t.TempDir()
	tree(t, dir, map[string]string{"pub/d/a": "public", "priv/d/a": secret, "priv/d/b/c": secret, "priv/d/l": "-> ../x"})
	tree(t, outside, map[string]string{"a": secret, "b/c": secret, "l": "-> secret-target"})
	in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	old := time.Unix(1000000000, 0)
	type seen struct {
		name  string
		size  int64
		links uint64
		mtime time.Time
	}
	look := func(root string) (all []seen) {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() == "moved" {
				return errors.Join(err, fs.SkipDir)
			}
			info, err := os.Lstat(p)
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			all = append(all, seen{p, info.Size(), uint64(st.Nlink), info.ModTime()})
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return all
	}
	for _, root := range []string{in("priv", "d"), outside} {
		for _, s := range look(root) {
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, s.name, []unix.Timespec{unix.NsecToTimespec(old.UnixNano()), unix.NsecToTimespec(old.UnixNano())}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				t.Fatal(err)
			}
		}
	}
	private, away := look(in("priv", "d")), look(outside)

	d := in("pub", "d")
	step := func(err error) {
		if err != nil {
			t.Errorf("swap: %v", err)
		}
	}
	swaps := []func(i int){
		func(int) { // d is a link
			for _, to := range []string{"../priv/d", outside} {
				step(os.Rename(d, in("priv", "moved")))
				if os.Symlink(to, d) == nil { // else the plugin has made one
					step(os.Remove(d))
				} else {
					step(os.RemoveAll(d))
				}
				for os.Rename(in("priv", "moved"), d) != nil {
					step(os.RemoveAll(d))
				}
			}
		},
		func(i int) { // what is in d is a link
			name := filepath.Join(d, []string{"a", "b", "l"}[i%3])
			_ = os.RemoveAll(name)
			_ = os.Symlink([]string{"../../priv/d/a", "../../priv/d/b", outside + "/a", outside + "/b"}[i%4], name)
		},
		func(int) { // d is moved away and back
			step(os.Rename(d, in("priv", "moved")))
			for os.Rename(in("priv", "moved"), d) != nil {
				step(os.RemoveAll(d))
			}
		},
		func(i int) { // and there is something to work on
			name := filepath.Join(d, []string{"a", "b", "c", "l"}[i%4])
			_ = os.RemoveAll(name)
			// Not through a link that the plugin has put there again.
			if f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				_, err = f.WriteString("public")
				step(errors.Join(err, f.Close()))
			}
		},
	}
	var done atomic.Bool
	var swapper, plugins sync.WaitGroup
	swapper.Go(func() {
		for i := 0; !done.Load(); i++ {
			swaps[i%len(swaps)](i / len(swaps))
			if now := look(in("priv", "d")); !slices.Equal(now, private) {
				t.Errorf("priv was touched: %v", now)
				return
			}
			if now := look(outside); !slices.Equal(now, away) {
				t.Errorf("outside was touched: %v", now)
				return
			}
		}
	})
	p := dataPlugin(t, dir, "file:///data/pub/**")
	calls := [][]string{
		{"file_mkdir", "A"}, {"file_remove", "A", "file"}, {"file_remove", "A", "dir"}, {"file_rename", "A", "B"}, {"file_rename", "A", "B"}, {"file_link", "A", "B", "follow"}, {"file_link", "A", "B", "nofollow"},
		{"file_symlink", "A", "b"}, {"file_readlink", "A"}, {"file_stat", "A", "follow"}, {"file_stat", "A", "nofollow"}, {"file_times", "A", "now", "now", "follow"}, {"file_times", "A", "now", "now", "nofollow"},
		{"file_open", "A", "w"}, {"file_open", "A", "rd"}, {"file_open", "A", "r"},
	}
	names := []string{"/data/pub/d/a", "/data/pub/d/b", "/data/pub/d/b/c", "/data/pub/d/l", "/data/pub/e", "/data/pub/d/b/../a"}
	ops := raceOps(t, 6000)
	var succeeded, refused atomic.Int64
	for worker := range 4 {
		plugins.Go(func() {
			for i := range ops / 4 {
				n := i*7 + worker*1000003
				args := slices.Clone(calls[n%len(calls)])
				for j := range args {
					switch args[j] {
					case "A":
						args[j] = names[n/len(calls)%len(names)]
					case "B":
						args[j] = names[n/len(calls)/len(names)%len(names)]
					}
				}
				res := p.do(args[0], 0, nil, args[1:]...)
				if res.Status != abi.Success {
					refused.Add(1)
					continue
				}
				succeeded.Add(1)
				switch args[0] {
				case "file_stat":
					if s := decodeStat(t, string(res.Data)); s.size == uint64(len(secret)) {
						t.Errorf("%q told %+v", args, s)
					}
				case "file_readlink":
					if string(res.Data) == "../x" || string(res.Data) == "secret-target" {
						t.Errorf("%q told %q", args, res.Data)
					}
				case "file_open":
					h := handleOf(res)
					if args[2] == "r" {
						if res := p.do("file_read", h, nil, args[1], "100"); string(res.Data) == secret {
							t.Errorf("%q read the secret", args)
						}
					}
					if err := p.do("file_close", h, nil, args[1]).Error(); err != nil {
						t.Errorf("close: %v", err)
					}
				}
			}
		})
	}
	plugins.Wait()
	done.Store(true)
	swapper.Wait()
	t.Logf("%d succeeded, %d refused", succeeded.Load(), refused.Load())
	if succeeded.Load() == 0 || refused.Load() == 0 {
		t.Error("nothing was raced for")
	}
}
