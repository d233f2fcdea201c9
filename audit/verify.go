package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// VerifyOptions say what to verify.
type VerifyOptions struct {
	// Dir is the log's directory. It is only read, and may be being written.
	Dir string
	// Key is the verifier text of the log's key. The default, what the file
	// log.pub in Dir says, shows damage but not a forger who has replaced both.
	Key string
	// Progress, if set, is called now and then with the bytes read and all bytes.
	Progress func(done, total int64)
}

// Report is what a verification has found.
type Report struct {
	Records     uint64 // good lines, up to FirstBad
	Root        string // Merkle tree hash over them, base64
	Checkpoints uint64 // checkpoints that hold
	Covered     uint64 // records under the last of them
	Uncovered   uint64 // records after it: their form was checked, nothing proves them
	Unanswered  uint64 // intents and folded runs without an end; normal for a log in use
	// Warnings are what is odd and yet does not contradict the log's signed
	// statements: a clock set back, an intent that nothing answers, a line cut
	// short by a crash. At most 100 are kept.
	Warnings []string
	FirstBad *BadRecord // nil if the log is intact
}

// maxWarnings bounds Report.Warnings.
const maxWarnings = 100

func (r *Report) warn(format string, args ...any) {
	if len(r.Warnings) < maxWarnings {
		r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
	}
}

// BadRecord is the first place at which a log is not what its writer made.
type BadRecord struct {
	Seq     uint64
	Segment string // file in the log's directory
	Offset  int64  // in it, bytes
	Reason  string
}

func (b *BadRecord) Error() string {
	return fmt.Sprintf("record %d (%s, byte %d): %s", b.Seq, b.Segment, b.Offset, b.Reason)
}

// Verify checks the log in o.Dir: the form of every line, that numbers have no
// gap, that the lines have the roots that the checkpoints sign, and that the
// checkpoints grow. It reads the log once, in memory that does not grow with
// it. The error matches ErrTampered, and *BadRecord with errors.As, if the log
// is not intact; any other error says why it could not be verified.
func Verify(ctx context.Context, o VerifyOptions) (Report, error) {
	for {
		before, err := listSegments(o.Dir)
		if err != nil {
			return Report{}, fmt.Errorf("audit: %w", err)
		}
		report, err := verify(ctx, o)
		if err != nil {
			return report, err
		}
		if report.FirstBad == nil {
			return report, nil
		}
		// A writer that recovers from a failure replaces segments: what was
		// read while it did so proves nothing.
		after, err := listSegments(o.Dir)
		if err != nil {
			return report, fmt.Errorf("audit: %w", err)
		}
		if slices.Equal(before, after) {
			return report, fmt.Errorf("%w: %w", ErrTampered, report.FirstBad)
		}
	}
}

func verify(ctx context.Context, o VerifyOptions) (Report, error) {
	verifier, err := verifierFor(o)
	if err != nil {
		return Report{}, err
	}
	// Checkpoints are opened, and bounded, before the lines: so the lines of a
	// log that grows reach at least as far.
	v := verification{dir: o.Dir, verifier: verifier, open: map[uint64]uint64{}}
	f, err := os.Open(filepath.Join(o.Dir, checkpointsFile))
	switch {
	case err == nil:
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return Report{}, fmt.Errorf("audit: %w", err)
		}
		v.checkpoints.r = bufio.NewReader(io.LimitReader(f, info.Size()))
	case errors.Is(err, os.ErrNotExist):
		v.checkpoints.r = bufio.NewReader(strings.NewReader(""))
	default:
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	if v.lines, err = openLines(o.Dir); err != nil {
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	defer v.lines.close()
	err = v.run(ctx, o.Progress)
	var bad *BadRecord
	if errors.As(err, &bad) {
		v.report.FirstBad, err = bad, nil
	}
	if err != nil {
		return v.report, fmt.Errorf("audit: verify %s: %w", o.Dir, err)
	}
	v.report.Records, v.report.Root = v.tree.size, v.tree.root().String()
	v.report.Uncovered = v.report.Records - min(v.report.Covered, v.report.Records)
	v.unanswered()
	return v.report, nil
}

func verifierFor(o VerifyOptions) (note.Verifier, error) {
	text, from := o.Key, "the key given"
	if text == "" {
		from = filepath.Join(o.Dir, publicKeyFile)
		b, err := os.ReadFile(from)
		if err != nil {
			return nil, fmt.Errorf("audit: no key to verify with: %w", err)
		}
		text = string(b)
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("audit: %s is not a verifier key (name+hash+data)", from)
	}
	return verifier, nil
}

// verification is one pass over a log.
type verification struct {
	dir         string
	verifier    note.Verifier
	report      Report
	lines       *lineReader
	checkpoints checkpoints
	tree        tree

	// The last checkpoint that holds, and the next one.
	held    tree
	heldAt  BadRecord // the first line after it
	next    checkpoint
	pending bool // next is to be checked

	// The first line since held whose stored leaf hash is another.
	suspect *BadRecord
	stored  leaves

	boot  uint64            // of the last line, counted from 1
	open  map[uint64]uint64 // unanswered records, and their boots
	cache Record
}

func (v *verification) run(ctx context.Context, progress func(done, total int64)) error {
	v.stored = leaves{dir: v.dir}
	if err := v.advance(); err != nil {
		return err
	}
	var d decoder
	var shown int64
	for {
		if v.tree.size%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, err := v.lines.next()
		if err == io.EOF {
			break
		}
		last := v.cache
		if err == nil {
			err = v.lines.record(&d, line, &v.cache)
		}
		var bad *BadRecord
		if errors.As(err, &bad) {
			return v.first(bad)
		}
		if err != nil {
			return err
		}
		v.look(&last, &v.cache)
		if err := v.add(line); err != nil {
			return err
		}
		if done := v.lines.done(); progress != nil && done-shown >= 1<<20 {
			shown = done
			progress(done, v.lines.total)
		}
	}
	if v.pending {
		return v.first(v.lines.bad("the log ends here, and a checkpoint covers %d records", v.next.size))
	}
	if n := v.lines.unfinished(); n > 0 {
		v.report.warn("%s, byte %d: the beginning of a line: a record being written now, or one that a crash cut short before it was acknowledged",
			v.lines.segment(), v.lines.offset)
	}
	if v.suspect != nil {
		v.staleHash()
	}
	if progress != nil {
		progress(v.lines.total, v.lines.total)
	}
	return nil
}

// add takes a line into the tree, and checks the checkpoint that ends with it.
func (v *verification) add(line []byte) error {
	leaf := tlog.RecordHash(line)
	if v.suspect == nil {
		if stored, ok := v.stored.at(v.tree.size); ok && stored != leaf {
			v.suspect = &BadRecord{Seq: v.tree.size, Segment: v.lines.segment(), Offset: v.lines.offset, Reason: "is not the record that was signed"}
		}
	}
	if v.tree.size == v.held.size {
		v.heldAt = BadRecord{Seq: v.tree.size, Segment: v.lines.segment(), Offset: v.lines.offset}
	}
	v.tree.add(leaf, drop)
	if !v.pending || v.tree.size != v.next.size {
		return nil
	}
	if v.tree.root() != v.next.root {
		return v.first(nil)
	}
	v.report.Checkpoints++
	v.report.Covered = v.next.size
	v.held = v.tree.clone()
	if v.suspect != nil {
		v.staleHash()
		v.suspect = nil
	}
	return v.advance()
}

func (v *verification) staleHash() {
	v.report.warn("the stored hash of record %d is wrong, its line is not: the hashes files are damaged or old", v.suspect.Seq)
}

// first settles which record is the first bad one, when the lines since the
// last good checkpoint are known not to be right and bad, if not nil, is where
// that shows. If the stored leaf hashes are those that the next checkpoint
// signs, the first that differs is exact.
func (v *verification) first(bad *BadRecord) error {
	if v.pending && v.suspect != nil && (bad == nil || v.suspect.Seq < bad.Seq) {
		t := v.held.clone()
		for t.size < v.next.size {
			leaf, ok := v.stored.at(t.size)
			if !ok {
				break
			}
			t.add(leaf, drop)
		}
		if t.size == v.next.size && t.root() == v.next.root {
			return v.suspect
		}
	}
	if bad != nil {
		return bad
	}
	at := v.heldAt
	at.Reason = fmt.Sprintf("records %d to %d are not those that the checkpoint of %d records signs, and no stored hash says which", v.held.size, v.next.size-1, v.next.size)
	return &at
}

// advance reads the next checkpoint.
func (v *verification) advance() error {
	v.pending = false
	bad := func(reason string) error {
		return &BadRecord{Seq: v.held.size, Segment: checkpointsFile, Offset: v.checkpoints.offset, Reason: reason}
	}
	msg, err := v.checkpoints.next()
	switch {
	case err == io.EOF:
		return nil
	case err == errTorn && !tearable(msg, v.verifier):
		return bad("is neither a checkpoint nor what a crash may leave of one")
	case err == errTorn:
		v.report.warn("%s, byte %d: a checkpoint without its end: one being written now, or one that a crash cut short", checkpointsFile, v.checkpoints.offset)
		return nil
	case errors.Is(err, errLong):
		return bad(err.Error())
	case err != nil:
		return err
	}
	if v.next, err = openCheckpoint(msg, v.verifier); err != nil {
		return bad("checkpoint does not verify: " + err.Error())
	}
	if v.next.size <= v.held.size {
		return bad(fmt.Sprintf("checkpoint of %d records follows one of %d", v.next.size, v.held.size))
	}
	v.pending = true
	return nil
}

// look checks what a line says against those before it.
func (v *verification) look(last, r *Record) {
	if v.boot == 0 || r.Boot != last.Boot {
		v.boot++
	} else if r.Mono < last.Mono {
		v.report.warn("record %d: the monotonic clock goes back by %v", r.Seq, last.Mono-r.Mono)
	}
	if v.tree.size > 0 && r.Time.Before(last.Time) {
		v.report.warn("record %d: the clock goes back by %v", r.Seq, last.Time.Sub(r.Time).Round(time.Microsecond))
	}
	switch r.Phase {
	case PhaseIntent, PhaseOpen:
		v.open[r.Seq] = v.boot
	case PhaseOutcome, PhaseClose:
		if r.Intent == 0 {
			return
		}
		if _, ok := v.open[r.Intent-1]; !ok {
			v.report.warn("record %d answers record %d, which is not open", r.Seq, r.Intent-1)
		}
		delete(v.open, r.Intent-1)
	}
}

// unanswered reports what was left open, with a warning for what the log's
// present writer will not answer any more.
func (v *verification) unanswered() {
	v.report.Unanswered = uint64(len(v.open))
	var lost []uint64
	for seq, boot := range v.open {
		if boot != v.boot {
			lost = append(lost, seq)
		}
	}
	slices.Sort(lost)
	for _, seq := range lost {
		v.report.warn("record %d: nothing says what came of it", seq)
	}
}

// leaves reads stored leaf hashes, a tile at a time.
type leaves struct {
	dir    string
	first  uint64 // number of hashes[0]
	loaded bool
	hashes []tlog.Hash
}

// at returns the stored hash of a record, if there is one. What cannot be read
// is as good as missing: stored hashes only make a finding more exact.
func (l *leaves) at(seq uint64) (tlog.Hash, bool) {
	if first := seq &^ (tileWidth - 1); !l.loaded || l.first != first {
		l.first, l.loaded = first, true
		l.hashes, _ = readHashes(l.dir, 0, first, first+tileWidth)
	}
	if i := int(seq - l.first); i < len(l.hashes) {
		return l.hashes[i], true
	}
	return tlog.Hash{}, false
}
