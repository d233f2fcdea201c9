package forgeone_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// documents are the texts that people read, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, p := range append(paths, "README.md", "SECURITY.md", "CHANGELOG.md", "RATIONALE.md") {
		texts[p] = read(t, p)
	}
	if len(texts) < 8 {
		t.Fatalf("only %d documents", len(texts))
	}
	return texts
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks are the code blocks of a document in a language.
func blocks(text, language string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

// wasip1 is the environment that builds a guest.
var wasip1 = []string{"GOOS=wasip1", "GOARCH=wasm"}

// build runs go build, without C.
func build(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %v: %v\n%s", args, err, out)
	}
}

func TestDocumentsLinkToWhatIsThere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	for doc, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			to := doc
			if path != "" {
				to = filepath.Join(filepath.Dir(doc), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
				continue
			}
			found := anchor == ""
			if !found {
				for _, h := range heading.FindAllStringSubmatch(read(t, to), -1) {
					found = found || strings.ReplaceAll(strings.ToLower(h[1]), " ", "-") == anchor
				}
			}
			if !found {
				t.Errorf("%s links to %s, which has no such heading", doc, m[1])
			}
		}
	}
}

func TestDocumentedMakeTargets(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	n := 0
	texts := documents(t)
	texts["config.hcl.example"] = read(t, "config.hcl.example")
	for doc, text := range texts {
		for _, m := range regexp.MustCompile("(?m)(?:^#? *|`)make ([a-z-]+)").FindAllStringSubmatch(text, -1) {
			if n++; !targets[m[1]] {
				t.Errorf("%s: there is no make %s", doc, m[1])
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d uses of make were seen", n)
	}
}

// SECURITY.md names the test that holds each promise.
func TestPromisesAreTested(t *testing.T) {
	var tests strings.Builder
	err := filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			tests.WriteString(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(read(t, "SECURITY.md"), -1)
	if len(names) < 5 {
		t.Fatalf("only %q", names)
	}
	for _, name := range names {
		if !strings.Contains(tests.String(), "func "+name+"(") {
			t.Errorf("SECURITY.md rests on %s, which is no test", name)
		}
	}
}

// The files of docs/plugin-author.md build, as WASM and natively.
func TestAuthorsGuideBuilds(t *testing.T) {
	text := read(t, "docs/plugin-author.md")
	root, err := filepath.Abs("docs/greet") // a package of this module, for its dependencies
	if err != nil {
		t.Fatal(err)
	}
	dir, replace := t.TempDir(), map[string]string{}
	for _, m := range regexp.MustCompile("(?s)`([a-z/]+\\.go)`:\n\n```go\n(.*?)```").FindAllStringSubmatch(text, -1) {
		file := filepath.Join(dir, strings.ReplaceAll(m[1], "/", "-"))
		code := strings.ReplaceAll(m[2], `"example.com/greet"`, `"forgeone.dev/forgeone/docs/greet"`)
		if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, filepath.FromSlash(m[1]))] = file
	}
	if len(replace) != 3 {
		t.Fatalf("the guide has %d files", len(replace))
	}
	overlay := filepath.Join(dir, "overlay.json")
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		t.Fatal(err)
	}
	build(t, wasip1, "-overlay", overlay, "-buildmode=c-shared", "-o", filepath.Join(dir, "greet.wasm"), "./docs/greet/wasm")
	build(t, nil, "-overlay", overlay, "-o", filepath.Join(dir, "greet-native"), "./docs/greet/native")
}

// README's own way works: its configuration, and its commands in their order.
func TestReadme(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no control socket on windows: peers cannot be checked")
	}
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no sh: ", err)
	}
	text := read(t, "README.md")
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build(t, nil, "-o", filepath.Join(dir, "bin", "forgeone"), "./cmd/forgeone")
	build(t, wasip1, "-buildmode=c-shared", "-o", filepath.Join(dir, "bin", "examples", "summarise.wasm"), "./plugins/examples/summarise-wasm")
	write("README.md", text)
	write("forgeone.hcl", blocks(text, "hcl")[0])

	want := map[string]string{ // what a command's output has to hold
		"policy check": "no mistakes", "call": `"words"`, "plugin reload": "active", "policy explain": "QUARANTINED by inbox",
		"audit verify": "intact", "module inspect": "forge/1",
	}
	seen := 0
	for line := range strings.Lines(blocks(text, "sh")[1]) {
		command, _, _ := strings.Cut(strings.TrimSpace(line), " #")
		command = strings.TrimSpace(command)
		if strings.Contains(command, "my.wasm") {
			continue // the reader's own
		}
		cmd := exec.Command("sh", "-c", "exec "+command)
		if strings.HasPrefix(command, "mkdir") {
			cmd = exec.Command("sh", "-c", command)
		}
		cmd.Dir = dir
		if background, ok := strings.CutSuffix(command, " &"); ok {
			cmd = exec.Command("sh", "-c", "exec "+background)
			cmd.Dir = dir
			serve(t, cmd)
			continue
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		for verb, part := range want {
			if strings.HasPrefix(command, "bin/forgeone "+verb+" ") {
				if seen++; !strings.Contains(string(out), part) {
					t.Errorf("%s: no %q in\n%s", command, part, out)
				}
			}
		}
	}
	if seen != len(want) {
		t.Errorf("%d of %d commands were seen", seen, len(want))
	}
}

// The example configuration grants its plugins what they ask for: a refusal
// costs them integrity with each call, until they are frozen.
func TestExampleConfigDeniesNothing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no native plugins on windows")
	}
	dir := t.TempDir()
	bin := func(name string) string { return filepath.Join(dir, "bin", name) }
	build(t, nil, "-o", bin("forgeone"), "./cmd/forgeone")
	build(t, wasip1, "-buildmode=c-shared", "-o", bin("examples/summarise.wasm"), "./plugins/examples/summarise-wasm")
	build(t, nil, "-o", bin("examples/summarise"), "./plugins/examples/summarise-native")
	config := filepath.Join(dir, "f.hcl")
	if err := os.WriteFile(config, []byte(read(t, "config.hcl.example")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "docs"), os.DirFS("docs")); err != nil {
		t.Fatal(err)
	}
	forgeone := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(bin("forgeone"), args...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("SUMMARISE_SHA256=%x", sha256.Sum256([]byte(read(t, bin("examples/summarise"))))))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, err.(*exec.ExitError).Stderr)
		}
		return string(out)
	}
	for _, plugin := range []string{"summarise", "summarise-native"} {
		if out := forgeone("call", "--config", config, plugin, "summarise", "--input", "/data/operator.md"); !strings.Contains(out, "words") {
			t.Errorf("%s: %s", plugin, out)
		}
	}
	if denied := forgeone("audit", "export", "--config", config, "--decision", "blocked"); denied != "" {
		t.Errorf("denied:\n%s", denied)
	}
	if calls := forgeone("audit", "export", "--config", config, "--kind", "call"); strings.Count(calls, `"function":"summarise"`) == 0 {
		t.Errorf("no calls on record:\n%s", calls)
	}
}

// serve starts a kernel, waits until it is ready and ends it with the test.
func serve(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, done := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			if strings.HasPrefix(s.Text(), "ready") {
				ready <- true
			}
		}
		close(ready)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-done
		if err := cmd.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	if !<-ready {
		t.Fatal("serve ended before it was ready")
	}
}
