//go:build unix

package cache_test

import (
	"os"
	"syscall"
	"testing"
)

// A pipe in the place of an entry or the key holds up nobody.
func TestPipe(t *testing.T) {
	cfg := config(t.TempDir())
	start(t, cfg).expect(t, 7, 1)
	pipe := func(path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pipe(entries(t, cfg)[0])
	start(t, cfg).expect(t, 7, 1)
	start(t, cfg).expect(t, 7, 0) // it was replaced
	pipe(cfg.KeyFile)
	start(t, cfg).expect(t, 7, 1)
}
