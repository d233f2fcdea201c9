package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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

// Suite is what a run measures: every program, under every mode, on every
// target.
type Suite struct {
	Targets  []Target // of the first engine first: ratios are to it
	Programs []Program
	Absent   []Absent
	Modes    []Mode
	Time     time.Duration // for each figure
	Limit    time.Duration // for getting each ready, and for each sample
}

// Absent is a program that could not be had.
type Absent struct {
	Program string `json:"program"`
	Reason  string `json:"reason"`
}

// Progress is what a run is about to do.
type Progress struct {
	Program  string
	Number   int // of the program, from 1
	Programs int
	Doing    string // what with it
}

// A sample is short, so that many are over before the system gives the processor
// to somebody else; when a program is too slow for that, fewer are taken.
const (
	sampleTime = 2500 * time.Microsecond
	maxSamples = 200
	fewSamples = 25 // to aim at when there is little time
	minSamples = 5  // however long they take; but at least one when half the limit is over
)

// rounds are how many samples are taken of each figure, at most.
func (s Suite) rounds() int {
	return int(max(fewSamples, min(maxSamples, s.Time*4/5/sampleTime)))
}

// Run measures, and tells observe before each thing it does. When the context
// is done, it ends soon, with what there is.
func (s Suite) Run(ctx context.Context, observe func(Progress)) *Report {
	r := &Report{
		Schema: Schema, Began: time.Now().UTC().Truncate(time.Second), Machine: machine(), Complete: true,
		Time: s.Time, Limit: s.Limit, Modes: s.Modes, Absent: s.Absent,
	}
	for _, t := range s.Targets {
		r.Engines = append(r.Engines, EngineReport{Name: t.Engine, Where: t.Where, Missing: t.Missing})
	}
	for i, p := range s.Programs {
		sum := sha256.Sum256(p.Wasm)
		r.Programs = append(r.Programs, ProgramReport{Name: p.Name, Work: p.Work, Kind: p.Kind, Size: len(p.Wasm), SHA256: hex.EncodeToString(sum[:])})
		r.Cells = append(r.Cells, s.program(ctx, p, r, func(doing string) {
			observe(Progress{Program: p.Name, Number: i + 1, Programs: len(s.Programs), Doing: doing})
		})...)
	}
	r.compare()
	return r
}

// run is a figure in the making.
type run struct {
	Cell
	target  Target
	session Session // nil if there is none, and then there is a failure
	spent   time.Duration
}

// fail ends it without a figure.
func (m *run) fail(err error, limit time.Duration) {
	if m.session != nil {
		err = errors.Join(err, m.session.Close())
	}
	m.session, m.Calls, m.Samples, m.Failure = nil, 0, nil, failure(err, limit)
}

// program measures a program: samples are taken in turn of all that is
// compared, so that what else the machine does falls on all alike.
func (s Suite) program(ctx context.Context, p Program, r *Report, doing func(string)) []Cell {
	runs := s.runs(p)
	for i, m := range runs {
		doing(fmt.Sprintf("%s (%d of %d)", m.Column, i+1, len(runs)))
		if err := s.prepare(ctx, p, m, runs[:i], r); err != nil {
			m.fail(err, s.Limit)
		}
	}
	rounds := s.rounds()
	for round := range rounds {
		doing(fmt.Sprintf("round %d of %d", round+1, rounds))
		for _, m := range runs {
			enough := round >= minSamples && m.spent >= s.Time || round > 0 && m.spent >= s.Limit/2
			if m.session == nil || len(m.Samples) < round || enough {
				continue
			}
			took, err := m.session.Time(ctx, m.Calls)
			switch {
			case err == nil:
				m.spent += took
				m.Samples = append(m.Samples, float64(took)/float64(m.Calls)/float64(max(p.Ops, 1)))
			case ctx.Err() == nil || round < minSamples:
				m.fail(err, s.Limit)
			}
		}
	}
	cells := make([]Cell, len(runs))
	for i, m := range runs {
		if m.session != nil {
			if err := m.session.Close(); err != nil && ctx.Err() == nil {
				m.session = nil
				m.fail(err, s.Limit)
			}
		}
		if m.Failure == nil {
			stats := Summarise(m.Samples)
			m.Stats = &stats
		}
		cells[i] = m.Cell
	}
	r.Complete = r.Complete && ctx.Err() == nil
	return cells
}

// runs are the figures that there should be of a program.
func (s Suite) runs(p Program) []*run {
	var runs []*run
	for _, where := range Places {
		for _, mode := range s.Modes {
			for _, t := range s.Targets {
				// A worker compiles as it would in process, and meters always.
				if t.Where != where || where == InWorker && (p.Kind == Compile || mode == Own) {
					continue
				}
				runs = append(runs, &run{Cell: Cell{Program: p.Name, Column: Column{t.Engine, where, mode}}, target: t})
			}
		}
	}
	return runs
}

// prepare gets a run ready and warm, and finds how many calls make a sample.
func (s Suite) prepare(ctx context.Context, p Program, m *run, others []*run, r *Report) (err error) {
	if m.target.Runner == nil {
		return &Failure{Missing, m.target.Missing}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.session, err = m.target.Runner.Prepare(ctx, Job{Program: p, Mode: m.Mode, Limit: s.Limit}); err != nil {
		return err
	}
	about := m.session.About()
	if about.Engine != m.Engine {
		return fmt.Errorf("the engine that answers to %s says it is %q", m.Engine, about.Engine)
	}
	i := slices.IndexFunc(r.Engines, func(e EngineReport) bool { return e.Name == m.Engine && e.Where == m.Where })
	r.Engines[i].Version = about.Version
	m.Answer = about.Answer
	// Where the right answer is not known, it is the first.
	if i := slices.IndexFunc(others, func(o *run) bool { return o.session != nil }); i >= 0 && others[i].Answer != m.Answer {
		return &Failure{Wrong, fmt.Sprintf("the answer is %s, and that of %s is %s", m.Answer, others[i].Column, others[i].Answer)}
	}
	for n, began := 1, time.Now(); ; n *= 2 {
		took, err := m.session.Time(ctx, n)
		if err != nil {
			return err
		}
		if m.spent = time.Since(began); m.spent < s.Time/5 {
			continue
		}
		each := max(float64(took)/float64(n), 1)
		m.Calls = max(1, int(float64(s.Time)*4/5/float64(s.rounds())/each))
		return nil
	}
}
