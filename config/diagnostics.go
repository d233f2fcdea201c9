package config

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"forgeone.dev/forgeone/capability"
)

// Diagnostic is one thing that is wrong with a configuration.
type Diagnostic struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1
	Column  int    `json:"column"` // from 1, in characters
	Summary string `json:"summary"`
	Detail  string `json:"detail"` // what was meant, and the remedy
}

// String is the diagnostic on one line: "file:line,col: what; what was meant".
func (d Diagnostic) String() string {
	s := fmt.Sprintf("%s:%d,%d: %s", d.File, d.Line, d.Column, strings.TrimSuffix(d.Summary, "."))
	for i, line := range strings.Split(strings.TrimSuffix(d.Detail, "."), "\n") {
		switch {
		case strings.HasPrefix(line, " | "): // CEL's own picture of where, under its message
		case i == 0 && line != "":
			s += "; " + line
		case line != "":
			s += " " + line
		}
	}
	return s
}

// DiagnosticsError is everything that is wrong with a configuration.
type DiagnosticsError struct {
	diags  hcl.Diagnostics
	source map[string]*hcl.File
}

// Error is every diagnostic, one a line, in the order of the file.
func (e *DiagnosticsError) Error() string {
	lines := make([]string, len(e.diags))
	for i, d := range e.Diagnostics() {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

// Diagnostics are all there are, in the order of the file.
func (e *DiagnosticsError) Diagnostics() []Diagnostic {
	out := make([]Diagnostic, len(e.diags))
	for i, d := range e.diags {
		out[i] = Diagnostic{
			File: d.Subject.Filename, Line: d.Subject.Start.Line, Column: d.Subject.Start.Column,
			Summary: d.Summary, Detail: d.Detail,
		}
	}
	return out
}

// Render writes every diagnostic with the piece of source it is about, for a
// terminal of the given width in columns; 0 means no wrapping. A secret that
// stands in the source is not shown.
func (e *DiagnosticsError) Render(w io.Writer, width uint, color bool) error {
	return hcl.NewDiagnosticTextWriter(w, e.source, width, color).WriteDiagnostics(e.diags)
}

// newError is the error of all diagnostics, or nil if there are none.
func newError(diags hcl.Diagnostics, file *hcl.File, name string) error {
	if len(diags) == 0 {
		return nil
	}
	for _, d := range diags {
		if d.Subject == nil {
			d.Subject = &hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}
		}
	}
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		return cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte)
	})
	return &DiagnosticsError{diags: diags, source: map[string]*hcl.File{name: file}}
}

// didYouMean suggests the known name that is nearest to a misspelt one, as the
// beginning of a detail; it is empty if none is near.
func didYouMean(name string, known []string) string {
	if n := capability.Nearest(name, known); n != "" {
		return fmt.Sprintf("did you mean %q? ", n)
	}
	return ""
}
