package main

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines/bench"
)

// Jobs in, results out: each program under each mode gives its answer here.
func TestBench(t *testing.T) {
	e, err := newEngine()
	if err != nil {
		t.Fatal(err)
	}
	info := e.Info()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	var jobs bytes.Buffer
	var sent []bench.Job
	for _, p := range bench.Programs() {
		for _, m := range bench.Modes {
			job := bench.Job{Program: p, Mode: m, Time: time.Millisecond, Limit: time.Minute}
			sent = append(sent, job)
			if err := json.NewEncoder(&jobs).Encode(job); err != nil {
				t.Fatal(err)
			}
		}
	}
	root := newRoot()
	root.SetArgs([]string{"bench"})
	root.SetIn(&jobs)
	var out bytes.Buffer
	root.SetOut(&out)
	if err := root.ExecuteContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	results := json.NewDecoder(&out)
	for _, job := range sent {
		var r bench.Result
		if err := results.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if job.Mode == bench.Own && !info.Interrupt {
			if r.Failure == nil || r.Failure.Cause != bench.Unsupported {
				t.Errorf("%s %s: %+v of an engine that cannot be interrupted", job.Program.Name, job.Mode, r)
			}
			continue
		}
		if r.Failure != nil || len(r.Samples) == 0 || r.Engine != info.Name {
			t.Errorf("%s %s: %+v, failure %+v", job.Program.Name, job.Mode, r, r.Failure)
		}
	}
}
