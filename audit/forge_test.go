package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// covered makes a log of n records with a checkpoint after each every records
// and at the end, in one segment, and returns its lines.
func covered(t testing.TB, dir string, k testKey, n, every int) [][]byte {
	t.Helper()
	for i := 0; i < n; i += every {
		o := k.options(dir)
		o.SegmentSize = 1 << 20
		l := mustOpen(t, o)
		for j := i; j < min(i+every, n); j++ {
			mustAppend(t, l, sample(j))
		}
		mustClose(t, l)
	}
	b, err := os.ReadFile(filepath.Join(dir, "00000001.log"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	if len(lines) != n+1 {
		t.Fatalf("%d lines, want %d", len(lines)-1, n)
	}
	return lines[:n]
}

// badIn verifies a log that must not be intact.
func badIn(t testing.TB, dir string, k testKey) *BadRecord {
	t.Helper()
	r, err := Verify(context.Background(), VerifyOptions{Dir: dir, Key: k.verifier})
	var bad *BadRecord
	if !errors.Is(err, ErrTampered) || !errors.As(err, &bad) || r.FirstBad != bad {
		return nil
	}
	return bad
}

// TestEveryBitFlip flips every bit of a covered log: each is found, and named
// by its record and its byte offset.
func TestEveryBitFlip(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	for _, n := range []int{2, 1} { // two checkpoints
		l := mustOpen(t, k.options(dir))
		for range n {
			mustAppend(t, l, &Record{Kind: KindCall})
		}
		mustClose(t, l)
	}
	name := filepath.Join(dir, "00000001.log")
	log, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seq, start := 0, 0
	for i := range log {
		for bit := range 8 {
			if _, err := f.WriteAt([]byte{log[i] ^ 1<<bit}, int64(i)); err != nil {
				t.Fatal(err)
			}
			bad := badIn(t, dir, k)
			if bad == nil || bad.Seq != uint64(seq) || bad.Offset != int64(start) || bad.Segment != "00000001.log" {
				t.Fatalf("bit %d of byte %d, in record %d at byte %d: %v", bit, i, seq, start, bad)
			}
		}
		if _, err := f.WriteAt(log[i:i+1], int64(i)); err != nil {
			t.Fatal(err)
		}
		if log[i] == '\n' {
			seq, start = seq+1, i+1
		}
	}
	mustVerify(t, dir, k)
}

func TestCheckpointBitFlip(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	covered(t, dir, k, 4, 2)
	name := filepath.Join(dir, checkpointsFile)
	notes, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range notes {
		for bit := range 8 {
			if _, err := f.WriteAt([]byte{notes[i] ^ 1<<bit}, int64(i)); err != nil {
				t.Fatal(err)
			}
			r, err := Verify(context.Background(), VerifyOptions{Dir: dir, Key: k.verifier})
			if err == nil {
				t.Fatalf("bit %d of byte %d: %+v", bit, i, r)
			}
		}
		if _, err := f.WriteAt(notes[i:i+1], int64(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHashFlip damages stored hashes alone: a warning, for the log is intact.
func TestHashFlip(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	covered(t, dir, k, 6, 2)
	name := hashesPath(dir, 0)
	b, err := os.ReadFile(name)
	if err != nil || len(b) != 6*32 {
		t.Fatal(len(b), err)
	}
	for i := range b {
		damaged := bytes.Clone(b)
		damaged[i] ^= 1
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := mustVerify(t, dir, k); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], fmt.Sprintf("record %d ", i/32)) {
			t.Fatalf("byte %d: %q", i, r.Warnings)
		}
	}
}

// TestForgery makes the changes that someone with the directory, but without
// the key, would make.
func TestForgery(t *testing.T) {
	const n, every = 600, 100
	base, k := t.TempDir(), newKey(t)
	lines := covered(t, base, k, n, every)
	other := t.TempDir()
	foreign := covered(t, other, k, n, every)
	join := func(parts ...[][]byte) []byte {
		var b []byte
		for _, p := range parts {
			b = append(b, bytes.Join(p, nil)...)
		}
		return b
	}
	renumber := func(line []byte, seq int) []byte {
		_, rest, _ := bytes.Cut(line, []byte(`,"time"`))
		return append(fmt.Appendf(nil, `{"v":1,"seq":%d,"time"`, seq), rest...)
	}
	shifted := make([][]byte, 0, n)
	for i := 301; i < n; i++ {
		shifted = append(shifted, renumber(lines[i], i-1))
	}
	swapped := append([][]byte{}, lines...)
	swapped[42], swapped[43] = renumber(lines[43], 42), renumber(lines[42], 43)
	changed := bytes.Replace(lines[555], []byte("allowed"), []byte("blocked"), 1)

	for _, c := range []struct {
		name string
		log  []byte
		seq  uint64
		do   func(dir string) error // besides
	}{
		{"drop", join(lines[:300], lines[301:]), 300, nil},
		{"drop and renumber", join(lines[:300], shifted), 300, nil},
		{"duplicate", join(lines[:301], lines[300:]), 301, nil},
		{"swap", join(lines[:42], lines[43:44], lines[42:43], lines[44:]), 42, nil},
		{"swap and renumber", join(swapped), 42, nil},
		{"change", join(lines[:555], [][]byte{changed}, lines[556:]), 555, nil},
		{"splice", join(lines[:200], foreign[200:300], lines[300:]), 200, nil},
		{"other log", join(foreign), 0, nil},
		{"cut tail", join(lines[:599]), 599, nil},
		{"cut at a checkpoint", join(lines[:500]), 500, nil},
		{"empty", nil, 0, nil},
		{"cut in a line", join(lines)[:len(join(lines))-3], 599, nil},
		{"zero for a line", append(append(join(lines[:77]), 0), join(lines[77:])[1:]...), 77, nil},
		{"rehash", join(lines[:555], [][]byte{changed}, lines[556:]), 500, func(dir string) error {
			return rehash(dir)
		}},
		{"no hashes", join(lines[:555], [][]byte{changed}, lines[556:]), 500, func(dir string) error {
			return os.Remove(hashesPath(dir, 0))
		}},
		{"two changes", join(lines[:555], [][]byte{changed}, [][]byte{[]byte("{}\n")}, lines[557:]), 555, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "00000001.log"), c.log, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.do != nil {
				if err := c.do(dir); err != nil {
					t.Fatal(err)
				}
			}
			bad := badIn(t, dir, k)
			if bad == nil || bad.Seq != c.seq {
				t.Fatalf("found %v, want record %d", bad, c.seq)
			}
			if l, err := Open(k.options(dir)); err == nil {
				mustClose(t, l)
				if badIn(t, dir, k) == nil {
					t.Error("opening the log has hidden the forgery")
				}
			}
		})
	}

	t.Run("old checkpoints", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, checkpointsFile)
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, append(b, b[:len(b)/2]...), 0o600); err != nil {
			t.Fatal(err)
		}
		if bad := badIn(t, dir, k); bad == nil || bad.Segment != checkpointsFile || bad.Offset != int64(len(b)) {
			t.Errorf("found %v", bad)
		}
	})
	t.Run("other key", func(t *testing.T) {
		dir, mallory := t.TempDir(), newKey(t)
		covered(t, dir, mallory, 5, 5)
		if bad := badIn(t, dir, k); bad == nil || bad.Seq != 0 {
			t.Errorf("found %v", bad)
		}
	})
}

// rehash makes the stored leaf hashes fit the lines, as a forger would.
func rehash(dir string) error {
	var b []byte
	for e, err := range read(dir, Filter{}) {
		if err != nil {
			return err
		}
		h := tlog.RecordHash(e.line)
		b = append(b, h[:]...)
	}
	return os.WriteFile(hashesPath(dir, 0), b, 0o600)
}

// TestUncoveredTail says what verification can not: after the last checkpoint
// a cut is not seen, and the report counts what is at risk.
func TestUncoveredTail(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	l := mustOpen(t, k.options(dir))
	for i := range 10 {
		mustAppend(t, l, sample(i))
	}
	if r := mustVerify(t, dir, k); r.Records != 10 || r.Covered != 0 || r.Uncovered != 10 {
		t.Errorf("%+v", r)
	}
	mustClose(t, l)
	if r := mustVerify(t, dir, k); r.Covered != 10 || r.Uncovered != 0 {
		t.Errorf("%+v", r)
	}
}

// TestNoFalseAlarm verifies logs of many shapes.
func TestNoFalseAlarm(t *testing.T) {
	k := newKey(t)
	random := rand.New(rand.NewPCG(1, 2))
	for range 12 {
		dir := t.TempDir()
		for range 1 + random.IntN(3) {
			o := k.options(dir)
			o.CheckpointEvery, o.CheckpointInterval = 1+random.Uint64N(300), time.Duration(1+random.IntN(20))*time.Millisecond
			l := mustOpen(t, o)
			for i := range random.IntN(900) {
				r := sample(i)
				r.Reason = strings.Repeat("x", random.IntN(400))
				mustAppend(t, l, r)
			}
			mustClose(t, l)
			if r := mustVerify(t, dir, k); r.Uncovered != 0 || len(r.Warnings) > 0 {
				t.Fatalf("%+v", r)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := sample(3)
	r.Details = map[string]string{"a": "\x1b", "b": "\u202e"}
	line := encode(f, r)
	f.Add(line[:len(line)-1])
	f.Add([]byte(`{"v":1,"seq":7,"time":"2026-01-02T03:04:05.000000006Z","mono_ns":1,"boot":"b","kind":"syscall","args":["a"]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var d decoder
		var r Record
		if d.decode(line, &r) != nil {
			return
		}
		b, err := appendBody(appendHead(nil, new(stamp), r.Seq, r.Time, r.Mono, r.Boot), &r)
		if err != nil || !bytes.Equal(b[:len(b)-1], line) {
			t.Fatalf("%q was accepted and is written %q, %v", line, b, err)
		}
	})
}

// FuzzVerify gives the verifier any lines and checkpoints: it may find what it
// likes, but only what was signed may count as covered.
func FuzzVerify(f *testing.F) {
	dir, k := f.TempDir(), newKey(f)
	lines := bytes.Join(covered(f, dir, k, 4, 2), nil)
	notes, err := os.ReadFile(filepath.Join(dir, checkpointsFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(lines, notes)
	f.Add(lines[:100], notes[:100])
	f.Fuzz(func(t *testing.T, log, checkpoints []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"00000001.log": log, checkpointsFile: checkpoints} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Verify(context.Background(), VerifyOptions{Dir: dir, Key: k.verifier})
		if err == nil && r.Covered > 0 && !bytes.HasPrefix(log, lines[:bytes.IndexByte(lines, '\n')]) {
			t.Fatalf("%+v of lines that nobody signed: %q", r, log)
		}
	})
}
