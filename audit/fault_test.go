package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faulty is the disk with faults: before each operation it asks what is to go
// wrong, and it keeps what of each segment has reached the disk.
type faulty struct {
	disk
	ask func(op, path string) error

	mu      sync.Mutex
	durable map[string][]byte // by path: content when last synced
}

func (f *faulty) fault(op, path string) error {
	if f.ask == nil {
		return nil
	}
	if err := f.ask(op, path); err != nil {
		return &os.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

func (f *faulty) keep(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.durable == nil {
		f.durable = map[string][]byte{}
	}
	f.durable[path] = b
	return nil
}

func (f *faulty) create(path string, size int64) (segment, error) {
	if err := f.fault("create", path); err != nil {
		return nil, err
	}
	s, err := f.disk.create(path, size)
	return &faultySegment{segment: s, store: f, path: path}, err
}

func (f *faulty) reopen(path string, size int64) (segment, error) {
	if err := f.fault("reopen", path); err != nil {
		return nil, err
	}
	s, err := f.disk.reopen(path, size)
	return &faultySegment{segment: s, store: f, path: path}, err
}

func (f *faulty) writeAt(path string, b []byte, offset int64, wait bool) error {
	if err := f.fault("writeAt", path); err != nil {
		// Half of it is there.
		return errors.Join(err, f.disk.writeAt(path, b[:len(b)/2], offset, false))
	}
	return f.disk.writeAt(path, b, offset, wait)
}

func (f *faulty) rename(from, to string) error {
	if err := f.fault("rename", from); err != nil {
		return err
	}
	f.mu.Lock()
	if b, ok := f.durable[from]; ok {
		f.durable[to] = b
	}
	f.mu.Unlock()
	return f.disk.rename(from, to)
}

func (f *faulty) truncate(path string, size int64) error {
	if err := f.fault("truncate", path); err != nil {
		return err
	}
	return f.disk.truncate(path, size)
}

func (f *faulty) remove(path string) error {
	if err := f.fault("remove", path); err != nil {
		return err
	}
	return f.disk.remove(path)
}

func (f *faulty) syncDir(dir string) error {
	if err := f.fault("syncDir", dir); err != nil {
		return err
	}
	return f.disk.syncDir(dir)
}

type faultySegment struct {
	segment
	store *faulty
	path  string
}

func (s *faultySegment) write(line []byte, offset int64) error {
	if err := s.store.fault("write", s.path); err != nil {
		// A short write, as WriteAt on a full disk makes.
		return errors.Join(err, s.segment.write(line[:len(line)/2], offset))
	}
	return s.segment.write(line, offset)
}

func (s *faultySegment) read(b []byte, offset int64) error {
	if err := s.store.fault("read", s.path); err != nil {
		return err
	}
	return s.segment.read(b, offset)
}

func (s *faultySegment) sync() error {
	if err := s.store.fault("sync", s.path); err != nil {
		return err
	}
	if err := s.segment.sync(); err != nil {
		return err
	}
	// The file may have its final name by now, or be gone.
	if err := s.store.keep(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (s *faultySegment) close(size int64) error {
	if err := s.store.fault("close", s.path); err != nil {
		return errors.Join(err, s.segment.close(-1))
	}
	return s.segment.close(size)
}

// bulky is a record of some two kilobytes, so that few fill a segment.
func bulky(i int) *Record {
	r := sample(i)
	r.Reason = strings.Repeat("x", 2000)
	return r
}

// history is what a test was told about its records.
type history struct {
	acknowledged map[uint64]string // resource by number
}

func (h *history) append(l *Log, i int) (uint64, error) {
	r := bulky(i)
	seq, err := l.Append(r)
	if err == nil {
		if h.acknowledged == nil {
			h.acknowledged = map[uint64]string{}
		}
		h.acknowledged[seq] = r.Resources[0]
	}
	return seq, err
}

// check reads the log and misses nothing.
func (h *history) check(t *testing.T, dir string, from uint64) {
	t.Helper()
	got := map[uint64]string{}
	for r, err := range Records(dir, Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Resources) > 0 {
			got[r.Seq] = r.Resources[0]
		}
	}
	for seq, resource := range h.acknowledged {
		if seq >= from && got[seq] != resource {
			t.Fatalf("record %d was acknowledged as %s and is %q", seq, resource, got[seq])
		}
	}
}

// TestEveryFault makes each kind of operation fail once, at its first, second,
// third… call. Whatever fails, what was acknowledged stays, the log takes
// records again without being opened anew, and it verifies.
func TestEveryFault(t *testing.T) {
	ops := []string{"create", "reopen", "writeAt", "rename", "truncate", "remove", "syncDir", "write", "read", "sync", "close"}
	for _, op := range ops {
		t.Run(op, func(t *testing.T) {
			for n := range 7 {
				if op == "write" {
					n *= 17
				}
				dir, k := t.TempDir(), newKey(t)
				var mu sync.Mutex
				calls, syncs := 0, 0
				st := &faulty{ask: func(o, path string) error {
					mu.Lock()
					defer mu.Unlock()
					if o == "sync" && (op == "rename" || op == "remove") {
						// These are only made after a failed sync.
						if syncs++; syncs%9 == 3 {
							return syscall.EIO
						}
					}
					if o != op {
						return nil
					}
					if calls++; calls == n+1 {
						return syscall.EIO
					}
					return nil
				}}
				o := k.options(dir)
				o.CheckpointInterval = 2 * time.Millisecond
				if op == "truncate" {
					o.CheckpointInterval = 50 * time.Millisecond
				}
				var h history
				for round := range 2 {
					l, err := open(o, st)
					if err != nil { // the fault was in Open: it is gone now
						if l, err = open(o, st); err != nil {
							t.Fatalf("fault %d: open again: %v", n, err)
						}
					}
					for i := range 25 + 75*round {
						seq, err := h.append(l, round*100+i)
						for try := 0; err != nil; try++ {
							if try == 100 {
								t.Fatalf("fault %d: no record is taken any more: %v", n, err)
							}
							time.Sleep(retryDelay / 4)
							seq, err = h.append(l, round*100+i)
						}
						for op == "truncate" && i == 10 && l.Head().CheckpointSize == 0 {
							time.Sleep(time.Millisecond) // so that some records are covered, and some not
						}
						if i%30 == 0 {
							_ = l.Sync(context.Background(), seq) // its error is not about what was acknowledged
						}
					}
					if op == "truncate" && round == 0 { // that one is made after a crash
						crashed := t.TempDir()
						if err := copyLog(dir, crashed, nil); err != nil {
							t.Fatal(err)
						}
						o.Dir, dir = crashed, crashed
					}
					_ = l.Close() // may be what fails
				}
				if calls == 0 {
					t.Fatalf("no %s was made", op)
				}
				if _, err := Verify(context.Background(), VerifyOptions{Dir: dir, Key: k.verifier}); err != nil {
					t.Fatalf("fault %d: as it was left: %v", n, err)
				}
				mustClose(t, mustOpen(t, o))
				if r := mustVerify(t, dir, k); r.Uncovered != 0 {
					t.Fatalf("fault %d: %+v", n, r)
				}
				h.check(t, dir, 0)
			}
		})
	}
}

// TestFailedSync follows one failed fsync: the segment is sealed and never
// synced again, its lines are written anew, and the log says so.
func TestFailedSync(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	var mu sync.Mutex
	failing, syncs := true, map[string]int{}
	st := &faulty{ask: func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if op != "sync" {
			return nil
		}
		syncs[filepath.Base(path)]++
		if failing {
			return syscall.EIO
		}
		return nil
	}}
	l, err := open(k.options(dir), st)
	if err != nil {
		t.Fatal(err)
	}
	var h history
	seq, err := h.append(l, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Sync(context.Background(), seq); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	if _, err := h.append(l, 1); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "00000001.log") {
		t.Errorf("append to a sealed segment: %v", err)
	}
	if err := l.Head().Healthy; !errors.Is(err, syscall.EIO) {
		t.Errorf("health: %v", err)
	}
	mu.Lock()
	failing = false
	mu.Unlock()
	for try := 0; ; try++ {
		if seq, err = h.append(l, 2); err == nil {
			break
		}
		if try == 50 {
			t.Fatal(err)
		}
		time.Sleep(retryDelay / 2)
	}
	if err := l.Sync(context.Background(), seq); err != nil {
		t.Errorf("sync in the new segment: %v", err)
	}
	if err := l.Head().Healthy; err != nil {
		t.Errorf("health: %v", err)
	}
	mustClose(t, l)
	mu.Lock()
	if syncs["00000001.log"] != 1 {
		t.Errorf("the sealed segment was synced %d times", syncs["00000001.log"])
	}
	mu.Unlock()
	mustVerify(t, dir, k)
	h.check(t, dir, 0)
	own := collect(t, dir, Filter{Kind: KindAudit})
	if len(own) != 1 || own[0].Details["rewritten"] != "1" || !strings.Contains(own[0].Reason, "sealed") {
		t.Errorf("on record: %+v", own)
	}
}

// TestNoSpace lets no segment be made for a while: what does not fit is
// refused with the reason, and all goes on when there is space again.
func TestNoSpace(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	var mu sync.Mutex
	full := false
	st := &faulty{ask: func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if full && op == "create" {
			return syscall.ENOSPC
		}
		return nil
	}}
	l, err := open(k.options(dir), st)
	if err != nil {
		t.Fatal(err)
	}
	var h history
	mu.Lock()
	full = true
	mu.Unlock()
	for i := 0; ; i++ {
		if _, err = h.append(l, i); err != nil {
			break
		}
		if i == 1000 {
			t.Fatal("records are taken without space")
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("refused with %v", err)
	}
	if err := l.Head().Healthy; !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("health: %v", err)
	}
	mu.Lock()
	full = false
	mu.Unlock()
	time.Sleep(2 * retryDelay)
	if _, err := h.append(l, 1001); err != nil {
		t.Errorf("with space again: %v", err)
	}
	mustClose(t, l)
	mustVerify(t, dir, k)
	h.check(t, dir, 0)
}

// TestHungDisk holds every sync: appending goes on, waiting for the disk ends
// with its context.
func TestHungDisk(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	release := make(chan struct{})
	st := &faulty{ask: func(op, path string) error {
		if op == "sync" {
			<-release
		}
		return nil
	}}
	l, err := open(k.options(dir), st)
	if err != nil {
		t.Fatal(err)
	}
	var h history
	for i := range 20 {
		seq, err := h.append(l, i)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if err := l.Sync(ctx, seq); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("sync: %v", err)
		}
		cancel()
	}
	close(release)
	mustClose(t, l)
	mustVerify(t, dir, k)
	h.check(t, dir, 0)
}

// TestPowerCut ends a log as a loss of power does, with each page of a segment
// either as it was last synced or as it was last written, and opens it again:
// all that Sync promised is there, and what remains verifies.
func TestPowerCut(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	damaged := 0
	for round := range 25 {
		dir, k := t.TempDir(), newKey(t)
		st := &faulty{}
		o := k.options(dir)
		if round%2 == 0 {
			o.CheckpointInterval = 3 * time.Millisecond
		}
		l, err := open(o, st)
		if err != nil {
			t.Fatal(err)
		}
		var h history
		promised := uint64(0)
		n := 20 + random.IntN(60)
		for i := range n {
			seq, err := h.append(l, i)
			if err != nil {
				t.Fatal(err)
			}
			if random.IntN(20) == 0 {
				if err := l.Sync(context.Background(), seq); err != nil {
					t.Fatal(err)
				}
				promised = seq + 1
			}
		}
		after := t.TempDir()
		if err := powerCut(st, dir, after, random); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)

		l, err = Open(k.options(after))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		mustClose(t, l)
		mustVerify(t, after, k)
		kept := history{map[uint64]string{}}
		for seq, resource := range h.acknowledged {
			if seq < promised {
				kept.acknowledged[seq] = resource
			}
		}
		kept.check(t, after, 0)
		set, err := filepath.Glob(filepath.Join(after, "damaged-*"))
		if err != nil {
			t.Fatal(err)
		}
		damaged += len(set)
	}
	if damaged == 0 {
		t.Error("no round has damaged a whole line")
	}
}

func powerCut(st *faulty, from, to string, random *rand.Rand) error {
	return copyLog(from, to, func(name string, b []byte) []byte {
		if _, ok := parseSegmentName(name); ok {
			st.mu.Lock()
			defer st.mu.Unlock()
			old := append(bytes.Clone(st.durable[filepath.Join(from, name)]), make([]byte, len(b))...)[:len(b)]
			for at := 0; at < len(b); at += 4096 {
				if random.IntN(2) == 0 {
					copy(b[at:min(at+4096, len(b))], old[at:])
				}
			}
		} else if strings.HasPrefix(name, "hashes") && random.IntN(2) == 0 {
			b = b[:random.IntN(len(b)+1)]
		}
		return b
	})
}

// copyLog copies a log in use as a crash would leave it, or as change makes
// it. Checkpoints go first, as what they cover is written before them.
func copyLog(from, to string, change func(name string, b []byte) []byte) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	slices.Reverse(entries) // digits sort before letters
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if change != nil {
			b = change(e.Name(), b)
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// TestRecoveryIsOnRecord leaves a log as a crash in the middle of a line does.
func TestRecoveryIsOnRecord(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	l := mustOpen(t, k.options(dir))
	mustAppend(t, l, sample(0))
	mustAppend(t, l, &Record{Kind: KindSyscall, Phase: PhaseIntent})
	crashed := t.TempDir()
	if err := copyLog(dir, crashed, nil); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	name := filepath.Join(crashed, "00000001.log")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndexByte(b, '\n') + 1
	copy(b[end:], `{"v":1,"seq":2,"ti`)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := mustVerify(t, crashed, k); r.Records != 2 || len(r.Warnings) != 1 {
		t.Errorf("before: %+v", r)
	}
	mustClose(t, mustOpen(t, k.options(crashed)))
	all := collect(t, crashed, Filter{Kind: KindAudit})
	if len(all) != 2 {
		t.Fatalf("on record: %+v", all)
	}
	if r := all[0]; r.Seq != 2 || r.Bytes != 18 || r.Details["rewritten"] != "2" || !strings.Contains(r.Details["cut"], "never acknowledged") {
		t.Errorf("recovery: %+v", r)
	}
	if r := all[1]; r.Intent != Closes(1) || r.Outcome != OutcomeUnknown {
		t.Errorf("orphan: %+v", r)
	}
	if r := mustVerify(t, crashed, k); r.Records != 4 || r.Uncovered != 0 || len(r.Warnings) != 0 {
		t.Errorf("after: %+v", r)
	}
	files, err := os.ReadDir(crashed)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "damaged") || strings.HasSuffix(f.Name(), tempSuffix) || f.Name() == "00000001.log" {
			t.Errorf("%s is left", f.Name())
		}
	}
}

// TestManyOpen leaves more intents open than a checkpoint lists.
func TestManyOpen(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	o := k.options(dir)
	o.CheckpointInterval = time.Millisecond
	l := mustOpen(t, o)
	const n = 3 * maxOpen
	for range n {
		mustAppend(t, l, &Record{Kind: KindCall, Phase: PhaseIntent})
	}
	for i := range uint64(n / 2) {
		mustAppend(t, l, &Record{Kind: KindCall, Phase: PhaseOutcome, Intent: Closes(2 * i), Outcome: OutcomeOK})
	}
	for l.Head().CheckpointSize < n+n/2 {
		time.Sleep(time.Millisecond)
	}
	crashed := t.TempDir()
	if err := copyLog(dir, crashed, nil); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	mustClose(t, mustOpen(t, k.options(crashed)))
	for i, r := range collect(t, crashed, Filter{Kind: KindAudit}) {
		if r.Intent != Closes(uint64(2*i+1)) {
			t.Fatalf("answer %d is to record %d", i, r.Intent-1)
		}
	}
	if r := mustVerify(t, crashed, k); r.Unanswered != 0 || len(r.Warnings) > 0 || r.Records != 2*n {
		t.Errorf("%+v", r)
	}
}

func ExampleRecords() {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	l, err := Open(Options{Dir: dir, Name: "forgeone/example", AllowGenerate: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, decision := range []string{"allowed", "blocked"} {
		if _, err := l.Append(&Record{Kind: KindSyscall, Syscall: "file_open", Decision: decision}); err != nil {
			fmt.Println(err)
		}
	}
	if err := l.Close(); err != nil {
		fmt.Println(err)
	}
	for r, err := range Records(dir, Filter{Decision: "blocked"}) {
		fmt.Println(r.Seq, r.Syscall, r.Decision, err)
	}
	// Output: 1 file_open blocked <nil>
}
