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
	maxLine  = 8 << 10 // bytes; longer lines are cut
	maxLines = 100     // in a second; the rest is counted
	keepLast = 5       // lines, for errors
)

// stderr makes log lines of what a child writes to its standard error. The
// child names a level, as hclog does; it is never more severe than the cap.
type stderr struct {
	log hclog.Logger
	cap hclog.Level

	mu    sync.Mutex // guards tail
	tail  []string
	begun time.Time // of the second that lines are counted in
	lines int
	lost  int
}

func newStderr(l hclog.Logger, limit hclog.Level) *stderr { return &stderr{log: l, cap: limit} }

// read takes lines until the pipe ends.
func (s *stderr) read(r io.Reader) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, more, err := br.ReadLine()
		if err != nil {
			s.account(time.Now(), true)
			return
		}
		text := string(line)
		for cut := more; cut; {
			_, cut, err = br.ReadLine()
			if err != nil {
				break
			}
		}
		if more {
			text += "… (line cut)"
		}
		s.line(text)
	}
}

func (s *stderr) line(text string) {
	s.mu.Lock()
	s.tail = append(s.tail, text)
	if len(s.tail) > keepLast {
		s.tail = s.tail[1:]
	}
	s.mu.Unlock()
	if !s.account(time.Now(), false) {
		return
	}
	level, message, fields := parse(text)
	s.log.Log(min(level, s.cap), message, fields...)
}

// account counts a line, and reports whether it may be logged.
func (s *stderr) account(now time.Time, last bool) bool {
	if now.Sub(s.begun) >= time.Second || last {
		if s.lost > 0 {
			s.log.Log(min(hclog.Warn, s.cap), fmt.Sprintf("%d lines of standard error dropped: more than %d in a second", s.lost, maxLines))
		}
		s.begun, s.lines, s.lost = now, 0, 0
	}
	s.lines++
	if s.lines > maxLines {
		s.lost++
		return false
	}
	return true
}

// parse reads a line that hclog wrote as JSON; any other is a message at info.
func parse(text string) (hclog.Level, string, []any) {
	var entry map[string]any
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &entry) != nil {
		return hclog.Info, text, nil
	}
	message, ok := entry["@message"].(string)
	if !ok {
		return hclog.Info, text, nil
	}
	name, _ := entry["@level"].(string)
	level := hclog.LevelFromString(name)
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	var fields []any
	for _, k := range slices.Sorted(maps.Keys(entry)) {
		if !strings.HasPrefix(k, "@") {
			fields = append(fields, k, fmt.Sprint(entry[k]))
		}
	}
	return level, message, fields
}

// last is what the child wrote last, on one line.
func (s *stderr) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.tail, " | ")
}
