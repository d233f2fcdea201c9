package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestSegments holds every kind of segment to the same, also the one that this
// system does not use.
func TestSegments(t *testing.T) {
	const size = 1 << 16
	kinds := map[string]func(*os.File) (segment, error){
		"this system's": func(f *os.File) (segment, error) { return newSegment(f, 0, size) },
		"by WriteAt": func(f *os.File) (segment, error) {
			if err := zeroFill(f, 0, size); err != nil {
				return nil, err
			}
			return &fileSegment{f}, nil
		},
	}
	for name, open := range kinds {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seg")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := open(f)
			if err != nil {
				t.Fatal(err)
			}
			line := []byte("one line\n")
			s.warm(0, size)
			for i := range 3 {
				if err := s.write(line, int64(i*len(line))); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, len(line))
			if err := s.read(got, int64(len(line))); err != nil || !bytes.Equal(got, line) {
				t.Errorf("read %q, %v", got, err)
			}
			if fi, err := os.Stat(path); err != nil || fi.Size() != size {
				t.Errorf("the file is not reserved: %v, %v", fi, err)
			}
			if err := s.sync(); err != nil {
				t.Error(err)
			}
			if err := s.close(int64(3 * len(line))); err != nil {
				t.Error(err)
			}
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, bytes.Repeat(line, 3)) {
				t.Errorf("left %q, %v", b, err)
			}
		})
	}
}
