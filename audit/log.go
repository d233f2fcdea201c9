package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// ErrClosed is returned by every use of a log after Close.
var ErrClosed = errors.New("audit: log is closed")

// ErrStalled is returned by Append when the disk has not taken what was
// written before within a bounded time.
var ErrStalled = errors.New("audit: the disk does not keep up")

// Durability says what a record has survived once Append has returned.
type Durability int

// Durabilities.
const (
	Process Durability = iota // the death of the process, kill -9 included
	Disk                      // the loss of power: Append waits for the disk
)

// String returns the name that a configuration uses.
func (d Durability) String() string {
	if d == Disk {
		return "disk"
	}
	return "process"
}

// Options are what a log is opened with. Dir and a key are required.
type Options struct {
	// Dir is the directory of the log, made with mode 0700 if it is missing.
	Dir string
	// Name is the origin that the log's checkpoints name, such as
	// "forgeone/edge-1". It must be the name in Key; empty takes that.
	Name string
	// Key is the text of the signer key, as GenerateKey returns it. The caller
	// reads it from where it is kept, best not on the machine's own disk.
	Key string
	// AllowGenerate lets Open make a key of its own in Dir when Key is empty.
	// Whoever owns the directory can then rewrite the whole log unseen.
	AllowGenerate bool

	// SegmentSize is the size of a segment file in bytes, reserved when it is
	// made: 16 MiB by default, at least 2*MaxLine.
	SegmentSize int64
	// CheckpointEvery records, 65,536 by default, and each CheckpointInterval,
	// one second by default, what is new is synced and covered by a checkpoint.
	CheckpointEvery    uint64
	CheckpointInterval time.Duration
	// Durability is what Append promises of every record. Sync promises Disk
	// for one record, whatever this is.
	Durability Durability
	// Clock is time.Now by default.
	Clock func() time.Time
}

const (
	// stallTimeout bounds how long Append waits for the disk.
	stallTimeout = 10 * time.Second
	// retryDelay is the least time between two attempts to begin a segment
	// after one has failed.
	retryDelay = 100 * time.Millisecond
	// maxRetired bounds the full segments that wait for the disk.
	maxRetired = 4
	// warmAhead is how far ahead of its use a segment is made fast to write:
	// enough for the time it takes, and not so much that a sync has to write
	// many empty pages.
	warmAhead = 1 << 20
	// headroom is what the opening of a line takes at most.
	headroom = 192
)

// Log is an audit log that is open for writing. Its methods are safe for
// concurrent use.
//
// Append only copies into a memory map. Two goroutines, which Close waits for,
// do the rest: one hashes, syncs and signs, the other makes segments ahead of
// their use and begins a new one after a failure. Hashing is theirs because it
// costs as much as all the rest of Append and nothing waits for its result but
// a checkpoint.
type Log struct {
	dir      string
	store    store
	signer   note.Signer
	lock     *os.File
	boot     string
	clock    func() time.Time
	start    time.Time
	segment  int64
	every    uint64
	interval time.Duration
	disk     bool

	lines  sync.Pool     // of *[]byte
	wake   chan struct{} // there is something to sync
	refill chan struct{} // there may be a segment to make
	stop   chan struct{}
	owned  sync.WaitGroup

	// treeMu is taken before mu where both are. What is mapped is unmapped
	// only with it held, so a reader of lines holds it.
	treeMu sync.Mutex
	tree   tree
	fresh  [][]byte // hashes of each level that are not stored yet
	buf    []byte   // of hash

	mu      sync.Mutex
	stamp   stamp
	head    [headroom]byte
	current *part   // nil after a failure, until a new segment is begun
	retired []*part // full, waiting for the disk, oldest first
	broken  []*part // not current any more because of failure, oldest first
	spare   *part
	ordinal uint64 // of the segment made last
	next    uint64 // number of the next record
	synced  uint64 // records known to be on disk
	open    map[uint64]struct{}
	failure error // why there is no current segment
	lack    error // why there is no spare
	retryAt time.Time
	changed chan struct{} // closed, and replaced, when any of the above gives news
	closed  bool

	covered     uint64 // records under the last checkpoint
	unsigned    error  // why the last checkpoint could not be written
	checkpoints int64  // length of the checkpoints file; for the goroutine that signs
}

// part is an open segment.
type part struct {
	segment
	name   segmentName
	size   int64
	used   int64 // bytes of whole lines
	synced int64 // of these, on disk
	hashed int64 // of these, in the tree; under treeMu
	warmed int64 // bytes that are fast to write
}

// Open opens the log in o.Dir, or begins it. After a crash it makes good what
// the crash left: lines not known to be on disk are written anew, a line that
// was never acknowledged is dropped, and each intent and folded run without an
// end gets an outcome "unknown"; all of that is put on record. It refuses a
// log that contradicts its own last checkpoint.
func Open(o Options) (*Log, error) { return open(o, disk{}) }

func open(o Options, st store) (_ *Log, err error) {
	if o.SegmentSize == 0 {
		o.SegmentSize = 16 << 20
	}
	if o.SegmentSize < 2*MaxLine {
		return nil, fmt.Errorf("audit: segment size %d is below the least, %d bytes", o.SegmentSize, 2*MaxLine)
	}
	if o.CheckpointEvery == 0 {
		o.CheckpointEvery = 65536
	}
	if o.CheckpointInterval <= 0 {
		o.CheckpointInterval = time.Second
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Dir == "" {
		return nil, errors.New("audit: no directory for the log")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && lock != nil {
			lock.Close()
		}
	}()
	signer, verifier, err := keys(o)
	if err != nil {
		return nil, err
	}
	l := &Log{
		dir: o.Dir, store: st, signer: signer, lock: lock, boot: newBoot(),
		clock: o.Clock, start: o.Clock(), segment: o.SegmentSize,
		every: o.CheckpointEvery, interval: o.CheckpointInterval, disk: o.Durability == Disk,
		lines:   sync.Pool{New: func() any { return new([]byte) }},
		wake:    make(chan struct{}, 1),
		refill:  make(chan struct{}, 1),
		stop:    make(chan struct{}),
		changed: make(chan struct{}),
		open:    map[uint64]struct{}{},
		buf:     make([]byte, 4*MaxLine),
	}
	if err := l.load(verifier); err != nil {
		if l.current != nil {
			err = errors.Join(err, l.current.close(-1))
		}
		return nil, err
	}
	l.owned.Go(l.keep)
	l.owned.Go(l.supply)
	poke(l.refill)
	if err := l.reconcile("the kernel ended before the outcome was on record"); err != nil {
		lock = nil // Close gives it up
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// keys reads or makes the key, and holds it against the log's public key.
func keys(o Options) (note.Signer, note.Verifier, error) {
	text := o.Key
	if text == "" && o.AllowGenerate {
		var err error
		if text, err = ownKey(o); err != nil {
			return nil, nil, err
		}
	}
	if text == "" {
		return nil, nil, errors.New("audit: no key to sign checkpoints with: give one that GenerateKey made, or allow the log to make its own")
	}
	signer, err := note.NewSigner(strings.TrimSpace(text))
	if err != nil {
		return nil, nil, errors.New("audit: the key is not the signer key of a note (PRIVATE+KEY+name+hash+data)")
	}
	if o.Name != "" && o.Name != signer.Name() {
		return nil, nil, fmt.Errorf("audit: the log is named %q, its key is for %q", o.Name, signer.Name())
	}
	public, err := verifierText(text)
	if err != nil {
		return nil, nil, err
	}
	name := filepath.Join(o.Dir, publicKeyFile)
	old, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = os.WriteFile(name, []byte(public+"\n"), 0o644)
	case err == nil && strings.TrimSpace(string(old)) != public:
		err = fmt.Errorf("the log in %s was begun with another key (%s): rotation is not built yet, so open it with its own key or begin a new directory", o.Dir, name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	return signer, verifier, nil
}

// ownKey reads the key that the log made for itself, or makes it.
func ownKey(o Options) (string, error) {
	name := filepath.Join(o.Dir, privateKeyFile)
	b, err := os.ReadFile(name)
	if err == nil {
		return string(b), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("audit: %w", err)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, publicKeyFile)); err == nil {
		return "", fmt.Errorf("audit: the log in %s was begun with a key that is not there: give that key, or begin a new directory", o.Dir)
	}
	text, _, err := GenerateKey(o.Name)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("audit: %w", err)
	}
	return text, nil
}

func newBoot() string {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// poke wakes the goroutine that receives from c, once.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Append writes r as one line and returns its number. Once it returns nil the
// line survives the death of the process, and under Durability Disk the loss
// of power. Any error means that the act which r stands for must not happen;
// the log takes records again by itself when its disk does.
func (l *Log) Append(r *Record) (seq uint64, err error) {
	buf := l.lines.Get().(*[]byte)
	defer l.lines.Put(buf)
	if *buf, err = appendBody(slices.Grow((*buf)[:0], headroom)[:headroom], r); err != nil {
		return 0, err
	}
	if len(*buf) > MaxLine {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(*buf), MaxLine)
	}
	l.mu.Lock()
	if l.closed {
		err = ErrClosed
	} else if err = l.room(int64(len(*buf))); err == nil {
		seq, err = l.put(*buf, r)
	}
	l.mu.Unlock()
	if err != nil || !l.disk {
		return seq, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stallTimeout)
	defer cancel()
	if err := l.Sync(ctx, seq); err != nil {
		return seq, fmt.Errorf("audit: record %d is not on disk: %w", seq, err)
	}
	return seq, nil
}

// put writes a line whose head goes into the first headroom bytes of b, into
// the current segment, which has room. It is called with mu held.
func (l *Log) put(b []byte, r *Record) (uint64, error) {
	now := l.clock()
	head := appendHead(l.head[:0], &l.stamp, l.next, now, now.Sub(l.start), l.boot)
	line := b[headroom-len(head):]
	copy(line, head)
	p := l.current
	if err := p.write(line, p.used); err != nil {
		return 0, l.fail(p, err)
	}
	seq := l.next
	p.used += int64(len(line))
	l.next++
	switch r.Phase {
	case PhaseIntent, PhaseOpen:
		l.open[seq] = struct{}{}
	case PhaseOutcome, PhaseClose:
		delete(l.open, r.Intent-1)
	}
	if l.next%l.every == 0 {
		poke(l.wake)
	}
	if p.used+warmAhead/2 > p.warmed && p.warmed < p.size {
		poke(l.refill)
	}
	return seq, nil
}

// room makes sure that the current segment has n bytes left, waiting for a
// while if it has not. It is called with mu held, which it gives up to wait.
func (l *Log) room(n int64) error {
	var timeout <-chan time.Time
	for {
		switch {
		case l.current != nil && l.current.used+n <= l.current.size:
			return nil
		case l.current != nil && l.spare != nil:
			l.retired = append(l.retired, l.current)
			l.current, l.spare = l.spare, nil
			poke(l.wake)
			poke(l.refill)
			continue
		case l.lack != nil && time.Now().Before(l.retryAt):
			return l.refusal()
		case l.lack != nil:
			l.lack = nil
			poke(l.refill)
		}
		if timeout == nil {
			t := time.NewTimer(stallTimeout)
			defer t.Stop()
			timeout = t.C
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			l.mu.Lock()
			return errors.Join(ErrStalled, l.refusal())
		}
		l.mu.Lock()
	}
}

// refusal is why no record can be taken.
func (l *Log) refusal() error {
	if l.failure == nil && l.lack == nil {
		return nil
	}
	return fmt.Errorf("audit: no record can be written in %s: %w", l.dir, errors.Join(l.failure, l.lack))
}

// fail gives up all open segments because p could not be written or synced:
// what a disk has refused once is not tried again in the same file. It is
// called with mu held and returns the error that is now in force.
func (l *Log) fail(p *part, err error) error {
	if p == l.current || slices.Contains(l.retired, p) {
		l.failure = fmt.Errorf("segment %s is sealed: %w", p.name, err)
		l.lack = nil
		l.broken = append(l.retired, l.current)
		l.retired, l.current = nil, nil
		l.news()
		poke(l.refill)
	}
	return l.refusal()
}

// news wakes all who wait for a change. It is called with mu held.
func (l *Log) news() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Sync waits until the record with number seq, and so every one before it, is
// on disk. Callers that wait at the same time share one sync. After an error
// the record may or may not be there: what depends on it must not happen.
func (l *Log) Sync(ctx context.Context, seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq >= l.next {
		return fmt.Errorf("audit: there is no record %d to wait for", seq)
	}
	for l.synced <= seq {
		if l.failure != nil {
			return l.refusal()
		}
		if l.closed {
			return ErrClosed
		}
		poke(l.wake)
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
			l.mu.Lock()
		case <-ctx.Done():
			l.mu.Lock()
			return ctx.Err()
		}
	}
	return nil
}

// Head is where a log stands.
type Head struct {
	Records        uint64 // records in the log
	LastSeq        uint64 // number of the last record; 0 also when there is none
	Root           string // Merkle tree hash over all records, base64
	CheckpointSize uint64 // records covered by the last checkpoint
	Healthy        error  // what is wrong with the log, nil when nothing is
}

// Head returns where the log stands now.
func (l *Log) Head() Head {
	l.treeMu.Lock()
	defer l.treeMu.Unlock()
	s := l.look()
	err := l.hash(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	h := Head{
		Records: s.next, Root: l.tree.root().String(), CheckpointSize: l.covered,
		Healthy: errors.Join(err, l.refusal(), l.unsigned),
	}
	if s.next > 0 {
		h.LastSeq = s.next - 1
	}
	if l.closed {
		h.Healthy = ErrClosed
	}
	return h
}

// Close ends the log: what is open is put on record as unknown, everything is
// synced and covered by a last checkpoint, and the segment is cut to its lines.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	l.news()
	l.mu.Unlock()
	err := l.reconcile("the log was closed")
	close(l.stop)
	l.owned.Wait()
	err = errors.Join(err, l.settle(true))
	l.treeMu.Lock()
	defer l.treeMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	err = errors.Join(err, l.refusal(), l.unsigned)
	for _, p := range append(l.retired, l.current) {
		if p != nil {
			err = errors.Join(err, p.close(p.used))
		}
	}
	for _, p := range l.broken {
		err = errors.Join(err, p.close(-1))
	}
	if l.spare != nil {
		err = errors.Join(err, l.discard(l.spare))
	}
	l.retired, l.broken, l.current, l.spare = nil, nil, nil, nil
	return errors.Join(err, l.lock.Close())
}

// reconcile answers every open intent and run with the outcome "unknown".
func (l *Log) reconcile(reason string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := make([]uint64, 0, len(l.open))
	for seq := range l.open {
		open = append(open, seq)
	}
	slices.Sort(open)
	for _, seq := range open {
		r := &Record{Kind: KindAudit, Phase: PhaseOutcome, Intent: Closes(seq), Outcome: OutcomeUnknown, Reason: reason}
		b, err := appendBody(make([]byte, headroom), r)
		if err == nil {
			err = l.room(int64(len(b)))
		}
		if err == nil {
			_, err = l.put(b, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// note writes a record of the log on itself into a segment that was just
// begun, where there is room. It is called with mu held.
func (l *Log) note(r *Record) error {
	b, err := appendBody(make([]byte, headroom), r)
	if err == nil {
		_, err = l.put(b, r)
	}
	return err
}
