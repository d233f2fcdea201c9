package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// scaffolded makes a new plugin.
func scaffolded(t *testing.T, lang string) newPlugin {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a folder")
	args := []string{"plugin", "new", "--lang", lang, "--dir", dir, "--format", "json", "my-greeter"}
	if strings.HasSuffix(lang, "go") {
		args = append(args, "--sdk", ".")
	}
	made := decode[newPlugin](t, forgeone(t, args...).want(t, 0))
	if made.Name != "my-greeter" || made.Language != lang || made.Dir != dir || !slices.Contains(made.Files, "forgeone.hcl") || !slices.Contains(made.Files, "Makefile") {
		t.Errorf("got %+v", made)
	}
	for _, f := range made.Files {
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil || strings.Contains(string(b), "[[") || strings.Contains(string(b), "<no value>") {
			t.Errorf("%s: %v\n%s", f, err, b)
		}
	}
	return made
}

// TestPluginNew makes a plugin in each language, builds it, tests it and calls
// it, as its author would. Nothing is fetched.
func TestPluginNew(t *testing.T) {
	t.Parallel()
	cache := goCache(t)
	has := func(tools ...string) func() string {
		return func() string {
			for _, tool := range tools {
				if _, err := exec.LookPath(tool); err != nil {
					return tool
				}
			}
			return ""
		}
	}
	for lang, missing := range map[string]func() string{
		"go":        has("go"),
		"native-go": has("go"),
		"c": func() string {
			if tool := has("clang", "wasm-ld")(); tool != "" {
				return tool + " (Debian: apt install clang lld)"
			}
			if targets, err := exec.Command("clang", "--print-targets").Output(); err != nil || !strings.Contains(string(targets), "wasm32") {
				return "clang with the target wasm32"
			}
			return ""
		},
		"assemblyscript": func() string {
			if tool := has("node", "npm")(); tool != "" {
				return tool + " (Debian: apt install nodejs npm)"
			}
			if _, err := os.Stat(asInstalled); err != nil {
				return "the compiler: npm install in plugins/examples/assemblyscript-greet"
			}
			return ""
		},
	} {
		t.Run(lang, func(t *testing.T) {
			t.Parallel()
			made := scaffolded(t, lang)
			if _, err := exec.LookPath("make"); err != nil {
				t.Skip("needs make")
			}
			if tool := missing(); tool != "" {
				t.Skip("needs " + tool)
			}
			if lang == "assemblyscript" {
				install(t, made.Dir)
			}
			for _, target := range [][]string{{}, {"test"}, {"try"}} {
				cmd := exec.Command("make", append(target, "FORGEONE="+binary)...)
				cmd.Dir = made.Dir
				// The modules that this project needs, some of which only go mod tidy looks at: where there
				// is nothing kept of them they are fetched, and the checksum database may be out of reach.
				cmd.Env = append(os.Environ(), "GOSUMDB=off", "GOCACHE="+cache)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("make %v: %v\n%s", target, err, out)
				}
				if slices.Equal(target, []string{"try"}) && !strings.Contains(string(out), "ok: with its grants") {
					t.Errorf("make try: %s", out)
				}
			}
			// It is granted what it asks for: nothing is missing.
			forgeone(t, "audit", "export", "--config", filepath.Join(made.Dir, "forgeone.hcl"), "--decision", "blocked").want(t, 0)
		})
	}
}

// goCache is where the go command keeps what it built, which TestMain turned
// away from for what forgeone keeps.
func goCache(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "env", "GOCACHE")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "XDG_CACHE_HOME=") })
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// asInstalled is where the example in AssemblyScript has its compiler.
const asInstalled = "../../plugins/examples/assemblyscript-greet/node_modules/assemblyscript"

// install does what npm install does, with what the example has.
func install(t *testing.T, dir string) {
	t.Helper()
	from, err := filepath.Abs(filepath.Dir(asInstalled))
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "node_modules")
	if err := os.MkdirAll(filepath.Join(to, "@forgeone"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"assemblyscript", "binaryen", "long"} {
		if err := os.Symlink(filepath.Join(from, p), filepath.Join(to, p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "sdk"), filepath.Join(to, "@forgeone", "sdk")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(to, ".package-lock.json"), nil)
}

// TestPluginNewRefuses says what is refused, and that nothing is written then.
func TestPluginNewRefuses(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	mine := filepath.Join(full, "Makefile")
	write(t, mine, []byte("mine"))
	none := filepath.Join(t.TempDir(), "none")
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"full folder": {[]string{"--lang", "c", "--dir", full, "p"}, 1, "is not empty, and nothing is overwritten"},
		"a file":      {[]string{"--lang", "c", "--dir", mine, "p"}, 1, "Makefile"},
		"language":    {[]string{"--lang", "cobol", "--dir", none, "p"}, 2, "want one of go, native-go, c, assemblyscript"},
		"no language": {[]string{"--dir", none, "p"}, 2, `"lang" not set`},
		"name":        {[]string{"--lang", "c", "--dir", none, "../p"}, 2, "cannot name a plugin"},
		"no name":     {[]string{"--lang", "c", "--dir", none}, 2, "want NAME"},
		"sdk":         {[]string{"--lang", "go", "--dir", none, "--sdk", full, "p"}, 2, "is no checkout"},
		"sdk for c":   {[]string{"--lang", "c", "--dir", none, "--sdk", ".", "p"}, 2, "--sdk is for plugins in Go"},
	} {
		t.Run(name, func(t *testing.T) {
			r := forgeone(t, append([]string{"plugin", "new"}, tc.args...)...)
			r.want(t, tc.code)
			if !strings.Contains(r.err, tc.want) {
				t.Errorf("got %q, want %q", r.err, tc.want)
			}
		})
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("the file of the full folder: %q, %v", b, err)
	}
	if left, err := os.ReadDir(full); err != nil || len(left) != 1 {
		t.Errorf("the full folder: %v, %v", left, err)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a folder was made for what was refused")
	}
	forgeone(t, "__complete", "plugin", "new", "--lang", "").want(t, 0, "native-go", "assemblyscript")
}
