package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// testKey is a key for the logs of a test.
type testKey struct{ signer, verifier string }

func newKey(t testing.TB) testKey {
	t.Helper()
	s, v, err := GenerateKey("forgeone/test")
	if err != nil {
		t.Fatal(err)
	}
	return testKey{s, v}
}

// options are such that nothing but the test asks for checkpoints.
func (k testKey) options(dir string) Options {
	return Options{Dir: dir, Key: k.signer, SegmentSize: 2 * MaxLine, CheckpointInterval: time.Hour}
}

func mustOpen(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustAppend(t testing.TB, l *Log, r *Record) uint64 {
	t.Helper()
	seq, err := l.Append(r)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// sample is a plain record that differs for each i.
func sample(i int) *Record {
	return &Record{Kind: KindSyscall, Plugin: "summarise", Subject: "spiffe://acme/reporting", Syscall: "file_read",
		Resources: []string{fmt.Sprintf("file:///data/%d", i)}, Decision: "allowed", Score: 0.8, Rule: "inbox-only"}
}

// mustVerify verifies a log that must be intact.
func mustVerify(t testing.TB, dir string, k testKey) Report {
	t.Helper()
	r, err := Verify(context.Background(), VerifyOptions{Dir: dir, Key: k.verifier})
	if err != nil {
		t.Fatalf("%v\n%+v", err, r)
	}
	return r
}

func collect(t testing.TB, dir string, f Filter) []Record {
	t.Helper()
	var all []Record
	for r, err := range Records(dir, f) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// hostile draws strings that like to break line formats and terminals.
func hostile() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.SampledFrom([]string{"", `"`, `\`, "\n", "\x00", "\x1b[2J", "\u202e", "\U000e0041", "\ufffd", "\xff\xfe", "=1+1", "\u2028", "a\u0301", "😀", "\xed\xa0\x80"}),
	)
}

func anyRecord() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		s := func(name string) string { return hostile().Draw(t, name) }
		r := Record{
			Seq: rapid.Uint64().Draw(t, "seq"), Time: time.Unix(rapid.Int64Range(-1<<33, 1<<37).Draw(t, "sec"), rapid.Int64Range(0, 999999999).Draw(t, "ns")),
			Mono: time.Duration(rapid.Int64().Draw(t, "mono")), Boot: s("boot"),
			Kind: Kind("k" + s("kind")), Phase: Phase(s("phase")), Subject: s("subject"), Plugin: s("plugin"), Container: s("container"),
			Call: rapid.Uint64().Draw(t, "call"), Function: s("function"), Syscall: s("syscall"),
			Resources: rapid.SliceOfN(hostile(), 0, 3).Draw(t, "resources"), Args: rapid.SliceOfN(hostile(), 0, 3).Draw(t, "args"),
			Decision: s("decision"), Effect: s("effect"), Rule: s("rule"), Reason: s("reason"), Policy: s("policy"),
			Score: rapid.Float64().Draw(t, "score"), Level: s("level"), Intent: rapid.Uint64().Draw(t, "intent"),
			Outcome: s("outcome"), Error: s("error"), Duration: time.Duration(rapid.Int64().Draw(t, "duration")),
			Count: rapid.Uint64().Draw(t, "count"), Bytes: rapid.Uint64().Draw(t, "bytes"), Digest: s("digest"), Trace: s("trace"),
			Details: rapid.MapOfN(rapid.String(), hostile(), 0, 3).Draw(t, "details"),
		}
		return r
	})
}

func encode(t rapid.TB, r *Record) []byte {
	line, err := appendBody(appendHead(nil, new(stamp), r.Seq, r.Time, r.Mono, r.Boot), r)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// TestLineRoundTrip holds the law of lines: one line, printable, and decoding
// it gives the record whose line it is.
func TestLineRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord().Draw(t, "record")
		line := encode(t, &r)
		if n := bytes.IndexByte(line, '\n'); n != len(line)-1 {
			t.Fatalf("newline at %d of %d", n, len(line))
		}
		line = line[:len(line)-1]
		for _, c := range string(line) {
			if c < ' ' || c >= 0x80 && hidden(c) || c == 0x7f {
				t.Fatalf("%q stands in %q", c, line)
			}
		}
		var d decoder
		var got Record
		if err := d.decode(line, &got); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		if again := encode(t, &got); !bytes.Equal(again[:len(again)-1], line) {
			t.Fatalf("decoded and encoded again:\n%s\n%s", line, again)
		}
		if got.Seq != r.Seq || !got.Time.Equal(r.Time) || got.Score != r.Score || got.Duration != r.Duration || len(got.Details) != len(r.Details) {
			t.Fatalf("got %+v, want %+v", got, r)
		}
		if want := strings.ToValidUTF8(r.Reason, "\ufffd"); strings.ReplaceAll(got.Reason, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Fatalf("reason %q became %q", r.Reason, got.Reason)
		}
	})
}

func TestLineStrict(t *testing.T) {
	good := `{"v":1,"seq":7,"time":"2026-01-02T03:04:05.000000006Z","mono_ns":1,"boot":"b","kind":"syscall","args":["a"],"score":0.5,"details":{"a":"1","b":"2"}}`
	var d decoder
	var r Record
	if err := d.decode([]byte(good), &r); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new string }{
		{"other version", `"v":1`, `"v":2`},
		{"space", `"seq":7`, `"seq": 7`},
		{"leading zero", `"seq":7`, `"seq":07`},
		{"repeated field", `"boot":"b"`, `"boot":"b","boot":"b"`},
		{"unknown field", `"boot":"b"`, `"boot":"b","boat":"b"`},
		{"wrong order", `"mono_ns":1,"boot":"b"`, `"boot":"b","mono_ns":1`},
		{"empty field", `"boot":"b"`, `"boot":"b","phase":""`},
		{"needless escape", `"a"`, `"\u0061"`},
		{"raw control", `"a"`, "\"\x07\""},
		{"invalid UTF-8", `"a"`, "\"\xff\""},
		{"lone surrogate", `"a"`, `"\ud800"`},
		{"other spelling of a number", `0.5`, `5e-1`},
		{"no kind", `"kind":"syscall",`, ``},
		{"keys out of order", `"a":"1","b":"2"`, `"b":"2","a":"1"`},
		{"repeated key", `"b":"2"`, `"a":"1"`},
		{"day that is none", `01-02`, `02-30`},
		{"trailing bytes", `"b":"2"}}`, `"b":"2"}} `},
		{"cut", `"2"}}`, `"2"`},
		{"NaN", `0.5`, `NaN`},
	} {
		line := strings.Replace(good, c.old, c.new, 1)
		if line == good {
			t.Fatalf("%s: nothing replaced", c.name)
		}
		if err := d.decode([]byte(line), &r); err == nil {
			t.Errorf("%s: accepted %s", c.name, line)
		}
	}
}

func TestScoreIsShortest(t *testing.T) {
	for n := range 20001 {
		f := float64(n) / 10000
		if got, want := string(appendScore(nil, f)), strconv.FormatFloat(f, 'g', -1, 64); got != want {
			t.Fatalf("%v is written %s", want, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		if got, want := string(appendScore(nil, f)), strconv.FormatFloat(f, 'g', -1, 64); got != want {
			t.Fatalf("%v is written %s", want, got)
		}
	})
}

func TestAppendRefuses(t *testing.T) {
	l := mustOpen(t, newKey(t).options(t.TempDir()))
	defer mustClose(t, l)
	for name, r := range map[string]*Record{
		"no kind":        {},
		"not a number":   {Kind: KindCall, Score: math.NaN()},
		"infinite":       {Kind: KindCall, Score: math.Inf(1)},
		"too large":      {Kind: KindCall, Reason: strings.Repeat("x", MaxLine)},
		"key not UTF-8":  {Kind: KindCall, Details: map[string]string{"\xff": ""}},
		"large escaped":  {Kind: KindCall, Reason: strings.Repeat("\x01", MaxLine/5)},
		"many arguments": {Kind: KindCall, Args: slices.Repeat([]string{"abc"}, MaxLine/4)},
	} {
		if _, err := l.Append(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if n := l.Head().Records; n != 0 {
		t.Errorf("%d records after refusals alone", n)
	}
}

func TestTreeIsRFC6962(t *testing.T) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		var hs []tlog.Hash
		for _, i := range at {
			hs = append(hs, stored[i])
		}
		return hs, nil
	})
	var tr tree
	levels := map[int][]tlog.Hash{}
	for i := range int64(70000) {
		line := fmt.Appendf(nil, "line %d", i)
		hs, err := tlog.StoredHashes(i, line, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hs...)
		tr.add(tlog.RecordHash(line), func(level int, h tlog.Hash) { levels[level] = append(levels[level], h) })
		if i%977 != 0 && i != 255 && i != 65535 {
			continue
		}
		want, err := tlog.TreeHash(i+1, reader)
		if err != nil {
			t.Fatal(err)
		}
		if got := tr.root(); got != want {
			t.Fatalf("root of %d leaves is %v, want %v", i+1, got, want)
		}
	}
	for level, hs := range levels {
		for n, h := range hs {
			if want := stored[tlog.StoredHashIndex(tileHeight*level, int64(n))]; h != want {
				t.Fatalf("level %d hash %d differs", level, n)
			}
		}
	}
}

func TestReopen(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	n := 0
	for range 6 {
		l := mustOpen(t, k.options(dir))
		for range 700 {
			if seq := mustAppend(t, l, sample(n)); seq != uint64(n) {
				t.Fatalf("record %d is numbered %d", n, seq)
			}
			n++
		}
		head := l.Head()
		if head.Records != uint64(n) || head.LastSeq != uint64(n-1) || head.Healthy != nil {
			t.Fatalf("head %+v after %d records", head, n)
		}
		mustClose(t, l)
		r := mustVerify(t, dir, k)
		if r.Records != uint64(n) || r.Covered != uint64(n) || r.Uncovered != 0 || r.Root != head.Root || len(r.Warnings) != 0 {
			t.Fatalf("after %d records: %+v", n, r)
		}
	}
	if _, err := Verify(context.Background(), VerifyOptions{Dir: dir}); err != nil {
		t.Errorf("with the key in the directory: %v", err)
	}
	names, err := listSegments(dir)
	if err != nil || len(names) < 3 {
		t.Fatalf("segments %v, %v: the test should span several", names, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name.String()))
		if err != nil || len(b) == 0 || b[len(b)-1] != '\n' {
			t.Errorf("%s does not end with its lines: %v", name, err)
		}
	}
	for i, r := range collect(t, dir, Filter{}) {
		if r.Seq != uint64(i) || r.Resources[0] != sample(i).Resources[0] {
			t.Fatalf("record %d is %+v", i, r)
		}
	}
}

// TestRebuild takes the stored hashes away, or damages them: the log opens all
// the same, because they follow from the lines.
func TestRebuild(t *testing.T) {
	for _, damage := range []func(string) error{
		os.Remove,
		func(p string) error { return os.Truncate(p, 100) },
		func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte{7}, 1<<16), 0o600) },
	} {
		dir, k := t.TempDir(), newKey(t)
		l := mustOpen(t, k.options(dir))
		for i := range 900 {
			mustAppend(t, l, sample(i))
		}
		root := l.Head().Root
		mustClose(t, l)
		for level := range 2 {
			if err := damage(hashesPath(dir, level)); err != nil {
				t.Fatal(err)
			}
		}
		if r := mustVerify(t, dir, k); r.Root != root {
			t.Fatalf("root %s, want %s", r.Root, root)
		}
		l = mustOpen(t, k.options(dir))
		if h := l.Head(); h.Root != root {
			t.Errorf("root %s after rebuilding, want %s", h.Root, root)
		}
		mustAppend(t, l, sample(0))
		mustClose(t, l)
		if r := mustVerify(t, dir, k); len(r.Warnings) > 0 {
			t.Errorf("stored hashes are wrong after rebuilding: %v", r.Warnings)
		}
	}
}

func TestLock(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	l := mustOpen(t, k.options(dir))
	_, err := Open(k.options(dir))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("a second writer got %v", err)
	}
	mustClose(t, l)
	if err := l.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := l.Append(sample(0)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if err := l.Head().Healthy; !errors.Is(err, ErrClosed) {
		t.Errorf("health after close: %v", err)
	}
	mustClose(t, mustOpen(t, k.options(dir)))
}

func TestKeys(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("without a key: %v", err)
	}
	o := k.options(dir)
	o.Name = "forgeone/other"
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "forgeone/other") {
		t.Errorf("with a key of another name: %v", err)
	}
	o.Key = "secret"
	if _, err := Open(o); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("with no key's text: %v", err)
	}
	mustClose(t, mustOpen(t, k.options(dir)))
	if _, err := Open(newKey(t).options(dir)); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("with another key: %v", err)
	}

	own := Options{Dir: t.TempDir(), Name: "forgeone/own", AllowGenerate: true}
	for range 2 {
		l := mustOpen(t, own)
		mustAppend(t, l, sample(0))
		mustClose(t, l)
	}
	info, err := os.Stat(filepath.Join(own.Dir, privateKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("own key: %v, %v", info.Mode(), err)
	}
	if r, err := Verify(context.Background(), VerifyOptions{Dir: own.Dir}); err != nil || r.Covered != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := os.Remove(filepath.Join(own.Dir, privateKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(own); err == nil || !strings.Contains(err.Error(), "not there") {
		t.Errorf("with its own key gone: %v", err)
	}
	if _, _, err := GenerateKey("a b"); err == nil {
		t.Error("a name with a space was accepted")
	}
}

func TestConcurrent(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	o := k.options(dir)
	o.CheckpointEvery, o.CheckpointInterval = 100, time.Millisecond
	l := mustOpen(t, o)
	const writers, each = 8, 400
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { // a live log verifies at any moment
		for {
			select {
			case <-stop:
				return
			default:
			}
			if r, err := Verify(context.Background(), VerifyOptions{Dir: dir, Key: k.verifier}); err != nil {
				t.Errorf("%v %+v", err, r)
				return
			}
			l.Head()
		}
	})
	seen := make([][]uint64, writers)
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				r := sample(i)
				r.Phase = PhaseIntent
				seq, err := l.Append(r)
				if err != nil {
					t.Error(err)
					return
				}
				if i%50 == 0 {
					if err := l.Sync(context.Background(), seq); err != nil {
						t.Error(err)
					}
				}
				if _, err := l.Append(&Record{Kind: KindSyscall, Phase: PhaseOutcome, Intent: Closes(seq), Outcome: OutcomeOK}); err != nil {
					t.Error(err)
				}
				seen[w] = append(seen[w], seq)
			}
		})
	}
	wg.Wait()
	close(stop)
	reader.Wait()
	mustClose(t, l)
	all := slices.Concat(seen...)
	slices.Sort(all)
	if len(slices.Compact(all)) != writers*each {
		t.Error("two records got one number")
	}
	if r := mustVerify(t, dir, k); r.Records != 2*writers*each || r.Unanswered != 0 || len(r.Warnings) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestCloseAnswersWhatIsOpen(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	l := mustOpen(t, k.options(dir))
	mustAppend(t, l, &Record{Kind: KindCall, Phase: PhaseIntent})
	mustAppend(t, l, &Record{Kind: KindSyscall, Phase: PhaseOpen})
	mustClose(t, l)
	all := collect(t, dir, Filter{Kind: KindAudit})
	if len(all) != 2 || all[0].Intent != 1 || all[1].Intent != 2 || all[0].Outcome != OutcomeUnknown {
		t.Errorf("%+v", all)
	}
	if r := mustVerify(t, dir, k); r.Unanswered != 0 {
		t.Errorf("%+v", r)
	}
}

func TestClockSetBack(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	o := k.options(dir)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o.Clock = func() time.Time { return now }
	l := mustOpen(t, o)
	mustAppend(t, l, sample(0))
	now = now.Add(-time.Minute)
	mustAppend(t, l, sample(1))
	mustClose(t, l)
	r := mustVerify(t, dir, k)
	if len(r.Warnings) == 0 || !strings.Contains(strings.Join(r.Warnings, "\n"), "record 1: the clock goes back by 1m0s") {
		t.Errorf("warnings %q", r.Warnings)
	}
}

func TestExport(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	l := mustOpen(t, k.options(dir))
	mustAppend(t, l, sample(0))
	mustAppend(t, l, &Record{Kind: KindSyscall, Plugin: "=cmd|' /C calc'!A0", Subject: " @x", Reason: "\x1b[2J,\"q\"\n", Decision: "blocked",
		Args: []string{"=1"}, Details: map[string]string{"k": "-1"}})
	mustClose(t, l)
	export := func(format Format, f Filter) string {
		t.Helper()
		var b bytes.Buffer
		if err := Export(context.Background(), &b, dir, format, f); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := export(JSONL, Filter{}); strings.Count(got, "\n") != 2 || got != export(JSONL, Filter{}) {
		t.Errorf("jsonl:\n%s", got)
	}
	if got := export(JSONL, Filter{Decision: "blocked"}); strings.Count(got, "\n") != 1 || !strings.Contains(got, "calc") {
		t.Errorf("filtered:\n%s", got)
	}
	for _, f := range []Filter{{From: time.Now().Add(time.Hour)}, {To: time.Unix(0, 0)}, {Plugin: "x"}, {Subject: "x"}, {Kind: KindCall}, {Decision: "x"}} {
		if got := export(JSONL, f); got != "" {
			t.Errorf("%+v selects %s", f, got)
		}
	}
	got := export(CSV, Filter{})
	if strings.ContainsAny(got, "\x1b\r") || strings.Count(got, "\n") != 3 {
		t.Errorf("csv:\n%q", got)
	}
	for _, want := range []string{`,'=cmd|' /C calc'!A0,`, `' @x`, `\u001b[2J`, `"[""=1""]"`} {
		if !strings.Contains(got, want) {
			t.Errorf("csv has no %s:\n%s", want, got)
		}
	}
	for _, f := range []Format{"ocsf", "cef", "pdf"} {
		if err := Export(context.Background(), new(bytes.Buffer), dir, f, Filter{}); err == nil || !strings.Contains(err.Error(), string(f)) {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	l := mustOpen(t, Options{Dir: t.TempDir(), Key: newKey(t).signer, CheckpointInterval: time.Hour})
	defer mustClose(t, l)
	r := sample(1)
	if n := testing.AllocsPerRun(1000, func() { mustAppend(t, l, r) }); n > 0.5 && !raceEnabled {
		t.Errorf("%v allocations a record", n)
	}
}

// TestReadWhileWritten gives the reader a line of which a part was not there
// yet when it was read: it looks again before it judges.
func TestReadWhileWritten(t *testing.T) {
	dir := t.TempDir()
	first, second := encode(t, &Record{Kind: KindCall}), encode(t, &Record{Kind: KindCall, Seq: 1})
	name := filepath.Join(dir, "00000001.log")
	if err := os.WriteFile(name, append(slices.Concat(first, second), 0, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, missing := range []struct{ from, end int }{{10, 20}, {10, len(second)}, {len(second) - 1, len(second)}} {
		lines, err := openLines(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer lines.close()
		if _, err := lines.next(); err != nil {
			t.Fatal(err)
		}
		clear(lines.buf[lines.r+missing.from : lines.r+missing.end])
		if line, err := lines.next(); err != nil || !bytes.Equal(line, second[:len(second)-1]) {
			t.Errorf("bytes %d to %d missing: read %q, %v", missing.from, missing.end, line, err)
		}
	}
}

func TestDiskDurability(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	st := &faulty{}
	o := k.options(dir)
	o.Durability = Disk
	l, err := open(o, st)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := sample(i)
			if _, err := l.Append(r); err != nil {
				t.Error(err)
				return
			}
			st.mu.Lock()
			defer st.mu.Unlock()
			if !bytes.Contains(st.durable[filepath.Join(dir, "00000001.log")], []byte(r.Resources[0])) {
				t.Errorf("%s was acknowledged before it was synced", r.Resources[0])
			}
		})
	}
	wg.Wait()
	if err := l.Sync(context.Background(), 99); err == nil {
		t.Error("a record that does not exist was waited for")
	}
	mustClose(t, l)
}
