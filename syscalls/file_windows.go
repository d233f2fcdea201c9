package syscalls

import (
	"io"
	"io/fs"
	"os"
	"syscall"
)

// append writes at the end of the file as it is now: Windows has no flag for it
// that a handle could take on. It is called with mu held.
func (f *file) append(p []byte) (int, error) {
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return 0, err
	}
	return f.Write(p)
}

// setAppending has no flag to set.
func (f *file) setAppending(bool) error { return nil }

// attributesOf leaves out what Windows tells of open handles alone.
func attributesOf(info fs.FileInfo) attributes {
	d, ok := info.Sys().(*syscall.Win32FileAttributeData)
	if !ok {
		return attributes{links: 1}
	}
	return attributes{links: 1, accessed: d.LastAccessTime.Nanoseconds(), modified: d.LastWriteTime.Nanoseconds(), status: d.LastWriteTime.Nanoseconds()}
}

// syncData waits until the file's content is on disk.
func syncData(f *os.File) error { return f.Sync() }

// grow extends a file, if it is shorter.
func grow(f *os.File, size int64) error { return extend(f, size) }
