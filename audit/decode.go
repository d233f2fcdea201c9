package audit

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// decoder reads lines back. It is strict: a line is accepted only if it is the
// one spelling that the encoder gives to the record it holds, so a line cannot
// carry bytes that no field accounts for. Not for concurrent use.
type decoder struct {
	line  []byte
	at    int
	stamp stamp
	again []byte
	text  []byte
}

// LineError says why a line is not a record.
type LineError struct {
	Offset int // in the line, bytes
	Reason string
}

func (e *LineError) Error() string {
	return fmt.Sprintf("byte %d: %s", e.Offset, e.Reason)
}

// decode reads line, without its newline, into r. Strings that r held already
// are kept where they are equal, so decoding one line after another into the
// same Record allocates little; lists and maps are always new.
func (d *decoder) decode(line []byte, r *Record) error {
	if len(line) >= MaxLine {
		return &LineError{MaxLine, "longer than a line may be"}
	}
	d.line, d.at = line, 0
	old := *r
	*r = Record{}
	if err := d.object(r, &old); err != nil {
		return err
	}
	d.again = appendHead(d.again[:0], &d.stamp, r.Seq, r.Time, r.Mono, r.Boot)
	var err error
	if d.again, err = appendBody(d.again, r); err != nil {
		return &LineError{0, err.Error()}
	}
	if again := d.again[:len(d.again)-1]; !bytes.Equal(again, line) {
		i := 0
		for i < len(line) && i < len(again) && line[i] == again[i] {
			i++
		}
		return &LineError{i, "not in the form that the log writes"}
	}
	return nil
}

func (d *decoder) fail(format string, args ...any) error {
	return &LineError{d.at, fmt.Sprintf(format, args...)}
}

// take consumes the literal s, and reports whether it stood there.
func (d *decoder) take(s string) bool {
	if rest := d.line[d.at:]; len(rest) >= len(s) && string(rest[:len(s)]) == s {
		d.at += len(s)
		return true
	}
	return false
}

func (d *decoder) object(r, old *Record) error {
	if !d.take(`{"v":`) {
		return d.fail(`does not begin with {"v":`)
	}
	v, err := d.uint()
	if err != nil {
		return err
	}
	if v != schemaVersion {
		return d.fail("schema version %d, this program reads %d", v, schemaVersion)
	}
	for !d.take("}") {
		if !d.take(",") {
			return d.fail("expected a comma or the end of the object")
		}
		key, err := d.raw()
		if err != nil {
			return err
		}
		if !d.take(":") {
			return d.fail("expected a colon")
		}
		if err := d.field(r, old, key); err != nil {
			return err
		}
	}
	if d.at != len(d.line) {
		return d.fail("bytes after the end of the object")
	}
	return nil
}

// field reads the value of key. Order and repetition of keys are not looked at
// here: encoding the record again tells.
func (d *decoder) field(r, old *Record, key []byte) (err error) {
	var s string
	var n int64
	switch string(key) {
	case "seq":
		r.Seq, err = d.uint()
	case "time":
		r.Time, err = d.time()
	case "mono_ns":
		n, err = d.int()
		r.Mono = time.Duration(n)
	case "boot":
		r.Boot, err = d.string(old.Boot)
	case "kind":
		s, err = d.string(string(old.Kind))
		r.Kind = Kind(s)
	case "phase":
		s, err = d.string(string(old.Phase))
		r.Phase = Phase(s)
	case "subject":
		r.Subject, err = d.string(old.Subject)
	case "plugin":
		r.Plugin, err = d.string(old.Plugin)
	case "container":
		r.Container, err = d.string(old.Container)
	case "call":
		r.Call, err = d.uint()
	case "function":
		r.Function, err = d.string(old.Function)
	case "syscall":
		r.Syscall, err = d.string(old.Syscall)
	case "resources":
		r.Resources, err = d.list(old.Resources)
	case "args":
		r.Args, err = d.list(old.Args)
	case "decision":
		r.Decision, err = d.string(old.Decision)
	case "effect":
		r.Effect, err = d.string(old.Effect)
	case "rule":
		r.Rule, err = d.string(old.Rule)
	case "reason":
		r.Reason, err = d.string(old.Reason)
	case "policy":
		r.Policy, err = d.string(old.Policy)
	case "score":
		r.Score, err = d.float()
	case "level":
		r.Level, err = d.string(old.Level)
	case "intent":
		r.Intent, err = d.uint()
	case "outcome":
		r.Outcome, err = d.string(old.Outcome)
	case "error":
		r.Error, err = d.string(old.Error)
	case "duration_ns":
		n, err = d.int()
		r.Duration = time.Duration(n)
	case "count":
		r.Count, err = d.uint()
	case "bytes":
		r.Bytes, err = d.uint()
	case "digest":
		r.Digest, err = d.string(old.Digest)
	case "trace":
		r.Trace, err = d.string(old.Trace)
	case "details":
		r.Details, err = d.details()
	default:
		return d.fail("unknown field %q", key)
	}
	return err
}

// number consumes the characters of a JSON number.
func (d *decoder) number() []byte {
	start := d.at
	for d.at < len(d.line) {
		switch c := d.line[d.at]; {
		case '0' <= c && c <= '9', c == '-', c == '+', c == '.', c == 'e':
			d.at++
			continue
		}
		break
	}
	return d.line[start:d.at]
}

func (d *decoder) uint() (uint64, error) {
	n, err := strconv.ParseUint(string(d.number()), 10, 64)
	if err != nil {
		return 0, d.fail("expected a whole number")
	}
	return n, nil
}

func (d *decoder) int() (int64, error) {
	n, err := strconv.ParseInt(string(d.number()), 10, 64)
	if err != nil {
		return 0, d.fail("expected a whole number")
	}
	return n, nil
}

func (d *decoder) float() (float64, error) {
	n, err := strconv.ParseFloat(string(d.number()), 64)
	if err != nil {
		return 0, d.fail("expected a number")
	}
	return n, nil
}

// time reads the form that stamp writes.
func (d *decoder) time() (time.Time, error) {
	s, err := d.raw()
	if err != nil {
		return time.Time{}, err
	}
	const form = "0000-00-00T00:00:00.000000000Z"
	if len(s) != len(form) {
		return time.Time{}, d.fail("expected a time in UTC with nine decimals")
	}
	var part [7]int
	p := 0
	for i := range len(form) - 1 {
		if form[i] != '0' {
			p++
			continue
		}
		if s[i] < '0' || s[i] > '9' {
			return time.Time{}, d.fail("expected a digit in a time")
		}
		part[p] = part[p]*10 + int(s[i]-'0')
	}
	return time.Date(part[0], time.Month(part[1]), part[2], part[3], part[4], part[5], part[6], time.UTC), nil
}

// raw reads a string and returns it unescaped, valid until the next raw.
func (d *decoder) raw() ([]byte, error) {
	if !d.take(`"`) {
		return nil, d.fail("expected a string")
	}
	start := d.at
	n := bytes.IndexByte(d.line[start:], '"')
	if n < 0 {
		return nil, d.fail("string without an end")
	}
	s := d.line[start : start+n]
	if escape := bytes.IndexByte(s, '\\'); escape >= 0 {
		d.at += escape
		return d.escaped(start)
	}
	d.at += n + 1
	return s, nil
}

// escaped goes on with a string that began at start and holds an escape at d.at.
func (d *decoder) escaped(start int) ([]byte, error) {
	d.text = append(d.text[:0], d.line[start:d.at]...)
	for d.at < len(d.line) {
		c := d.line[d.at]
		switch c {
		case '"':
			d.at++
			return d.text, nil
		case '\\':
			r, err := d.escape()
			if err != nil {
				return nil, err
			}
			d.text = utf8.AppendRune(d.text, r)
			continue
		}
		d.text = append(d.text, c)
		d.at++
	}
	return nil, d.fail("string without an end")
}

// escape reads one of the three escapes that the encoder writes, and a pair of
// surrogates as one.
func (d *decoder) escape() (rune, error) {
	switch {
	case d.take(`\"`):
		return '"', nil
	case d.take(`\\`):
		return '\\', nil
	}
	r, err := d.unit()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	low, err := d.unit()
	return utf16.DecodeRune(r, low), err
}

func (d *decoder) unit() (rune, error) {
	if !d.take(`\u`) || len(d.line)-d.at < 4 {
		return 0, d.fail("unknown escape")
	}
	n, err := strconv.ParseUint(string(d.line[d.at:d.at+4]), 16, 16)
	if err != nil {
		return 0, d.fail("unknown escape")
	}
	d.at += 4
	return rune(n), nil
}

func (d *decoder) string(old string) (string, error) {
	s, err := d.raw()
	if err != nil || string(s) == old {
		return old, err
	}
	return string(s), nil
}

func (d *decoder) list(old []string) ([]string, error) {
	if !d.take("[") {
		return nil, d.fail("expected a list")
	}
	var list []string
	for !d.take("]") {
		if len(list) > 0 && !d.take(",") {
			return nil, d.fail("expected a comma or the end of the list")
		}
		var like string
		if i := len(list); i < len(old) {
			like = old[i]
		}
		s, err := d.string(like)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func (d *decoder) details() (map[string]string, error) {
	if !d.take("{") {
		return nil, d.fail("expected an object")
	}
	m := map[string]string{}
	for !d.take("}") {
		if len(m) > 0 && !d.take(",") {
			return nil, d.fail("expected a comma or the end of the object")
		}
		k, err := d.string("")
		if err != nil {
			return nil, err
		}
		if !d.take(":") {
			return nil, d.fail("expected a colon")
		}
		if m[k], err = d.string(""); err != nil {
			return nil, err
		}
	}
	return m, nil
}
