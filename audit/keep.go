package audit

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// view is the log at one moment.
type view struct {
	next  uint64
	parts []*part // broken, retired and current, oldest first
	used  []int64 // of each
	live  int     // parts from here on are not broken
	open  []uint64
}

// look takes a view. To read the parts of it, treeMu must be held from before.
func (l *Log) look() view {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := view{next: l.next, live: len(l.broken)}
	v.parts = slices.Concat(l.broken, l.retired)
	if l.current != nil {
		v.parts = append(v.parts, l.current)
	}
	for _, p := range v.parts {
		v.used = append(v.used, p.used)
	}
	v.open = make([]uint64, 0, len(l.open))
	for seq := range l.open {
		v.open = append(v.open, seq)
	}
	return v
}

// hash brings the tree up to v. It is called with treeMu held.
func (l *Log) hash(v view) error {
	for i, p := range v.parts {
		for p.hashed < v.used[i] {
			lines := l.buf[:min(int64(len(l.buf)), v.used[i]-p.hashed)]
			if err := p.read(lines, p.hashed); err != nil {
				return fmt.Errorf("audit: read back %s: %w", p.name, err)
			}
			for {
				n := bytes.IndexByte(lines, '\n')
				if n < 0 {
					break
				}
				l.tree.add(tlog.RecordHash(lines[:n]), l.emit)
				p.hashed += int64(n + 1)
				lines = lines[n+1:]
			}
		}
	}
	return nil
}

// emit keeps a hash to be stored.
func (l *Log) emit(level int, h tlog.Hash) {
	for len(l.fresh) <= level {
		l.fresh = append(l.fresh, nil)
	}
	l.fresh[level] = append(l.fresh[level], h[:]...)
}

// storeHashes writes the hashes up to the size of the tree, so that those of a
// checkpoint are there before it. Nothing waits for the disk: they follow from
// the lines, and are made again where they do not fit them.
func (l *Log) storeHashes() error {
	l.treeMu.Lock()
	size := l.tree.size
	fresh := slices.Clone(l.fresh)
	l.treeMu.Unlock()
	for level, b := range fresh {
		if len(b) == 0 {
			continue
		}
		end := int64(size>>(tileHeight*level)) * tlog.HashSize
		if err := l.store.writeAt(hashesPath(l.dir, level), b, end-int64(len(b)), false); err != nil {
			return err
		}
		l.treeMu.Lock()
		l.fresh[level] = append([]byte(nil), l.fresh[level][len(b):]...)
		l.treeMu.Unlock()
	}
	return nil
}

// keep hashes, syncs and signs until the log is closed.
func (l *Log) keep() {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	for {
		due := false
		select {
		case <-l.stop:
			return
		case <-l.wake:
		case <-tick.C:
			due = true
			poke(l.refill) // what failed may work by now
		}
		_ = l.settle(due) // what went wrong is in the log's state, for Head
	}
}

// settle syncs all that was written, and signs a checkpoint if that is due by
// time or by count. One goroutine at a time calls it.
func (l *Log) settle(due bool) error {
	v := l.look()
	if err := l.flush(v); err != nil {
		return err // is in force as l.failure
	}
	// A log's first checkpoint does not wait: without one nothing of it is proved.
	due = v.next > l.covered && (due || v.next-l.covered >= l.every || l.checkpoints == 0)
	if !due && len(v.parts) == 1 {
		return nil // nobody waits for the tree
	}
	// The tree may only be asked for its root while it ends where v does. What
	// came since the first look is little, so syncing again is cheap.
	l.treeMu.Lock()
	v = l.look()
	err := l.hash(v)
	root := l.tree.root()
	l.treeMu.Unlock()
	if err == nil {
		if err := l.flush(v); err != nil {
			return err
		}
		l.release(v)
		if !due {
			return nil
		}
		err = l.checkpoint(newCheckpoint(v.next, root, v.open))
	}
	if err != nil {
		err = fmt.Errorf("audit: %d records are not covered by a checkpoint: %w", v.next-l.covered, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsigned = err
	if err == nil {
		l.covered = v.next
	}
	return err
}

// flush puts all of v on disk.
func (l *Log) flush(v view) error {
	for i, p := range v.parts[v.live:] {
		if v.used[v.live+i] == p.synced {
			continue
		}
		if err := p.sync(); err != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.fail(p, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v.live > 0 {
		if l.synced < v.next {
			return l.refusal()
		}
		return nil
	}
	for i, p := range v.parts {
		p.synced = v.used[i]
	}
	if l.synced < v.next {
		l.synced = v.next
		l.news()
	}
	return nil
}

// release closes the retired segments of v, which are hashed and on disk.
func (l *Log) release(v view) {
	l.treeMu.Lock()
	l.mu.Lock()
	var done []*part
	l.retired = slices.DeleteFunc(l.retired, func(p *part) bool {
		if !slices.Contains(v.parts, p) || p.synced != p.used || p.hashed != p.used {
			return false
		}
		done = append(done, p)
		return true
	})
	l.mu.Unlock()
	l.treeMu.Unlock()
	for _, p := range done {
		// Its lines are on disk. If the tail of zeroes cannot be cut off it is
		// space lost and nothing else.
		_ = p.close(p.used)
	}
	if len(done) > 0 {
		poke(l.refill)
	}
}

// checkpoint writes the hashes that c stands on, then c.
func (l *Log) checkpoint(c checkpoint) error {
	if err := l.storeHashes(); err != nil {
		return err
	}
	msg, err := c.sign(l.signer)
	if err != nil {
		return err
	}
	if err := l.store.writeAt(filepath.Join(l.dir, checkpointsFile), msg, l.checkpoints, true); err != nil {
		return err
	}
	l.checkpoints += int64(len(msg))
	return nil
}

// supply makes segments ahead of their use until the log is closed.
func (l *Log) supply() {
	for {
		select {
		case <-l.stop:
			return
		case <-l.refill:
		}
		l.mu.Lock()
		current := l.current
		lost := current == nil
		wanted := l.spare == nil && len(l.retired) < maxRetired
		l.mu.Unlock()
		if !lost {
			l.warm(current)
		}
		var err error
		switch {
		case lost:
			err = l.recover()
		case wanted:
			err = l.prepare()
		}
		if err != nil {
			l.mu.Lock()
			l.lack = fmt.Errorf("cannot begin a segment: %w", err)
			l.retryAt = time.Now().Add(retryDelay)
			l.news()
			l.mu.Unlock()
		}
	}
}

// warm makes p fast to write for a while from where it is used to.
func (l *Log) warm(p *part) {
	l.mu.Lock()
	from := max(p.used, p.warmed)
	end := min(p.used+warmAhead, p.size)
	l.mu.Unlock()
	if from >= end {
		return
	}
	p.segment.warm(from, end)
	l.mu.Lock()
	p.warmed = end
	l.mu.Unlock()
}

// prepare makes the spare.
func (l *Log) prepare() error {
	p, err := l.create()
	if err != nil {
		return err
	}
	l.warm(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spare, l.lack = p, nil
	l.news()
	return nil
}

// create makes the next segment, empty.
func (l *Log) create() (*part, error) {
	l.mu.Lock()
	l.ordinal++
	p := &part{name: segmentName{ordinal: l.ordinal}, size: l.segment}
	l.mu.Unlock()
	var err error
	path := filepath.Join(l.dir, p.name.String())
	if p.segment, err = l.store.create(path, p.size); err != nil {
		return nil, err
	}
	if err := l.store.syncDir(l.dir); err != nil {
		return nil, errors.Join(err, l.discard(p))
	}
	return p, nil
}

// carry makes the next segment with lines in it, the first of which has the
// number first. Only when they are on disk does the segment get a name that
// counts, so there is no moment at which the lines are in no segment.
func (l *Log) carry(first uint64, lines []byte) (_ *part, err error) {
	l.mu.Lock()
	l.ordinal++
	name := segmentName{ordinal: l.ordinal, from: first, carries: true}
	l.mu.Unlock()
	n := int64(len(lines))
	p := &part{name: name, size: l.segment + n, used: n, synced: n, hashed: n}
	path := filepath.Join(l.dir, name.String())
	temp := path + tempSuffix
	defer func() {
		if err != nil {
			// One of the two may be there; what stays is superseded or empty.
			_ = l.store.remove(temp)
			_ = l.store.remove(path)
		}
	}()
	s, err := l.store.create(temp, p.size)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		err = s.write(lines, 0)
	}
	if err == nil {
		err = s.sync()
	}
	// Not every system renames a file that is open.
	if err = errors.Join(err, s.close(-1)); err != nil {
		return nil, err
	}
	if err := l.store.rename(temp, path); err != nil {
		return nil, err
	}
	if err := l.store.syncDir(l.dir); err != nil {
		return nil, err
	}
	p.segment, err = l.store.reopen(path, p.size)
	return p, err
}

// discard removes a segment that holds nothing.
func (l *Log) discard(p *part) error {
	return errors.Join(p.close(-1), l.store.remove(filepath.Join(l.dir, p.name.String())))
}

// recover begins a new segment after a failure, with the lines of the broken
// ones that are not known to be on disk.
func (l *Log) recover() error {
	l.treeMu.Lock()
	err := l.hash(l.look())
	l.mu.Lock()
	broken, first, spare, cause := l.broken, l.synced, l.spare, l.failure
	l.spare = nil
	kept := make([]int64, len(broken))
	var lines []byte
	for i, p := range broken {
		kept[i] = p.synced
		if err == nil {
			at := len(lines)
			lines = slices.Grow(lines, int(p.used-p.synced))[:at+int(p.used-p.synced)]
			err = p.read(lines[at:], p.synced)
		}
	}
	l.mu.Unlock()
	l.treeMu.Unlock()
	if spare != nil {
		_ = l.discard(spare) // empty: a reader skips it, Open removes it
	}
	if err != nil {
		return err
	}
	p, err := l.carry(first, lines)
	if err != nil {
		return err
	}

	l.treeMu.Lock()
	l.mu.Lock()
	l.current, l.broken, l.failure, l.lack = p, nil, nil, nil
	l.synced = l.next
	err = l.note(&Record{
		Kind: KindAudit, Outcome: OutcomeOK, Reason: cause.Error(),
		Details: map[string]string{
			"segment":   p.name.String(),
			"rewritten": strconv.FormatUint(l.next-first, 10),
		},
	})
	l.news()
	l.mu.Unlock()
	l.treeMu.Unlock()
	poke(l.refill)

	for i, old := range broken {
		// From first on the new segment counts, whatever the old ones still
		// hold: cutting them is for tidiness, and their disk may well refuse.
		_ = old.close(kept[i])
		if kept[i] == 0 {
			_ = l.store.remove(filepath.Join(l.dir, old.name.String()))
		}
	}
	return err
}
