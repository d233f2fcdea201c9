package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
)

//go:embed report.html
var reportHTML string

var reportPage = template.Must(template.New("report").Parse(reportHTML))

// WriteHTML writes a report as one page with charts and tables, which needs
// nothing else to be read.
func (r *Report) WriteHTML(w io.Writer) error {
	page := struct {
		Facts    []string
		Legend   []key
		Charts   []chart
		Sections []Section
	}{Facts: r.Facts(), Sections: r.Sections()}
	for i, e := range r.engines() {
		page.Legend = append(page.Legend, key{Name: e, Class: class(i)})
	}
	for _, p := range r.Programs {
		if c := r.chart(p); len(c.Bars) > 0 {
			page.Charts = append(page.Charts, c)
		}
	}
	return reportPage.Execute(w, page)
}

// key is an engine's colour.
type key struct{ Name, Class string }

func class(engine int) string { return fmt.Sprintf("e%d", engine%6) }

// chart is the bars of a program, in units of CSS pixels.
type chart struct {
	Name, Work  string
	Bars        []bar
	Height      int
	Description string
}

// bar is a median with its quartiles.
type bar struct {
	Label, Figure, Class      string
	Y, Middle                 int // of the bar's top and of its text's middle
	Width, Low, High, Figures float64
}

// The shape of a chart.
const (
	barLeft  = 230 // labels are left of it
	barWidth = 400 // of the longest
	barStep  = 20
)

func (r *Report) chart(p ProgramReport) chart {
	c := chart{Name: visible(p.Name), Work: visible(p.Work)}
	var longest float64
	var cells []Cell
	for _, cell := range r.Cells {
		if cell.Program == p.Name && cell.Stats != nil {
			cells = append(cells, cell)
			longest = max(longest, cell.Stats.Q3)
		}
	}
	engines := r.engines()
	slices.SortStableFunc(cells, func(a, b Cell) int { return slices.Index(engines, a.Engine) - slices.Index(engines, b.Engine) })
	for i, cell := range cells {
		at := func(ns float64) float64 { return barLeft + barWidth*ns/longest }
		y := i * barStep
		b := bar{
			Label: fmt.Sprint(cell.Column), Figure: cell.text(), Class: class(slices.Index(engines, cell.Engine)),
			Y: y + 3, Middle: y + barStep/2,
			Width: at(cell.Stats.Median) - barLeft, Low: at(cell.Stats.Q1), High: at(cell.Stats.Q3), Figures: at(cell.Stats.Q3) + 6,
		}
		c.Bars = append(c.Bars, b)
		c.Description += b.Label + ": " + b.Figure + ". "
	}
	c.Height = len(cells) * barStep
	return c
}
