package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"pgregory.net/rapid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/quarantine"
	"forgeone.dev/forgeone/state"
)

// commands visits every command that is ours.
func commands(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		if sub.Name() != "help" && sub.Name() != "completion" {
			commands(sub, f)
		}
	}
}

// fields splits a line as a shell does, without expansions.
func fields(line string) []string {
	var out []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		var word strings.Builder
		for line != "" && line[0] != ' ' {
			if line[0] == '"' {
				quoted, rest, _ := strings.Cut(line[1:], `"`)
				word.WriteString(quoted)
				line = rest
				continue
			}
			word.WriteByte(line[0])
			line = line[1:]
		}
		out = append(out, word.String())
	}
	return out
}

func TestEveryCommandHasExamplesThatParse(t *testing.T) {
	n := 0
	commands((&cli{}).root(), func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s: want a short description and an example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			args := fields(line)
			if args[0] != "forgeone" {
				t.Errorf("%s: example %q does not begin with forgeone", cmd.CommandPath(), line)
				continue
			}
			n++
			found, rest, err := (&cli{}).root().Find(args[1:])
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil {
				err = errors.Join(found.ValidateArgs(found.Flags().Args()), found.ValidateRequiredFlags(), found.ValidateFlagGroups())
			}
			if err != nil {
				t.Errorf("%s: example %q: %v", cmd.CommandPath(), strings.TrimSpace(line), err)
			} else if cmd.HasParent() && !strings.HasPrefix(found.CommandPath(), cmd.CommandPath()) {
				t.Errorf("%s: example %q is of %s", cmd.CommandPath(), line, found.CommandPath())
			}
		}
	})
	if n < 20 {
		t.Errorf("only %d examples were seen", n)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{errors.New("anything"), exitFailed},
		{&usageError{errors.New("no")}, exitUsage},
		{&host.ConfigError{Err: host.ErrChecksum}, exitUsage},
		{&abi.DeniedError{Status: abi.Blocked}, exitBlocked},
		{&abi.DeniedError{Status: abi.Quarantined}, exitQuarantined},
		{&host.TransitionError{Status: host.PluginStatus{Phase: host.PluginQuarantined}}, exitQuarantined},
		{&host.TransitionError{Status: host.PluginStatus{Phase: host.PluginStopped}}, exitFailed},
		{host.ErrQuarantined, exitQuarantined},
		{&host.LimitError{Err: context.DeadlineExceeded}, exitLimit},
		{context.DeadlineExceeded, exitLimit},
		{context.Canceled, exitFailed},
		{&host.FunctionError{}, exitFailed},
		{quarantine.ErrReleased, exitFailed},
		{&state.LockedError{}, exitFailed},
		{&control.Error{Kind: control.Blocked}, exitBlocked},
		{&control.Error{Kind: control.Quarantined}, exitQuarantined},
		{&control.Error{Kind: control.Limit}, exitLimit},
		{&control.Error{Kind: control.Config}, exitUsage},
		{&control.Error{Kind: "of a later version"}, exitFailed},
		{&silentError{control.Blocked}, exitBlocked},
	} {
		if code := exitCode(fmt.Errorf("wrapped: %w", c.err)); code != c.code {
			t.Errorf("%T %v: exit code %d, want %d", c.err, c.err, code, c.code)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ünïcode, 漢": "plain, ünïcode, 漢",
		"\x1b[31mred":       `\x1b[31mred`,
		"a\nb\tc":           `a\nb\tc`,
		"\u202egnp.exe":     `\u202egnp.exe`,
		"\u009b31m":         `\u009b31m`,
		"bad\xff":           `bad\xff`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
	if got := paragraph("one\nerror: two\x07"); got != "one\n  error: two\\a" {
		t.Errorf("paragraph = %q", got)
	}
}

func TestForTerminal(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"one":                     "one\n",
		"one\n":                   "one\n",
		"a\tb\n\nc":               "a\tb\n\nc\n",
		"\x1b[2J\r\nerror: x\x00": `\x1b[2J\r` + "\nerror: x" + `\x00` + "\n",
	} {
		if got := string(forTerminal([]byte(in))); got != want {
			t.Errorf("forTerminal(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b]0;title\x07")
	f.Add("a\u202eb\xff\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range printable(s) {
			if !unicode.IsPrint(r) {
				t.Fatalf("printable(%q) has %q", s, r)
			}
		}
		if strings.Contains(paragraph("x"+s), "\nerror") {
			t.Fatalf("%q makes a line of its own", s)
		}
	})
}

// What a plugin says is the same string to who reads the JSON, and nothing to a
// terminal.
func TestJSONIsHarmlessAndTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		var out bytes.Buffer
		c := &cli{out: &out, format: "json"}
		if err := c.print(map[string]string{"s": s}, nil); err != nil {
			t.Fatal(err)
		}
		for _, r := range out.String() {
			if r != '\n' && printable(string(r)) != string(r) {
				t.Fatalf("%q in the output", r)
			}
		}
		var back map[string]string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil {
			t.Fatal(err)
		}
		if back["s"] != s {
			t.Fatalf("%q came back as %q", s, back["s"])
		}
	})
}
