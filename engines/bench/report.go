package bench

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// Schema names the form of a report's JSON. A later one that is not read as
// this is has another name.
const Schema = "forgeone.bench/1"

// Report is what a run measured.
type Report struct {
	Schema   string          `json:"schema"`
	Began    time.Time       `json:"began"`
	Complete bool            `json:"complete"` // false if it was interrupted
	ForgeOne string          `json:"forgeone"` // version; for the caller to set
	Machine  Machine         `json:"machine"`
	Time     time.Duration   `json:"time_ns"`  // for each figure
	Limit    time.Duration   `json:"limit_ns"` // for getting each ready, and for each sample
	Modes    []Mode          `json:"modes"`
	Engines  []EngineReport  `json:"engines"`
	Programs []ProgramReport `json:"programs"`
	Absent   []Absent        `json:"absent,omitempty"`
	Cells    []Cell          `json:"cells"`
	Means    []Mean          `json:"means"`
}

// Machine is what a run was made on.
type Machine struct {
	CPU   string `json:"cpu"`
	Cores int    `json:"cores"` // that Go uses
	OS    string `json:"os"`
	Arch  string `json:"arch"`
	Go    string `json:"go"`
}

func machine() Machine {
	return Machine{CPU: cmp.Or(cpuModel(), "unknown"), Cores: runtime.GOMAXPROCS(0), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version()}
}

// EngineReport is an engine in a place.
type EngineReport struct {
	Name    string `json:"name"`
	Where   Where  `json:"where"`
	Version string `json:"version,omitempty"`
	Missing string `json:"missing,omitempty"` // why it is
}

// ProgramReport is a program of a run.
type ProgramReport struct {
	Name   string `json:"name"`
	Work   string `json:"work"`
	Kind   Kind   `json:"kind"`
	Size   int    `json:"size"` // of its module in bytes
	SHA256 string `json:"sha256"`
}

// Column is what programs run on.
type Column struct {
	Engine string `json:"engine"`
	Where  Where  `json:"where"`
	Mode   Mode   `json:"mode"`
}

// String is the column in words.
func (c Column) String() string { return fmt.Sprintf("%s %s, %s", c.Engine, c.Where, c.Mode) }

// Cell is what came of a program in a column.
type Cell struct {
	Program string `json:"program"`
	Column
	Answer  string    `json:"answer,omitempty"`
	Calls   int       `json:"calls,omitempty"`      // in each sample
	Samples []float64 `json:"samples_ns,omitempty"` // for one operation, by rounds
	Stats   *Stats    `json:"stats_ns,omitempty"`
	Ratio   float64   `json:"ratio,omitempty"` // to the first engine, see Mean
	Failure *Failure  `json:"failure,omitempty"`
}

// Mean compares two columns: the geometric mean of the ratios of programs that
// call functions and have figures in both. A program's ratio is the median of
// those of samples that were taken in the same round.
type Mean struct {
	Of       Column  `json:"of"`
	Over     Column  `json:"over"`
	Geomean  float64 `json:"geomean"`
	Programs int     `json:"programs"`
}

// Failures are the cells that have no figure though nothing was missing.
func (r *Report) Failures() []Cell {
	var failed []Cell
	for _, c := range r.Cells {
		if c.Failure != nil && (c.Failure.Cause == Failed || c.Failure.Cause == Wrong || c.Failure.Cause == Limit) {
			failed = append(failed, c)
		}
	}
	return failed
}

// Measured says whether there is any figure.
func (r *Report) Measured() bool {
	return slices.ContainsFunc(r.Cells, func(c Cell) bool { return c.Stats != nil })
}

// cell is the one of a program in a column, nil if there is none.
func (r *Report) cell(program string, col Column) *Cell {
	i := slices.IndexFunc(r.Cells, func(c Cell) bool { return c.Program == program && c.Column == col })
	if i < 0 {
		return nil
	}
	return &r.Cells[i]
}

// ratio is the time of a program in a column over that in another: the median
// of the ratios of samples that were taken in the same round. It is 0 if one of
// them is not known.
func (r *Report) ratio(program string, of, over Column) float64 {
	a, b := r.cell(program, of), r.cell(program, over)
	if a == nil || b == nil || a.Stats == nil || b.Stats == nil {
		return 0
	}
	ratios := make([]float64, min(len(a.Samples), len(b.Samples)))
	for i := range ratios {
		ratios[i] = a.Samples[i] / b.Samples[i]
	}
	return Summarise(ratios).Median
}

// engines are the names of the engines, each once.
func (r *Report) engines() []string {
	var names []string
	for _, e := range r.Engines {
		if !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

// places are the places that were asked for.
func (r *Report) places() []Where {
	return slices.DeleteFunc(slices.Clone(Places), func(w Where) bool {
		return !slices.ContainsFunc(r.Engines, func(e EngineReport) bool { return e.Where == w })
	})
}

// compare fills in the ratios and the means.
func (r *Report) compare() {
	r.Means = []Mean{}
	engines, places := r.engines(), r.places()
	for i, c := range r.Cells {
		if first := (Column{engines[0], c.Where, c.Mode}); c.Column != first {
			r.Cells[i].Ratio = r.ratio(c.Program, c.Column, first)
		}
	}
	for _, where := range places {
		for _, mode := range r.Modes {
			for _, engine := range engines {
				of := Column{engine, where, mode}
				for _, over := range []Column{{engines[0], where, mode}, {engine, where, r.Modes[0]}, {engine, places[0], mode}} {
					if over != of {
						r.mean(of, over)
					}
				}
			}
		}
	}
}

// mean adds the comparison of two columns, if there is something to compare.
func (r *Report) mean(of, over Column) {
	var ratios []float64
	for _, p := range r.Programs {
		if x := r.ratio(p.Name, of, over); x > 0 && p.Kind == Call {
			ratios = append(ratios, x)
		}
	}
	if len(ratios) > 0 {
		r.Means = append(r.Means, Mean{of, over, Geomean(ratios), len(ratios)})
	}
}

// geomean is a comparison's mean, 0 if there is none.
func (r *Report) geomean(of, over Column) float64 {
	for _, m := range r.Means {
		if m.Of == of && m.Over == over {
			return m.Geomean
		}
	}
	return 0
}
