//go:build unix

package syscalls_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"forgeone.dev/forgeone/abi"
)

// A plugin that may use /data/pub opens /data/pub/d/x over and over, while the
// host turns d and x into links to what it may not use, a FIFO and back, and
// moves d out of pub, where its x is another file, and back. Whatever it reads
// was in pub, and nothing it writes is anywhere else.
func TestSwaps(t *testing.T) {
	const (
		public, private = "PUBLIC", "PRIVATE"
		opens           = 1500
	)
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
