package audit

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"
)

// Filter selects records. What is left empty selects all.
type Filter struct {
	From, To time.Time // From is included, To is not
	Plugin   string
	Subject  string
	Kind     Kind
	Decision string
}

func (f *Filter) match(r *Record) bool {
	return (f.From.IsZero() || !r.Time.Before(f.From)) &&
		(f.To.IsZero() || r.Time.Before(f.To)) &&
		(f.Plugin == "" || f.Plugin == r.Plugin) &&
		(f.Subject == "" || f.Subject == r.Subject) &&
		(f.Kind == "" || f.Kind == r.Kind) &&
		(f.Decision == "" || f.Decision == r.Decision)
}

// Records reads the records of the log in dir that f selects, in order. It
// checks the form of the lines and their numbers but proves nothing: that is
// for Verify. The log may be being written. After an error it ends.
func Records(dir string, f Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for r, err := range read(dir, f) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !yield(*r.record, nil) {
				return
			}
		}
	}
}

// entry is a record beside its line, both valid until the next.
type entry struct {
	line   []byte
	record *Record
}

func read(dir string, f Filter) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		lines, err := openLines(dir)
		if err != nil {
			yield(entry{}, fmt.Errorf("audit: %w", err))
			return
		}
		defer lines.close()
		var d decoder
		var r Record
		for {
			line, err := lines.next()
			if err == io.EOF {
				return
			}
			if err == nil {
				err = lines.record(&d, line, &r)
			}
			if err != nil {
				yield(entry{}, fmt.Errorf("audit: read %s: %w", dir, err))
				return
			}
			if f.match(&r) && !yield(entry{line, &r}, nil) {
				return
			}
		}
	}
}

// Format is how records are exported.
type Format string

// Formats.
const (
	JSONL Format = "jsonl" // the lines as they stand in the log
	CSV   Format = "csv"   // RFC 4180, with a heading, safe to open in a spreadsheet
)

// Export writes the records of the log in dir that f selects to w. Exporting
// the same records again gives the same bytes.
func Export(ctx context.Context, w io.Writer, dir string, format Format, f Filter) error {
	b := bufio.NewWriterSize(w, 64<<10)
	var write func(entry) error
	flush := b.Flush
	switch format {
	case JSONL:
		write = func(e entry) error {
			_, err := b.Write(append(e.line, '\n')) // a copy: the line has no room behind it
			return err
		}
	case CSV:
		table := csv.NewWriter(b)
		if err := table.Write(columns); err != nil {
			return fmt.Errorf("audit: export: %w", err)
		}
		var row []string
		write = func(e entry) error {
			row = appendRow(row[:0], e.record)
			return table.Write(row)
		}
		flush = func() error {
			table.Flush()
			return errors.Join(table.Error(), b.Flush())
		}
	case "ocsf", "cef", "otlp":
		return fmt.Errorf("audit: export to %s is not built yet: use %s or %s", format, JSONL, CSV)
	default:
		return fmt.Errorf("audit: unknown export format %q: use %s or %s", format, JSONL, CSV)
	}
	n := 0
	for e, err := range read(dir, f) {
		if err != nil {
			return err
		}
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := write(e); err != nil {
			return fmt.Errorf("audit: export: %w", err)
		}
	}
	if err := flush(); err != nil {
		return fmt.Errorf("audit: export: %w", err)
	}
	return nil
}

// columns are the heading of a CSV export: the keys of a line, in their order.
var columns = []string{
	"seq", "time", "mono_ns", "boot", "kind", "phase", "subject", "plugin", "container", "call", "function",
	"syscall", "resources", "args", "decision", "effect", "rule", "reason", "policy", "score", "level",
	"intent", "outcome", "error", "duration_ns", "count", "bytes", "digest", "trace", "details",
}

func appendRow(row []string, r *Record) []string {
	number := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatUint(n, 10)
	}
	score := ""
	if r.Score != 0 {
		score = strconv.FormatFloat(r.Score, 'g', -1, 64)
	}
	duration := ""
	if r.Duration != 0 {
		duration = strconv.FormatInt(int64(r.Duration), 10)
	}
	return append(row,
		strconv.FormatUint(r.Seq, 10), string(new(stamp).append(nil, r.Time)), strconv.FormatInt(int64(r.Mono), 10),
		cell(r.Boot), cell(string(r.Kind)), cell(string(r.Phase)), cell(r.Subject), cell(r.Plugin), cell(r.Container), number(r.Call), cell(r.Function),
		cell(r.Syscall), list(r.Resources), list(r.Args), cell(r.Decision), cell(r.Effect), cell(r.Rule), cell(r.Reason), cell(r.Policy), score, cell(r.Level),
		number(r.Intent), cell(r.Outcome), cell(r.Error), duration, number(r.Count), number(r.Bytes), cell(r.Digest), cell(r.Trace), details(r.Details),
	)
}

func list(l []string) string {
	if len(l) == 0 {
		return ""
	}
	return string(appendList(nil, "", l)) // begins with a bracket, and is escaped
}

func details(m map[string]string) string {
	if len(m) == 0 {
		return ""
	}
	return string(appendDetails(nil, m))
}

// cell makes s safe in a table: what could act on a terminal is escaped as in
// a line, and what a spreadsheet would take for a formula begins with an
// apostrophe (OWASP, CSV injection; the full-width forms are read as the
// others in some locales).
func cell(s string) string {
	s = string(appendEscaped(nil, s, false))
	for _, lead := range []string{"=", "+", "-", "@", "＝", "＋", "－", "＠", "'"} {
		if strings.HasPrefix(strings.TrimLeft(s, " "), lead) {
			return "'" + s
		}
	}
	return s
}
