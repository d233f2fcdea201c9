package wasi_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
)

// buildCommand builds the command of testdata.
func buildCommand(t testing.TB) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "command.wasm")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/command")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	wasm, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

const filesOutput = `mkdir: <nil>
write: <nil>
link: <nil>
rename: <nil>
symlink: <nil>
open: <nil>
append: <nil>
seek: 4 <nil>
read: "two" <nil>
truncate: <nil>
sync: <nil>
close: <nil>
times: <nil>
stat: 5 true true <nil>
readlink: ../three <nil>
  . d--------- <nil>
  a d--------- <nil>
  a/b d--------- <nil>
  a/b/two ---------- <nil>
  a/link L--------- <nil>
  three ---------- <nil>
walk: <nil>
out by ..: open /data/../secret: Bad file number
a link out: symlink ../secret /data/out: Operation not permitted
out by a link: open /data/out: No such file or directory
elsewhere: open /secret: Bad file number
missing: true
exclusive: true
remove: remove /data/a: Directory not empty
remove all: <nil>
`

// commandCase is one run of the command.
type commandCase struct {
	args   []string
	stdin  string
	code   int
	stdout string
	stderr string
	asked  string // is among what it asked of the gate
}

// TestCommand runs what the Go toolchain builds, on every engine at hand: what it
// prints, how it exits, and what it asks of the gate are the same on each.
func TestCommand(t *testing.T) {
	wasm := buildCommand(t)
	cases := []commandCase{
		{args: []string{"env"}, stdout: "[command env] [A=1 B=]\n", asked: "stdio_write stdout"},
		{args: []string{"cat"}, stdin: "some\x00text\n", stdout: "some\x00text\n", stderr: "10 <nil>\n", asked: "stdio_read stdin"},
		{args: []string{"files"}, stdout: filesOutput, asked: "file_link /data/a/one /data/a/b/two"},
		{args: []string{"copy", "/data/from", "/data/to"}, asked: "file_read /data/from 65536"},
		{args: []string{"sleep"}, stdout: "true\n", asked: "time_sleep"},
		{args: []string{"exit", "42"}, code: 42},
	}
	first := map[string]string{} // by case, what the first engine asked
	all := allEngines()
	for _, engine := range slices.Sorted(maps.Keys(all)) {
		t.Run(engine, func(t *testing.T) {
			m := compile(t, all[engine](t), wasm)
			for _, c := range cases {
				t.Run(c.args[0], func(t *testing.T) {
					asked := c.run(t, m)
					if want, ok := first[c.args[0]]; ok && asked != want {
						t.Errorf("asked\n%s\nanother engine asked\n%s", asked, want)
					}
					first[c.args[0]] = asked
				})
			}
		})
	}
}

// run runs the command in a fresh directory, and returns what it asked of the gate.
func (c commandCase) run(t *testing.T, m engines.Module) string {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789", 20_000)
	for path, content := range map[string]string{filepath.Join(dir, "secret"): "secret", filepath.Join(data, "from"): text} {
		if c.args[0] == "files" && strings.HasSuffix(path, "from") {
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, strings.NewReader(c.stdin), mount(t, "/data", data))
	code := w.run(t, m, append([]string{"command"}, c.args...), []string{"A=1", "B="})
	if code != c.code || w.stdout.String() != c.stdout || w.stderr.String() != c.stderr {
		t.Errorf("exit code %d, want %d\nstdout %q\n  want %q\nstderr %q\n  want %q", code, c.code, w.stdout.String(), c.stdout, w.stderr.String(), c.stderr)
	}
	asked := strings.Join(w.asked, "\n")
	if !strings.Contains(asked, c.asked) {
		t.Errorf("%q is not among what was asked:\n%s", c.asked, asked)
	}
	if c.args[0] == "copy" {
		if b, err := os.ReadFile(filepath.Join(data, "to")); err != nil || string(b) != text {
			t.Errorf("copied %d bytes, %v", len(b), err)
		}
	}
	return untimed(asked)
}

// untimed is what was asked without what no two runs have in common: when it was,
// and whether standard input was there before it was asked for.
func untimed(asked string) string {
	var rest []string
	for line := range strings.Lines(times.ReplaceAllString(asked, "$1")) {
		if !strings.HasPrefix(line, "time_") && !strings.HasPrefix(line, "stdio_read ") {
			rest = append(rest, line)
		}
	}
	return strings.Join(rest, "")
}
