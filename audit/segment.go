package audit

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// segmentName is the name of a segment file: its place in the order of
// segments, and for one that was begun after a failure the record it begins
// with, which supersedes whatever earlier segments hold from that record on.
type segmentName struct {
	ordinal uint64
	from    uint64
	carries bool // from is set
}

const segmentSuffix = ".log"

func (n segmentName) String() string {
	if n.carries {
		return fmt.Sprintf("%08d.from-%d%s", n.ordinal, n.from, segmentSuffix)
	}
	return fmt.Sprintf("%08d%s", n.ordinal, segmentSuffix)
}

// parseSegmentName reports false for a file that is not a segment.
func parseSegmentName(name string) (segmentName, bool) {
	base, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return segmentName{}, false
	}
	ordinal, from, carries := strings.Cut(base, ".from-")
	n := segmentName{carries: carries}
	var err error
	if n.ordinal, err = strconv.ParseUint(ordinal, 10, 64); err != nil {
		return segmentName{}, false
	}
	if carries {
		if n.from, err = strconv.ParseUint(from, 10, 64); err != nil {
			return segmentName{}, false
		}
	}
	return n, n.String() == name
}

// listSegments returns the segments in dir in order.
func listSegments(dir string) ([]segmentName, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []segmentName
	for _, e := range entries {
		if n, ok := parseSegmentName(e.Name()); ok {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b segmentName) int { return cmp.Compare(a.ordinal, b.ordinal) })
	for i := 1; i < len(names); i++ {
		if names[i].ordinal == names[i-1].ordinal {
			return nil, fmt.Errorf("audit: %s and %s claim the same place in %s", names[i-1], names[i], dir)
		}
	}
	return names, nil
}

// store is the file operations that a log makes to write, so that tests can
// make each of them fail. Paths are absolute or relative to the process.
type store interface {
	// create makes a segment file of size bytes, all zero and all backed by
	// space on the disk, so that writing within it cannot run out of space.
	create(path string, size int64) (segment, error)
	// reopen takes up an existing segment file and extends it to size bytes,
	// as create does.
	reopen(path string, size int64) (segment, error)
	// writeAt writes b into the file at path from offset on, which becomes its
	// end, and with wait set waits for the disk.
	writeAt(path string, b []byte, offset int64, wait bool) error
	rename(from, to string) error
	truncate(path string, size int64) error
	remove(path string) error
	// syncDir waits until the names in dir are on the disk.
	syncDir(dir string) error
}

// segment is a file of fixed size that lines are written into. Its methods are
// for one writer at a time, but sync may run beside them.
type segment interface {
	// write stores line, whose last byte is its newline, at offset. A process
	// that dies in it leaves the newline unwritten.
	write(line []byte, offset int64) error
	// read fills b with the bytes from offset on.
	read(b []byte, offset int64) error
	// warm makes writing from offset to end fast, if there is a way to. It may
	// be called at any time, beside all other methods.
	warm(offset, end int64)
	// sync waits until all that was written is on the disk.
	sync() error
	// close gives up the file, after cutting it to size if that is not negative.
	close(size int64) error
}

// disk is the store that a log uses.
type disk struct{}

func (disk) create(path string, size int64) (segment, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	s, err := newSegment(f, 0, size)
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return s, nil
}

func (disk) reopen(path string, size int64) (segment, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s, err := newSegment(f, info.Size(), size)
	if err != nil {
		return nil, errors.Join(err, f.Truncate(info.Size()), f.Close())
	}
	return s, nil
}

func (disk) writeAt(path string, b []byte, offset int64, wait bool) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(offset); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, offset); err != nil || !wait {
		return err
	}
	return f.Sync()
}

func (disk) rename(from, to string) error           { return os.Rename(from, to) }
func (disk) truncate(path string, size int64) error { return os.Truncate(path, size) }
func (disk) remove(path string) error               { return os.Remove(path) }
func (disk) syncDir(dir string) error               { return syncDir(dir) }

// tempSuffix marks a file that is not yet what its name says. Open removes those.
const tempSuffix = ".tmp"

// zeroFill extends f from its length to size by writing, for systems and file
// systems that cannot reserve space.
func zeroFill(f *os.File, from, size int64) error {
	zero := make([]byte, 1<<20)
	for from < size {
		n, err := f.WriteAt(zero[:min(int64(len(zero)), size-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// fileSegment is a segment written with WriteAt, where memory maps of files do
// not keep a record when the process dies, or are not built.
type fileSegment struct {
	f *os.File
}

func (s *fileSegment) write(line []byte, offset int64) error {
	_, err := s.f.WriteAt(line, offset)
	return err
}

func (s *fileSegment) read(b []byte, offset int64) error {
	_, err := s.f.ReadAt(b, offset)
	return err
}

func (s *fileSegment) warm(offset, end int64) {}

func (s *fileSegment) sync() error { return s.f.Sync() }

func (s *fileSegment) close(size int64) error {
	var err error
	if size >= 0 {
		err = s.f.Truncate(size)
	}
	return errors.Join(err, s.f.Close())
}
