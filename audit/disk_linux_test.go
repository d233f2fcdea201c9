package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFullDisk fills a real file system under the log and empties it again.
func TestFullDisk(t *testing.T) {
	mount, k := t.TempDir(), newKey(t)
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted: %v", err)
	}
	defer unix.Unmount(mount, unix.MNT_DETACH) //nolint:errcheck // nothing depends on it
	dir := filepath.Join(mount, "log")
	o := k.options(dir)
	o.CheckpointInterval = 10 * time.Millisecond
	l := mustOpen(t, o)
	ballast := filepath.Join(mount, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 500<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var h history
	var err error
	n := 0
	for ; ; n++ {
		if _, err = h.append(l, n); err != nil {
			break
		}
		if n == 1000 {
			t.Fatal("the disk does not fill")
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("refused with %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		if _, err = h.append(l, n); err == nil {
			break
		}
		if try == 50 {
			t.Fatalf("with space again: %v", err)
		}
		time.Sleep(retryDelay / 2)
	}
	mustClose(t, l)
	mustVerify(t, dir, k)
	h.check(t, dir, 0)
}

// TestCutUnderWriter cuts the segment's file while it is mapped: the fault
// becomes an error, the process lives, and no record passes for written.
func TestCutUnderWriter(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	l := mustOpen(t, k.options(dir))
	mustAppend(t, l, sample(0))
	if err := os.Truncate(filepath.Join(dir, "00000001.log"), 0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := l.Append(sample(1)); err == nil || !strings.Contains(err.Error(), "memory fault") {
			t.Errorf("append: %v", err)
		}
	}
	if err := l.Head().Healthy; err == nil {
		t.Error("the log calls itself healthy")
	}
	if err := l.Close(); err == nil {
		t.Error("closed without an error")
	}
}
