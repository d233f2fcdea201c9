package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrTampered is returned by Open for a log that contradicts its own signed
// checkpoint, and matched by the error of Verify for one that is not intact.
var ErrTampered = errors.New("audit: log is not intact")

// maxRepair bounds in bytes what a crash may have left to put right.
const maxRepair = 1 << 30

// What a crash can leave, and what becomes of it.
//
// A line is acknowledged after its newline, its last byte to be stored, stands
// in the segment. So what has no newline was never acknowledged and is
// dropped. A whole line that is damaged can only come from a loss of power
// before it was synced, when the disk kept some pages and not others. It and
// all that follows it are cut from the log, because there is no sequence
// without it, but they were acknowledged as surviving the process, so they are
// kept in a file of their own. Nothing that was promised to be on disk is ever
// among them: it lies before. Under the last checkpoint damage is no crash's
// doing, since a checkpoint is written after its lines are on disk.
//
// What was written after the last checkpoint may be in memory only, and a
// failed sync may have made the system forget that. So these lines are written
// again, in a new segment.

// load reads the log as it was left and makes it ready to go on.
func (l *Log) load(verifier note.Verifier) error {
	name := filepath.Join(l.dir, checkpointsFile)
	last, end, err := lastCheckpoint(name, verifier)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTampered, err)
	}
	l.checkpoints, l.covered = end, last.size

	t, err := loadTree(l.dir, last.size)
	var s scan
	if err == nil {
		s, err = l.scan(last, t)
	}
	if err != nil && last.size > 0 {
		// Stored hashes only save time: go back to the lines themselves.
		l.fresh = nil
		s, err = l.scan(last, tree{})
	}
	if err != nil {
		return err
	}
	l.next, l.synced = s.lines.seq, s.lines.seq
	rest, err := s.lines.rest(maxRepair)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if err := l.tidy(s.lines); err != nil {
		return err
	}
	if len(s.carry) == 0 && len(rest) == 0 {
		if l.current, err = l.resume(s.lines); err != nil {
			return fmt.Errorf("audit: begin a segment in %s: %w", l.dir, err)
		}
	} else if err := l.repair(s, rest); err != nil {
		return err
	}
	return l.settle(true)
}

// scan is what reading the end of a log has found.
type scan struct {
	lines *lineReader // at the end of the lines that are good
	carry []byte      // lines after the checkpoint
	cut   cut         // where they begin
	bad   *BadRecord  // why the lines end before their files do, if they do
}

// cut is a place in the segments.
type cut struct {
	segment int
	offset  int64
}

// scan reads the lines from where t ends, or from the first that may be an
// open intent, checks that they agree with the checkpoint, and completes the
// tree.
func (l *Log) scan(last checkpoint, t tree) (scan, error) {
	lines, err := openLines(l.dir)
	if err != nil {
		return scan{}, err
	}
	defer lines.close()
	s := scan{lines: lines}
	clear(l.open)
	for _, seq := range last.open {
		l.open[seq] = struct{}{}
	}
	from := min(t.size, last.scan)
	if err := lines.seek(from); err != nil {
		return s, err
	}
	l.tree = t
	check := func() error {
		if l.tree.size == last.size && last.size > 0 {
			if root := l.tree.root(); root != last.root {
				return fmt.Errorf("%w: the first %d records in %s have the root %v, their checkpoint says %v: run `forgeone audit verify`, and begin a new directory",
					ErrTampered, last.size, l.dir, root, last.root)
			}
		}
		return nil
	}
	if err := check(); err != nil {
		return s, err
	}
	var d decoder
	var r Record
	s.cut = cut{segment: -1}
	for {
		line, err := lines.next()
		if err == io.EOF {
			break
		}
		seq := lines.seq - 1
		if err == nil && seq >= from {
			err = lines.record(&d, line, &r)
		} else if err != nil {
			seq = lines.seq
		}
		var bad *BadRecord
		if errors.As(err, &bad) && seq >= last.size {
			s.bad = bad
			lines.seq = seq
			break
		}
		if bad != nil {
			return s, fmt.Errorf("%w: %w", ErrTampered, bad)
		}
		if err != nil {
			return s, err
		}
		if seq < from {
			continue
		}
		if seq >= last.size {
			if s.cut.segment < 0 {
				s.cut = cut{lines.i, lines.offset}
			}
			if len(s.carry)+len(line) > maxRepair {
				return s, fmt.Errorf("audit: more than %d bytes in %s are under no checkpoint: run `forgeone audit verify`, and begin a new directory", maxRepair, l.dir)
			}
			s.carry = append(append(s.carry, line...), '\n')
		}
		if seq >= l.tree.size {
			l.tree.add(tlog.RecordHash(line), l.emit)
			if len(l.fresh[0]) > 1<<20 {
				if err := l.storeHashes(); err != nil {
					return s, fmt.Errorf("audit: %w", err)
				}
			}
			if err := check(); err != nil {
				return s, err
			}
		}
		switch {
		case r.Phase == PhaseOutcome || r.Phase == PhaseClose:
			delete(l.open, r.Intent-1)
		case seq >= last.scan && (r.Phase == PhaseIntent || r.Phase == PhaseOpen):
			l.open[seq] = struct{}{}
		}
	}
	if lines.seq < last.size {
		return s, fmt.Errorf("%w: %s holds %d records, its last checkpoint covers %d", ErrTampered, l.dir, lines.seq, last.size)
	}
	if s.cut.segment < 0 {
		s.cut = cut{lines.i, lines.offset}
	}
	return s, nil
}

// tidy removes what is unfinished or empty, and finds the last ordinal.
func (l *Log) tidy(lines *lineReader) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	holds := map[segmentName]bool{}
	for _, n := range lines.segments {
		holds[n] = true
	}
	for _, e := range entries {
		n, ok := parseSegmentName(e.Name())
		l.ordinal = max(l.ordinal, n.ordinal)
		if ok && !holds[n] || strings.HasSuffix(e.Name(), tempSuffix) {
			if err := l.store.remove(filepath.Join(l.dir, e.Name())); err != nil {
				return fmt.Errorf("audit: %w", err)
			}
		}
	}
	return nil
}

// resume goes on in the last segment, or in a new one.
func (l *Log) resume(lines *lineReader) (*part, error) {
	if len(lines.segments) == 0 || lines.offset+MaxLine > l.segment {
		return l.create()
	}
	name := lines.segments[len(lines.segments)-1]
	s, err := l.store.reopen(filepath.Join(l.dir, name.String()), l.segment)
	if err != nil {
		return nil, err
	}
	at := lines.offset
	return &part{segment: s, name: name, size: l.segment, used: at, synced: at, hashed: at}, nil
}

// repair writes the lines that follow the checkpoint anew, sets aside or drops
// what follows them, and puts on record what it did.
func (l *Log) repair(s scan, rest []byte) error {
	r := &Record{Kind: KindAudit, Outcome: OutcomeOK, Reason: "the log was not closed", Details: map[string]string{
		"rewritten": strconv.Itoa(bytes.Count(s.carry, []byte{'\n'})),
	}}
	if len(rest) > 0 {
		sum := sha256.Sum256(rest)
		r.Digest, r.Bytes = hex.EncodeToString(sum[:]), uint64(len(rest))
		r.Details["cut"] = "a record that was never acknowledged"
		if bytes.IndexByte(rest, '\n') >= 0 {
			name := fmt.Sprintf("damaged-%d-%s.bin", l.next, l.boot)
			if err := l.store.writeAt(filepath.Join(l.dir, name), rest, 0, true); err != nil {
				return fmt.Errorf("audit: set damaged records aside: %w", err)
			}
			r.Details["cut"] = "damaged records, kept in " + name
		}
		if s.bad != nil {
			r.Error = s.bad.Error()
		}
	}
	p, err := l.carry(l.covered, s.carry)
	if err != nil {
		return fmt.Errorf("audit: begin a segment in %s: %w", l.dir, err)
	}
	l.current = p
	segments := s.lines.segments
	for i := len(segments) - 1; i >= max(s.cut.segment, 0); i-- {
		path := filepath.Join(l.dir, segments[i].String())
		if i == s.cut.segment && s.cut.offset > 0 {
			err = l.store.truncate(path, s.cut.offset)
		} else {
			err = l.store.remove(path)
		}
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.note(r)
}
