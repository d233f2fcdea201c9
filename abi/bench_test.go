package abi

import (
	"context"
	"testing"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/zta"
)

// BenchmarkGate is the gate alone: the log is in memory and forgets.
func BenchmarkGate(b *testing.B) {
	w := newWorld(b, zta.Enforce, everything, allowAll)
	w.gate.log = nowhere{}
	b.Run("folded", func(b *testing.B) {
		c := w.begin(b)
		args := []string{"wall"}
		b.ReportAllocs()
		for b.Loop() {
			if res := c.Syscall(c.Context(), "time_get", args, 0, nil); res.Status != Success {
				b.Fatal(res)
			}
		}
	})
	b.Run("recorded", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if res := w.do("file_write", "/data/x"); res.Status != Success {
				b.Fatal(res)
			}
		}
	})
}

type nowhere struct{}

func (nowhere) Append(*audit.Record) (uint64, error) { return 0, nil }
func (nowhere) Sync(context.Context, uint64) error   { return nil }
