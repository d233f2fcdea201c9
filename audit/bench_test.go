package audit

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// typical is the record of one allowed syscall.
func typical() *Record {
	return &Record{
		Kind: KindSyscall, Subject: "spiffe://acme/reporting", Plugin: "summarise", Container: "c-7f3a", Call: 17,
		Syscall: "file_read", Resources: []string{"file:///data/inbox/a.txt"}, Args: []string{"/data/inbox/a.txt"},
		Decision: "allowed", Rule: "inbox-only", Policy: "9f86d081884c7d65", Score: 0.8, Level: "trusted", Bytes: 4096,
	}
}

// BenchmarkAppend is the log beside what one would have without it: a slog
// line in a file, without proof, and a line with an fsync of its own.
func BenchmarkAppend(b *testing.B) {
	r := typical()
	b.Run("audit", func(b *testing.B) {
		l := mustOpen(b, Options{Dir: b.TempDir(), Key: newKey(b).signer})
		b.ReportAllocs()
		for b.Loop() {
			mustAppend(b, l, r)
		}
		b.StopTimer()
		mustClose(b, l)
	})
	b.Run("audit-callers", func(b *testing.B) {
		l := mustOpen(b, Options{Dir: b.TempDir(), Key: newKey(b).signer})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				mustAppend(b, l, r)
			}
		})
		b.StopTimer()
		mustClose(b, l)
	})
	b.Run("audit-disk-64", func(b *testing.B) {
		l := mustOpen(b, Options{Dir: b.TempDir(), Key: newKey(b).signer, Durability: Disk})
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				mustAppend(b, l, r)
			}
		})
		b.StopTimer()
		mustClose(b, l)
	})
	b.Run("slog", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		log := slog.New(slog.NewJSONHandler(f, nil))
		b.ReportAllocs()
		for b.Loop() {
			log.LogAttrs(context.Background(), slog.LevelInfo, string(r.Kind),
				slog.String("subject", r.Subject), slog.String("plugin", r.Plugin), slog.String("container", r.Container), slog.Uint64("call", r.Call),
				slog.String("syscall", r.Syscall), slog.String("resource", r.Resources[0]), slog.String("arg", r.Args[0]),
				slog.String("decision", r.Decision), slog.String("rule", r.Rule), slog.String("policy", r.Policy),
				slog.Float64("score", r.Score), slog.String("level", r.Level), slog.Uint64("bytes", r.Bytes))
		}
	})
	b.Run("write-fsync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		line := encode(b, r)
		for b.Loop() {
			if _, err := f.Write(line); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	r, s := typical(), new(stamp)
	var line []byte
	for b.Loop() {
		line, _ = appendBody(appendHead(line[:0], s, 1, time.Unix(1, 2), 3, "0123456789abcdef"), r)
	}
	b.SetBytes(int64(len(line)))
}

func BenchmarkVerify(b *testing.B) {
	dir, k := b.TempDir(), newKey(b)
	l := mustOpen(b, Options{Dir: dir, Key: k.signer})
	const n = 100_000
	for range n {
		mustAppend(b, l, typical())
	}
	mustClose(b, l)
	for b.Loop() {
		mustVerify(b, dir, k)
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkOpen opens a log of 10⁶ records that was closed.
func BenchmarkOpen(b *testing.B) {
	o := Options{Dir: b.TempDir(), Key: newKey(b).signer}
	l := mustOpen(b, o)
	for range 1_000_000 {
		mustAppend(b, l, typical())
	}
	mustClose(b, l)
	for b.Loop() {
		mustClose(b, mustOpen(b, o))
	}
}
