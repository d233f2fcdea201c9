package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// Where is where an engine runs.
type Where string

// The places.
const (
	InProcess Where = "in-process" // in the process that calls it
	InWorker  Where = "worker"     // in a process of its own, behind a socket
)

// Places are all places, the plainest first.
var Places = []Where{InProcess, InWorker}

// Target is an engine in a place.
type Target struct {
	Engine  string
	Where   Where
	Runner  Runner // nil if the engine is missing
	Missing string // why, if it is
}

// Suite is what a run measures. Every program is done under every mode on every
// target; those that are compared are done one after the other, so that what
// else the machine does falls on all alike.
type Suite struct {
	Targets  []Target // of the first engine first: ratios are to it
	Programs []Program
	Absent   []Absent
	Modes    []Mode
	Time     time.Duration // for each job
	Limit    time.Duration // of each job
}

// Absent is a program that could not be had.
type Absent struct {
	Program string `json:"program"`
	Reason  string `json:"reason"`
}

// Progress is what a run is about to do.
type Progress struct {
	Job     int // from 0
	Jobs    int
	Program string
	Column  Column
}

// step is one job of a run.
type step struct {
	program Program
	mode    Mode
	target  Target
}

// steps are the jobs of a run, in order.
func (s Suite) steps() []step {
	var steps []step
	for _, p := range s.Programs {
		for _, where := range Places {
			for _, m := range s.Modes {
				for _, t := range s.Targets {
					// A worker compiles as it would in process, and meters always.
					if t.Where != where || where == InWorker && (p.Kind == Compile || m == Own) {
						continue
					}
					steps = append(steps, step{p, m, t})
				}
			}
		}
	}
	return steps
}

// Run does the suite, and tells observe of every job before it begins. When the
// context is done, it ends soon, with what there is.
func (s Suite) Run(ctx context.Context, observe func(Progress)) *Report {
	r := &Report{
		Schema: Schema, Began: time.Now().UTC().Truncate(time.Second), Machine: machine(), Complete: true,
		Time: s.Time, Limit: s.Limit, Modes: s.Modes, Absent: s.Absent,
	}
	for _, t := range s.Targets {
		r.Engines = append(r.Engines, EngineReport{Name: t.Engine, Where: t.Where, Missing: t.Missing})
	}
	for _, p := range s.Programs {
		sum := sha256.Sum256(p.Wasm)
		r.Programs = append(r.Programs, ProgramReport{Name: p.Name, Work: p.Work, Kind: p.Kind, Size: len(p.Wasm), SHA256: hex.EncodeToString(sum[:])})
	}
	steps := s.steps()
	for i, st := range steps {
		if ctx.Err() != nil {
			r.Complete = false
			break
		}
		c := Cell{Program: st.program.Name, Column: Column{st.target.Engine, st.target.Where, st.mode}}
		observe(Progress{Job: i, Jobs: len(steps), Program: c.Program, Column: c.Column})
		s.cell(ctx, st, &c, r)
		r.Cells = append(r.Cells, c)
	}
	r.compare()
	return r
}

// cell does one job.
func (s Suite) cell(ctx context.Context, st step, c *Cell, r *Report) {
	if st.target.Runner == nil {
		c.Failure = &Failure{Missing, st.target.Missing}
		return
	}
	res := st.target.Runner.Run(ctx, Job{Program: st.program, Mode: st.mode, Time: s.Time, Limit: s.Limit})
	c.Answer, c.Calls, c.Samples, c.Failure = res.Answer, res.Calls, res.Samples, res.Failure
	if i := slices.IndexFunc(r.Engines, func(e EngineReport) bool { return e.Name == st.target.Engine && e.Where == st.target.Where }); res.Version != "" {
		r.Engines[i].Version = res.Version
	}
	switch {
	case c.Failure != nil:
		r.Complete = r.Complete && c.Failure.Cause != Interrupted
	case res.Engine != st.target.Engine:
		c.fail(Failed, fmt.Sprintf("the engine that answers to %s says it is %q", st.target.Engine, res.Engine))
	default:
		// Where the right answer is not known, it is the first.
		same := func(o Cell) bool { return o.Program == c.Program && o.Failure == nil }
		if i := slices.IndexFunc(r.Cells, same); i >= 0 && r.Cells[i].Answer != c.Answer {
			c.fail(Wrong, fmt.Sprintf("the answer is %s, and that of %s is %s", c.Answer, r.Cells[i].Column, r.Cells[i].Answer))
			return
		}
		stats := Summarise(c.Samples)
		c.Stats = &stats
	}
}

func (c *Cell) fail(cause Cause, reason string) {
	c.Calls, c.Samples, c.Failure = 0, nil, &Failure{cause, reason}
}
