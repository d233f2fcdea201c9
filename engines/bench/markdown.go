package bench

import (
	"fmt"
	"io"
	"strings"
)

// WriteMarkdown writes a report as GitHub Flavored Markdown. Nothing in it is
// read as markup that was not meant so.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Facts() {
		fmt.Fprintf(&b, "%s  \n", plain(f))
	}
	row := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + plain(c) + " ")
		}
		b.WriteString("|\n")
	}
	for _, s := range r.Sections() {
		fmt.Fprintf(&b, "\n### %s\n\n", plain(s.Title))
		if s.Note != "" {
			fmt.Fprintf(&b, "%s\n\n", plain(s.Note))
		}
		row(s.Header)
		b.WriteString(strings.Repeat("|---", len(s.Header)) + "|\n")
		for _, cells := range s.Rows {
			row(cells)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// plain escapes what Markdown would act on.
func plain(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune("\\`*_[]<>|#&!~", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
