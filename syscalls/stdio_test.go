package syscalls_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/syscalls"
)

// TestStdin says how a reader that cannot be interrupted is read under a context.
func TestStdin(t *testing.T) {
	r, w := io.Pipe()
	s := syscalls.NewStdin(r)
	p := make([]byte, 4)

	soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if n, err := s.Read(soon, "p", p); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("nothing is there: got %d, %v", n, err)
	}
	// What the read that was given up yields is there for the next, in order.
	go func() {
		_, _ = io.WriteString(w, "abcdef")
		_ = w.Close()
	}()
	for _, want := range []string{"abcd", "ef"} {
		n, err := s.Read(t.Context(), "p", p)
		if err != nil || string(p[:n]) != want {
			t.Errorf("read %q, %v; want %q", p[:n], err, want)
		}
	}
	for range 2 {
		if n, err := s.Read(t.Context(), "p", p); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %d, %v", n, err)
		}
	}
	// What is there is taken even by who does not wait.
	s = syscalls.NewStdin(strings.NewReader("xyz"))
	if _, err := s.Read(t.Context(), "p", p[:1]); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(soon, "p", p); n != 2 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}
