//go:build !linux && !darwin

package audit

import (
	"fmt"
	"os"
)

// newSegment reserves size bytes for f, which is used long.
func newSegment(f *os.File, used, size int64) (segment, error) {
	if err := zeroFill(f, used, size); err != nil {
		return nil, fmt.Errorf("reserve %d bytes for %s: %w", size, f.Name(), err)
	}
	return &fileSegment{f}, nil
}
