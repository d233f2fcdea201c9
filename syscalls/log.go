package syscalls

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of log_write, in bytes. What is longer is cut, and says so.
const (
	MaxMessage    = 4 << 10
	MaxFieldValue = 1 << 10
	MaxFields     = 16
)

// fieldKey keeps a plugin's keys apart from the logger's own, which begin with
// "@", and harmless to whoever reads the lines.
var fieldKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)

func logs(l hclog.Logger, rate *lineRate) []abi.Registration {
	return []abi.Registration{{
		Name: "log_write", Args: []string{"level", "message", "fields..."}, MinTrust: capability.Limited,
		World: true, Fold: true,
		Doc: fmt.Sprintf("Log a message of at most %d bytes with up to %d pairs of key and value. Level is `trace`, `debug`, `info`, `warn` or `error`; an error is logged as a warning, since an operator's errors are the kernel's. More than %d lines a second, after a burst of %d, fail.", MaxMessage, MaxFields, MaxLogRate, MaxLogBurst),
		Resolve: func(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
			return resource("log://plugin"), checkLog(sc.Args)
		},
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			dropped, ok := rate.take(sc.Plugin, time.Now())
			if !ok {
				return nil, abi.Fail(codeAgain, "more than %d log lines a second; the line is dropped", MaxLogRate)
			}
			level := hclog.LevelFromString(sc.Args[0])
			fields := []any{"plugin", printable(sc.Plugin, MaxFieldValue), "container", sc.Container.ID()}
			if dropped > 0 {
				fields = append(fields, "dropped", dropped)
			}
			if level > hclog.Warn {
				fields = append(fields, "said", sc.Args[0])
				level = hclog.Warn
			}
			for i, f := range sc.Args[2:] {
				if i%2 == 1 {
					f = printable(f, MaxFieldValue)
				}
				fields = append(fields, f)
			}
			l.Log(level, printable(sc.Args[1], MaxMessage), fields...)
			return nil, nil
		},
	}}
}

// checkLog checks the form of a log_write.
func checkLog(args []string) error {
	switch args[0] {
	case "trace", "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("level %.64q: want trace, debug, info, warn or error", args[0])
	}
	fields := args[2:]
	if len(fields)%2 == 1 {
		return errors.New("fields come in pairs of key and value; the last key has no value")
	}
	if len(fields) > 2*MaxFields {
		return fmt.Errorf("%d fields: at most %d", len(fields)/2, MaxFields)
	}
	for i := 0; i < len(fields); i += 2 {
		if !fieldKey.MatchString(fields[i]) {
			return fmt.Errorf("field key %.64q: want a letter, then letters, digits, _ . and -, at most 64", fields[i])
		}
		switch fields[i] {
		case "plugin", "container", "said", "dropped":
			return fmt.Errorf("field key %q is the host's own", fields[i])
		}
	}
	return nil
}

// printable makes text harmless to terminals and to formats of lines: what does
// not print is escaped as in a Go string, and what is over limit bytes is cut.
func printable(s string, limit int) string {
	cut := ""
	if len(s) > limit {
		end := limit
		for end > 0 && end > limit-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s, cut = s[:end], fmt.Sprintf("… (%d bytes more)", len(s)-end)
	}
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s + cut
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) + cut
}
