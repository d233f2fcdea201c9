package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// print writes v as JSON, or what table makes of it.
func (c *cli) print(v any, table func(*printer)) error {
	if c.format == "json" {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			return fmt.Errorf("output: %w", err)
		}
		_, err := c.out.Write(escapeJSON(b.Bytes()))
		return err
	}
	p := &printer{tabs: tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)}
	table(p)
	if err := p.tabs.Flush(); err != nil {
		return err
	}
	return p.err
}

// printer writes aligned columns. What it writes is made harmless to a
// terminal: names and reasons come from plugins.
type printer struct {
	tabs *tabwriter.Writer
	err  error
}

// row writes cells in columns.
func (p *printer) row(cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			p.write("\t")
		}
		p.write(printable(fmt.Sprint(cell)))
	}
	p.write("\n")
}

// line writes one line without columns.
func (p *printer) line(format string, args ...any) { p.row(fmt.Sprintf(format, args...)) }

func (p *printer) write(s string) {
	if _, err := io.WriteString(p.tabs, s); err != nil && p.err == nil {
		p.err = err
	}
}

// printable escapes what a terminal would act on or hide: control characters,
// invalid UTF-8 and invisible characters such as those that turn the direction
// of text.
func printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// paragraph is printable text of several lines. All but the first are indented,
// so that no name or reason in it can pass for a line of the program's own.
func paragraph(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n  ")
}

// forTerminal is what a plugin returned, for the eyes: lines and tabs stay, and
// the last line ends.
func forTerminal(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		for i, cell := range strings.Split(strings.TrimSuffix(line, "\n"), "\t") {
			if i > 0 {
				out.WriteByte('\t')
			}
			out.WriteString(printable(cell))
		}
		out.WriteByte('\n')
	}
	return []byte(out.String())
}

// isTerminal reports whether someone may be looking at what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}

// escapeJSON escapes in JSON what printable escapes in text. Such characters
// stand in strings alone, where \u means the same.
func escapeJSON(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for _, r := range string(b) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			hi, lo := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// short is the beginning of a digest, for tables.
func short(digest string) string {
	if len(digest) > 12 {
		return digest[:12]
	}
	return dash(digest)
}

// dash stands for what there is none of.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// list is a list in one cell.
func list(items []string) string { return dash(strings.Join(items, ", ")) }

// stamp is a time as people read it, with its zone.
func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }
