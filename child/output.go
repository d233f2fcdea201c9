package child

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Limits of what a child may put in the log.
const (
	maxLine   = 8 << 10 // bytes; the rest of a longer line is dropped
	maxLines  = 100     // in a second; the rest is counted
	maxFields = 32      // of a line
	keepLast  = 8       // lines, for errors

	// keepBefore is how many lines are kept of those before a signal: there a C
	// library, or Rust's, says why it aborts.
	keepBefore = 2
)

// output makes log lines of what a child writes. A child that logs as hclog
// does, in JSON, names the level of each line; it is never more severe than the
// limit. Any other line is logged at Info, within the same limit.
type output struct {
	log   hclog.Logger
	limit hclog.Level

	mu     sync.Mutex // guards what follows
	tail   []string   // the last lines
	cause  []string   // the last line that begins a program's crash, and what led to it
	count  int        // lines in this second
	lost   int        // of them, those that were dropped
	second *time.Timer
	closed bool
}

func newOutput(l hclog.Logger, limit hclog.Level) *output { return &output{log: l, limit: limit} }

// copy takes lines until r ends.
func (o *output) copy(r io.Reader) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, more, err := br.ReadLine()
		if err != nil {
			return
		}
		text := string(line)
		if more {
			text += "…"
		}
		for more && err == nil {
			_, more, err = br.ReadLine()
		}
		o.line(text)
	}
}

// writer takes what arrives in pieces, each as a line of its own or several.
func (o *output) writer() io.Writer { return lineWriter{o} }

type lineWriter struct{ o *output }

// Write implements io.Writer.
func (w lineWriter) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		w.o.line(clip(strings.TrimRight(line, "\r\n"), maxLine))
	}
	return len(b), nil
}

func (o *output) line(text string) {
	level, message, fields := parse(text)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	if message != "" {
		switch {
		case strings.HasPrefix(text, "panic: "), strings.HasPrefix(text, "fatal error: "):
			o.cause = []string{clip(message, 500)}
		case namesSignal(text):
			o.cause = append(slices.Clone(o.tail[max(0, len(o.tail)-keepBefore):]), clip(message, 500))
		}
		words := message
		for i := 0; i < len(fields); i += 2 {
			words += fmt.Sprintf(" %s=%v", fields[i], fields[i+1])
		}
		o.tail = append(o.tail, clip(words, 500))
		o.tail = o.tail[max(0, len(o.tail)-keepLast):]
	}
	if o.second == nil {
		o.second = time.AfterFunc(time.Second, o.turn)
	}
	if o.count++; o.count > maxLines {
		o.lost++
		return
	}
	o.log.Log(min(level, o.limit), message, fields...)
}

// turn begins a new second.
func (o *output) turn() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.report()
	o.count, o.second = 0, nil
}

func (o *output) report() {
	if o.lost > 0 {
		o.log.Warn("output dropped", "lines", o.lost, "limit", fmt.Sprintf("%d lines a second", maxLines))
		o.lost = 0
	}
}

// close ends the log; what comes later is dropped.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.second != nil {
		o.second.Stop()
	}
	o.report()
}

// lastWords is what the child wrote last, on one line, for errors.
func (o *output) lastWords() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	words := o.tail
	if n := len(o.cause); n > 0 && !slices.Contains(words, o.cause[n-1]) {
		words = slices.Concat(o.cause, []string{"…"}, words)
	}
	if len(words) == 0 {
		return "it wrote nothing"
	}
	return "it wrote last: " + strings.Join(words, " | ")
}

// namesSignal reports whether Go's runtime began so to say which signal ends the
// program, such as "SIGABRT: abort".
func namesSignal(text string) bool {
	name, _, ok := strings.Cut(text, ": ")
	return ok && strings.HasPrefix(name, "SIG") && strings.ToUpper(name) == name
}

// parse reads a line that hclog wrote as JSON; any other is a message at Info.
// Nothing that it yields can break a line or steer a terminal.
func parse(text string) (hclog.Level, string, []any) {
	if !strings.HasPrefix(text, "{") {
		return hclog.Info, plain(text), nil
	}
	var entry map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &entry) != nil {
		return hclog.Info, plain(text), nil
	}
	var message, name string
	if json.Unmarshal(entry["@message"], &message) != nil || json.Unmarshal(entry["@level"], &name) != nil {
		return hclog.Info, plain(text), nil
	}
	level := hclog.LevelFromString(name)
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	var fields []any
	for _, k := range slices.Sorted(maps.Keys(entry)) {
		if strings.HasPrefix(k, "@") {
			continue
		}
		if len(fields) == 2*maxFields {
			break
		}
		var s string
		if json.Unmarshal(entry[k], &s) != nil {
			s = string(entry[k])
		}
		fields = append(fields, plain(k), plain(s))
	}
	return level, plain(message), fields
}
