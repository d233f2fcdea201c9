package audit

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// schemaVersion is the "v" of every line this package writes.
const schemaVersion = 1

// MaxLine is the longest line in bytes, its newline included. A record that
// would need more is refused, and with it the effect it was to precede.
const MaxLine = 64 << 10

// ErrTooLarge is returned by Append for a record that does not fit MaxLine.
var ErrTooLarge = errors.New("audit: record is larger than a line may be")

// A line is one JSON object with its keys in a fixed order and exactly one
// spelling for each record (encoding what was decoded gives the same bytes):
// appendHead writes what the log itself knows, appendBody what the caller gave.

// stamp formats times, and keeps the part that changes once a second.
type stamp struct {
	second int64
	text   [20]byte // "2006-01-02T15:04:05."
	filled bool
}

// append writes t in UTC as RFC 3339 with nine decimals.
func (s *stamp) append(b []byte, t time.Time) []byte {
	if sec := t.Unix(); sec != s.second || !s.filled {
		u := t.UTC()
		year, month, day := u.Date()
		hour, minute, second := u.Clock()
		d := s.text[:0]
		d = append(appendPadded(d, min(max(year, 0), 9999), 4), '-')
		d = append(appendPadded(d, int(month), 2), '-')
		d = append(appendPadded(d, day, 2), 'T')
		d = append(appendPadded(d, hour, 2), ':')
		d = append(appendPadded(d, minute, 2), ':')
		_ = append(appendPadded(d, second, 2), '.')
		s.second, s.filled = sec, true
	}
	b = append(b, s.text[:]...)
	return append(appendPadded(b, t.Nanosecond(), 9), 'Z')
}

// appendPadded writes n in exactly width decimal digits.
func appendPadded(b []byte, n, width int) []byte {
	start := len(b)
	b = append(b, "000000000"[:width]...)
	for i := len(b) - 1; i >= start; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// appendHead writes the opening of a line: all that stands before "kind".
func appendHead(b []byte, s *stamp, seq uint64, t time.Time, mono time.Duration, boot string) []byte {
	b = append(b, `{"v":1,"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, `,"time":"`...)
	b = s.append(b, t)
	b = append(b, `","mono_ns":`...)
	b = strconv.AppendInt(b, int64(mono), 10)
	b = append(b, `,"boot":`...)
	return appendString(b, boot)
}

// appendBody writes the rest of a line after its head, with its newline.
func appendBody(b []byte, r *Record) ([]byte, error) {
	if r.Kind == "" {
		return b, errors.New("audit: record has no kind")
	}
	if math.IsNaN(r.Score) || math.IsInf(r.Score, 0) {
		return b, fmt.Errorf("audit: score %v is not a number", r.Score)
	}
	for k := range r.Details {
		if !utf8.ValidString(k) {
			return b, fmt.Errorf("audit: key %q in details is not UTF-8", k)
		}
	}
	b = append(b, `,"kind":`...)
	b = appendString(b, string(r.Kind))
	b = appendText(b, `,"phase":`, string(r.Phase))
	b = appendText(b, `,"subject":`, r.Subject)
	b = appendText(b, `,"plugin":`, r.Plugin)
	b = appendText(b, `,"container":`, r.Container)
	b = appendUint(b, `,"call":`, r.Call)
	b = appendText(b, `,"function":`, r.Function)
	b = appendText(b, `,"syscall":`, r.Syscall)
	b = appendList(b, `,"resources":`, r.Resources)
	b = appendList(b, `,"args":`, r.Args)
	b = appendText(b, `,"decision":`, r.Decision)
	b = appendText(b, `,"effect":`, r.Effect)
	b = appendText(b, `,"rule":`, r.Rule)
	b = appendText(b, `,"reason":`, r.Reason)
	b = appendText(b, `,"policy":`, r.Policy)
	if r.Score != 0 {
		b = append(b, `,"score":`...)
		b = appendScore(b, r.Score)
	}
	b = appendText(b, `,"level":`, r.Level)
	b = appendUint(b, `,"intent":`, r.Intent)
	b = appendText(b, `,"outcome":`, r.Outcome)
	b = appendText(b, `,"error":`, r.Error)
	if r.Duration != 0 {
		b = append(b, `,"duration_ns":`...)
		b = strconv.AppendInt(b, int64(r.Duration), 10)
	}
	b = appendUint(b, `,"count":`, r.Count)
	b = appendUint(b, `,"bytes":`, r.Bytes)
	b = appendText(b, `,"digest":`, r.Digest)
	b = appendText(b, `,"trace":`, r.Trace)
	if len(r.Details) > 0 {
		b = appendDetails(append(b, `,"details":`...), r.Details)
	}
	return append(b, '}', '\n'), nil
}

// appendDetails writes m as an object in the order of its keys.
func appendDetails(b []byte, m map[string]string) []byte {
	keys := make([]string, 0, 16) // on the stack for as many as any caller has
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		b = appendString(b, m[k])
	}
	return append(b, '}')
}

// appendScore writes f in the shortest decimals that read back as f, as
// strconv does, but much faster for what scores mostly are: between 0 and 1
// with few decimals. A quotient of small whole numbers is correctly rounded,
// and no two decimals of so few digits are the same float64.
func appendScore(b []byte, f float64) []byte {
	const scale = 10000
	n := int(min(max(f, 0), 1) * scale)
	if n == 0 || n == scale || float64(n)/scale != f {
		return strconv.AppendFloat(b, f, 'g', -1, 64)
	}
	b = appendPadded(append(b, "0."...), n, 4)
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, key...), s)
}

func appendUint(b []byte, key string, n uint64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendUint(append(b, key...), n, 10)
}

func appendList(b []byte, key string, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(append(b, key...), '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

const hexDigits = "0123456789abcdef"

// appendString writes s as a JSON string (RFC 8259, section 7) that is safe to
// print: see appendEscaped.
func appendString(b []byte, s string) []byte {
	return append(appendEscaped(append(b, '"'), s, true), '"')
}

// appendEscaped writes s with every character that could act on a terminal, or
// hide or reorder text, as \uXXXX, and what is not UTF-8 as \ufffd. With quoted
// it escapes the double quote also.
func appendEscaped(b []byte, s string, quoted bool) []byte {
	start := 0
	for i := 0; i < len(s); {
		if i+8 <= len(s) && plain(s[i:i+8]) {
			i += 8
			continue
		}
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '\\' || c == '"' && quoted:
				b = append(append(b, s[start:i]...), '\\', c)
			case c < ' ' || c == 0x7f:
				b = appendUnit(append(b, s[start:i]...), uint16(c))
			default:
				i++
				continue
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if !hidden(r) {
			i += n
			continue
		}
		b = append(b, s[start:i]...)
		if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
			b = appendUnit(appendUnit(b, uint16(high)), uint16(low))
		} else {
			b = appendUnit(b, uint16(r))
		}
		i += n
		start = i
	}
	return append(b, s[start:]...)
}

// plain reports whether none of eight bytes is to be looked at more closely:
// all are printable ASCII, and none is a quote or a backslash. It looks at
// them together (Warren, Hacker's Delight, section 6-1: find a zero byte).
func plain(s string) bool {
	const (
		low  = 0x0101010101010101
		high = 0x8080808080808080
	)
	_ = s[7]
	x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	quote, slash, del := x^low*'"', x^low*'\\', x^low*0x7f
	found := x | (x - low*' ') | (quote-low)&^quote | (slash-low)&^slash | (del-low)&^del
	return found&high == 0
}

// appendUnit writes one UTF-16 code unit as \uXXXX.
func appendUnit(b []byte, u uint16) []byte {
	return append(b, '\\', 'u', hexDigits[u>>12], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}

// hidden reports whether r, not ASCII, is written as an escape: C1 controls,
// marks that are invisible or turn the direction of text, line separators,
// language tags, and the replacement character. The list is fixed, and not
// that of a Unicode version, because the spelling of a line must never change.
func hidden(r rune) bool {
	switch {
	case r < 0xa0, r == 0xad, r == 0x61c:
		return true
	case r < 0x200b:
		return false
	case r <= 0x200f, 0x2028 <= r && r <= 0x202e, 0x2060 <= r && r <= 0x206f:
		return true
	case r == 0xfeff, 0xfff9 <= r && r <= 0xfffd, 0xe0000 <= r && r <= 0xe007f:
		return true
	}
	return false
}
