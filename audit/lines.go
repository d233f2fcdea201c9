package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
)

// lineReader reads the lines of a log in order, through its segments, in
// constant memory. It may run beside the log's writer: it goes to the end of
// the last segment that held a line when it was opened.
type lineReader struct {
	dir      string
	segments []segmentName
	limits   []uint64 // limits[i] is the record from which on segments[i] is superseded
	total    int64    // bytes in the segments

	i    int // of the segment being read, or to be opened
	f    *os.File
	buf  []byte
	r, w int
	base int64 // offset in the file of buf[0]
	eof  bool
	past int64 // bytes of segments done with

	seq    uint64 // number of the line that next returns
	offset int64  // in segment, of the line last returned; after the end, of what comes there
}

// openLines lists the segments in dir that hold lines.
func openLines(dir string) (*lineReader, error) {
	names, err := listSegments(dir)
	if err != nil {
		return nil, err
	}
	l := &lineReader{dir: dir, buf: make([]byte, 4*MaxLine)}
	for _, name := range names {
		head, size, err := readHead(filepath.Join(dir, name.String()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a spare that was removed since the listing
		}
		if err != nil {
			return nil, err
		}
		if len(head) > 0 && head[0] != 0 {
			l.segments = append(l.segments, name)
			l.total += size
		}
	}
	l.limits = make([]uint64, len(l.segments))
	limit := uint64(math.MaxUint64)
	for i := len(l.segments) - 1; i >= 0; i-- {
		l.limits[i] = limit
		if s := l.segments[i]; s.carries {
			limit = min(limit, s.from)
		}
	}
	return l, nil
}

// readHead reads as much of a file as holds the number of its first line.
func readHead(name string) (head []byte, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	head = make([]byte, 64)
	n, err := f.ReadAt(head, 0)
	if err == io.EOF {
		err = nil
	}
	return head[:n], info.Size(), err
}

// headSeq reads the number of a line from its first bytes.
func headSeq(head []byte) (uint64, bool) {
	digits, ok := bytes.CutPrefix(head, []byte(`{"v":1,"seq":`))
	if !ok {
		return 0, false
	}
	digits, _, _ = bytes.Cut(digits, []byte(","))
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	return seq, err == nil
}

// seek makes next begin with the first line of the last segment that begins at
// or before the record with number seq.
func (l *lineReader) seek(seq uint64) error {
	for i := len(l.segments) - 1; i > 0; i-- {
		head, _, err := readHead(filepath.Join(l.dir, l.segments[i].String()))
		if err != nil {
			return err
		}
		if first, ok := headSeq(head); ok && first <= seq {
			l.i, l.seq = i, first
			return nil
		}
	}
	return nil
}

// next returns the next line without its newline, valid until the next call,
// and io.EOF after the last. A *BadRecord says that the lines end where they
// may not.
func (l *lineReader) next() ([]byte, error) {
	for {
		if l.f == nil {
			if l.i == len(l.segments) {
				return nil, io.EOF
			}
			if err := l.open(); err != nil {
				return nil, err
			}
		}
		superseded := l.seq >= l.limits[l.i]
		if !superseded {
			line, err := l.line()
			if err != nil {
				return nil, err
			}
			if line != nil {
				l.seq++
				return line, nil
			}
		}
		last := l.i == len(l.segments)-1
		if last {
			return nil, io.EOF
		}
		if !superseded {
			if err := l.padding(); err != nil {
				return nil, err
			}
		}
		l.past += l.base + int64(l.w)
		l.close()
		l.i++
	}
}

func (l *lineReader) open() error {
	f, err := os.Open(filepath.Join(l.dir, l.segments[l.i].String()))
	if err != nil {
		return err
	}
	l.f, l.r, l.w, l.base, l.eof, l.offset = f, 0, 0, 0, false, 0
	return nil
}

func (l *lineReader) close() {
	if l.f != nil {
		l.f.Close() // opened for reading: nothing can be lost
		l.f = nil
	}
}

// segment is the file that the last line was in.
func (l *lineReader) segment() string {
	if len(l.segments) == 0 {
		return ""
	}
	return l.segments[min(l.i, len(l.segments)-1)].String()
}

// line returns the next line of the segment, or nil where its lines end.
func (l *lineReader) line() ([]byte, error) {
	for again := false; ; {
		data := l.buf[l.r:l.w]
		l.offset = l.base + int64(l.r)
		if len(data) > 0 && data[0] == 0 {
			return nil, nil
		}
		n := bytes.IndexByte(data, '\n')
		whole := n >= 0
		if !whole {
			n = len(data)
		}
		switch {
		case bytes.IndexByte(data[:n], 0) >= 0 && !again:
			// No line has a zero byte: this one was being written while it
			// was read. By now it is there, or it never will be.
			again = true
			if err := l.reread(); err != nil {
				return nil, err
			}
			continue
		case whole:
			l.r += n + 1
			return data[:n:n], nil
		case l.eof, again, len(data) > MaxLine:
			return nil, nil
		}
		if err := l.fill(); err != nil {
			return nil, err
		}
	}
}

// reread reads anew what follows the last line.
func (l *lineReader) reread() error {
	l.base += int64(l.r)
	l.r, l.w, l.eof = 0, 0, false
	if _, err := l.f.Seek(l.base, io.SeekStart); err != nil {
		return err
	}
	return l.fill()
}

func (l *lineReader) fill() error {
	if l.r > 0 {
		copy(l.buf, l.buf[l.r:l.w])
		l.base += int64(l.r)
		l.w -= l.r
		l.r = 0
	}
	n, err := l.f.Read(l.buf[l.w:])
	l.w += n
	if err == io.EOF {
		l.eof, err = true, nil
	}
	return err
}

// padding checks that nothing but zeroes follows the last line of a segment
// that is followed by another.
func (l *lineReader) padding() error {
	for {
		for _, c := range l.buf[l.r:l.w] {
			if c != 0 {
				return l.bad("bytes that are not a whole line")
			}
		}
		l.r = l.w
		if l.eof {
			return nil
		}
		if err := l.fill(); err != nil {
			return err
		}
	}
}

// bad describes what stands at l.offset, where the record l.seq should begin.
func (l *lineReader) bad(format string, args ...any) *BadRecord {
	return &BadRecord{Seq: l.seq, Segment: l.segment(), Offset: l.offset, Reason: fmt.Sprintf(format, args...)}
}

// record decodes a line that next has returned and checks its number.
func (l *lineReader) record(d *decoder, line []byte, r *Record) error {
	var reason string
	if err := d.decode(line, r); err != nil {
		reason = err.Error()
	} else if r.Seq != l.seq-1 {
		reason = fmt.Sprintf("is numbered %d", r.Seq)
	} else {
		return nil
	}
	return &BadRecord{Seq: l.seq - 1, Segment: l.segment(), Offset: l.offset, Reason: reason}
}

// rest returns what follows the end of the lines, without trailing zeroes: in
// the segment where they end, and in all later ones.
func (l *lineReader) rest(limit int64) ([]byte, error) {
	var rest []byte
	offset := l.offset
	for _, name := range l.segments[min(l.i, len(l.segments)):] {
		f, err := os.Open(filepath.Join(l.dir, name.String()))
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.NewSectionReader(f, offset, limit+1))
		f.Close()
		if err != nil {
			return nil, err
		}
		rest = append(rest, bytes.TrimRight(b, "\x00")...)
		if int64(len(rest)) > limit {
			return nil, fmt.Errorf("more than %d bytes follow the end of the lines in %s", limit, name)
		}
		offset = 0
	}
	return rest, nil
}

// unfinished is how many bytes of a line without an end were read after the
// last whole one.
func (l *lineReader) unfinished() int {
	data := l.buf[l.r:l.w]
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return i
	}
	return len(data)
}

// done is how many bytes have been read.
func (l *lineReader) done() int64 { return l.past + l.base + int64(l.r) }
