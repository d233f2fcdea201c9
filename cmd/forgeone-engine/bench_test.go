package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines/bench"
)

// A job in, what it took out: each program under each mode gives its answer here.
func TestBench(t *testing.T) {
	e, err := newEngine()
	if err != nil {
		t.Fatal(err)
	}
	info := e.Info()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range bench.Programs() {
		for _, m := range bench.Modes {
			var in, out bytes.Buffer
			for _, v := range []any{bench.Job{Program: p, Mode: m, Limit: time.Minute}, 1, 2} {
				if err := json.NewEncoder(&in).Encode(v); err != nil {
					t.Fatal(err)
				}
			}
			root := newRoot()
			root.SetArgs([]string{"bench"})
			root.SetIn(&in)
			root.SetOut(&out)
			if err := root.ExecuteContext(context.Background()); err != nil {
				t.Fatal(err)
			}
			type reply struct {
				About   bench.About
				NS      int64
				Failure *bench.Failure
			}
			var replies []reply
			for answers := json.NewDecoder(&out); ; {
				var r reply
				if err := answers.Decode(&r); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				replies = append(replies, r)
			}
			if m == bench.Own && !info.Interrupt {
				if len(replies) != 1 || replies[0].Failure == nil || replies[0].Failure.Cause != bench.Unsupported {
					t.Errorf("%s %s: %+v of an engine that cannot be interrupted", p.Name, m, replies)
				}
				continue
			}
			if len(replies) != 3 || replies[0].About.Engine != info.Name || replies[1].NS <= 0 || replies[2].Failure != nil {
				t.Errorf("%s %s: %+v", p.Name, m, replies)
			}
		}
	}
}
