package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Section is a table of a report for people. Names and reasons come from modules:
// control characters in them, and what is invisible, are escaped.
type Section struct {
	Title  string
	Note   string
	Header []string
	Rows   [][]string
}

// Facts say in a line each what a report was made of.
func (r *Report) Facts() []string {
	m := r.Machine
	facts := []string{fmt.Sprintf("%s · ForgeOne %s · %s · %d cores · %s/%s · %s", r.Began.Format(time.RFC3339), r.ForgeOne, m.CPU, m.Cores, m.OS, m.Arch, m.Go)}
	var engines []string
	for _, name := range r.engines() {
		version := "missing"
		for _, e := range r.Engines {
			if e.Name == name && e.Version != "" {
				version = e.Version
			}
		}
		engines = append(engines, name+" "+version)
	}
	facts = append(facts, strings.Join(engines, " · ")+fmt.Sprintf(" · %v for each figure", r.Time))
	if !r.Complete {
		facts = append(facts, "The run was interrupted: this is what there was.")
	}
	for i := range facts {
		facts[i] = visible(facts[i])
	}
	return facts
}

// Sections are the tables of a report: the figures for each place, what limits
// cost, what a process of its own costs, what was measured, and what could not
// be.
func (r *Report) Sections() []Section {
	var s []Section
	places := r.places()
	for _, where := range places {
		s = append(s, r.figures(where))
	}
	if len(r.Modes) > 1 {
		s = append(s, r.limits(places[0]))
	}
	if len(places) > 1 {
		s = append(s, r.isolation())
	}
	s = append(s, r.works())
	if missing := r.unmeasured(); len(missing.Rows) > 0 {
		s = append(s, missing)
	}
	s = slices.DeleteFunc(s, func(s Section) bool { return len(s.Rows) == 0 })
	for _, section := range s {
		for _, row := range section.Rows {
			for i := range row {
				row[i] = visible(row[i])
			}
		}
	}
	return s
}

// visible escapes what does not show.
func visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRune(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// figures are the medians in a place.
func (r *Report) figures(where Where) Section {
	engines := r.engines()
	s := Section{
		Title:  "Engines, " + string(where),
		Note:   "Median of one operation, ± half the distance between the quartiles; × is the ratio to " + engines[0] + " in the same rounds. The mean is of the programs that call functions.",
		Header: []string{"program", "limits", engines[0]},
	}
	for _, e := range engines[1:] {
		s.Header = append(s.Header, e, "×")
	}
	for _, p := range r.Programs {
		for _, mode := range r.Modes {
			row, any := []string{p.Name, string(mode)}, false
			for i, e := range engines {
				figure, ratio := "-", "-"
				if c := r.cell(p.Name, Column{e, where, mode}); c != nil {
					any = true
					figure, ratio = c.text(), times(c.Ratio)
				}
				row = append(row, figure)
				if i > 0 {
					row = append(row, ratio)
				}
			}
			if any {
				s.Rows = append(s.Rows, row)
			}
		}
	}
	for _, mode := range r.Modes {
		row, any := []string{"geometric mean", string(mode), ""}, false
		for _, e := range engines[1:] {
			x := r.geomean(Column{e, where, mode}, Column{engines[0], where, mode})
			any = any || x > 0
			row = append(row, "", times(x))
		}
		if any {
			s.Rows = append(s.Rows, row)
		}
	}
	return s
}

// ratios is a section of ratios, with their means below.
func (r *Report) ratios(s Section, pairs [][2]Column) Section {
	row := func(name string, ratio func(of, over Column) float64) {
		cells, any := []string{name}, false
		for _, p := range pairs {
			x := ratio(p[0], p[1])
			any = any || x > 0
			cells = append(cells, times(x))
		}
		if any {
			s.Rows = append(s.Rows, cells)
		}
	}
	for _, p := range r.Programs {
		row(p.Name, func(of, over Column) float64 { return r.ratio(p.Name, of, over) })
	}
	row("geometric mean", r.geomean)
	return s
}

// limits are the costs of modes.
func (r *Report) limits(where Where) Section {
	s := Section{
		Title:  "What limits cost, " + string(where),
		Note:   "Each engine with itself: the time under a limit over the time " + string(r.Modes[0]) + ".",
		Header: []string{"program"},
	}
	var pairs [][2]Column
	for _, e := range r.engines() {
		for _, m := range r.Modes[1:] {
			s.Header = append(s.Header, e+" "+string(m))
			pairs = append(pairs, [2]Column{{e, where, m}, {e, where, r.Modes[0]}})
		}
	}
	return r.ratios(s, pairs)
}

// isolation is the cost of a process.
func (r *Report) isolation() Section {
	s := Section{
		Title:  "What a process of its own costs",
		Note:   "Each engine with itself: the time in a worker over the time in process.",
		Header: []string{"program"},
	}
	var pairs [][2]Column
	for _, e := range r.engines() {
		for _, m := range r.Modes {
			if m != Own {
				s.Header = append(s.Header, e+" "+string(m))
				pairs = append(pairs, [2]Column{{e, InWorker, m}, {e, InProcess, m}})
			}
		}
	}
	return r.ratios(s, pairs)
}

// works says what the programs do.
func (r *Report) works() Section {
	s := Section{Title: "Programs", Note: "What one operation is.", Header: []string{"program", "operation", "module", "sha256"}}
	for _, p := range r.Programs {
		s.Rows = append(s.Rows, []string{p.Name, p.Work, fmt.Sprintf("%d bytes", p.Size), p.SHA256[:12]})
	}
	return s
}

// unmeasured says what has no figure, and why, with what is alike in one row.
func (r *Report) unmeasured() Section {
	s := Section{Title: "Not measured", Header: []string{"program", "engine", "limits", "why"}}
	for _, a := range r.Absent {
		s.Rows = append(s.Rows, []string{a.Program, "all", "all", string(Missing) + ": " + a.Reason})
	}
	for _, e := range r.Engines {
		if e.Missing != "" {
			s.Rows = append(s.Rows, []string{"all", e.Name + " " + string(e.Where), "all", string(Missing) + ": " + e.Missing})
		}
	}
	var rows [][]string
	for _, c := range r.Cells {
		if c.Failure != nil && c.Failure.Cause != Missing {
			rows = append(rows, []string{c.Program, c.Engine + " " + string(c.Where), string(c.Mode), string(c.Failure.Cause) + ": " + c.Failure.Reason})
		}
	}
	s.Rows = append(s.Rows, join(join(rows, 2), 0)...)
	return s
}

// join makes one row of those that differ in a column alone.
func join(rows [][]string, column int) [][]string {
	var joined [][]string
	for _, row := range rows {
		same := func(o []string) bool {
			for i := range o {
				if i != column && o[i] != row[i] {
					return false
				}
			}
			return true
		}
		if i := slices.IndexFunc(joined, same); i >= 0 {
			joined[i][column] += ", " + row[column]
			continue
		}
		joined = append(joined, row)
	}
	return joined
}

// text is a cell's figure, or what there is instead.
func (c *Cell) text() string {
	if c.Failure != nil {
		return string(c.Failure.Cause)
	}
	return fmt.Sprintf("%s ±%.0f%%", duration(c.Stats.Median), 100*c.Stats.Spread())
}

// duration is a time in nanoseconds with three digits.
func duration(ns float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
		if ns >= u.size*0.9995 { // what rounds up to it
			return digits(ns/u.size) + " " + u.name
		}
	}
	return digits(ns) + " ns"
}

// times is a ratio, "-" for none.
func times(x float64) string {
	if x == 0 {
		return "-"
	}
	return digits(x) + "×"
}

// digits is a number with three of them, but all that stand before the point.
func digits(x float64) string {
	switch {
	case x >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case x >= 9.995:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}
