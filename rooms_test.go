// Package forgeone_test holds what is true of the tree as a whole.
package forgeone_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "forgeone.dev/forgeone"

// rooms says which of our packages each package may import: the architecture.
// A trailing "/..." stands for a folder and all that lies below it. A package
// that is not listed fails the test: give it a place here first.
var rooms = map[string][]string{
	"capability": {},
	"audit":      {},
	"state":      {},
	"child":      {},
	"engines":    {},

	"engines/internal/...": {"engines"},
	"engines/wazero":       {"engines", "engines/internal/..."},
	"engines/wasmer":       {"engines", "engines/internal/..."},
	"engines/wasmtime":     {"engines", "engines/internal/..."},
	"engines/meter/...":    {"engines", "engines/internal/...", "engines/meter/..."},
	"engines/cache":        {"engines", "engines/internal/..."},
	"engines/bench":        {"engines", "engines/internal/..."},
	"engines/worker/...":   {"engines", "engines/internal/...", "engines/worker/...", "engines/meter", "child"},

	"zta":              {"capability"},
	"abi":              {"capability", "zta", "audit"},
	"abi/forge":        {"abi", "abi/wasi", "abi/internal/...", "engines"},
	"abi/extism":       {"abi", "abi/wasi", "abi/internal/...", "engines"},
	"abi/wasi":         {"abi", "abi/internal/...", "engines"},
	"abi/internal/...": {"abi", "engines"},
	"syscalls":         {"abi", "state", "child", "capability"},
	"native":           {"child", "sdk/wire", "capability"},
	"quarantine":       {"zta", "audit", "state"},
	"host":             {"abi", "abi/forge", "abi/extism", "abi/wasi", "native", "engines", "quarantine", "zta", "audit", "state", "capability"},
	"config":           {"host", "zta", "audit", "capability"},
	"control":          {"host", "quarantine", "audit", "zta", "config"},

	"sdk":                {},
	"sdk/c":              {},
	"sdk/assemblyscript": {},
	"sdk/wire":           {},
	"sdk/guest":          {"sdk"},
	"sdk/native":         {"sdk", "sdk/wire"},

	// Plugins are written as an outsider would: the SDK and nothing else.
	"plugins/examples/...": {"sdk", "sdk/guest", "sdk/native", "plugins/examples/..."},

	"cmd/forgeone":          {"*"},
	"cmd/forgeone/builtins": {"engines", "engines/wazero", "engines/wasmer", "engines/wasmtime", "engines/meter", "engines/cache", "engines/worker", "config", "host"},
	"cmd/forgeone-engine":   {"engines", "engines/wazero", "engines/wasmer", "engines/wasmtime", "engines/meter", "engines/cache", "engines/bench", "engines/worker/..."},
}

// external says who alone may import a package of somebody else's.
var external = map[string][]string{
	"github.com/hashicorp/hcl":       {"config"},
	"github.com/hashicorp/go-plugin": {"child", "sdk/native", "engines/worker"},
	"github.com/tetratelabs/wazero":  {"engines/wazero"},
	"github.com/wasmerio/wasmer-go":  {"engines/wasmer"},
	"github.com/bytecodealliance":    {"engines/wasmtime"},
	"go.etcd.io/bbolt":               {"state"},
	"cel.dev/cel-go":                 {"zta"},
	"aead.dev/minisign":              {"zta"},
	"golang.org/x/mod/sumdb":         {"audit"},
	"github.com/spf13/cobra":         {"cmd/forgeone", "cmd/forgeone-engine"},
}

// testPackages are imported by tests alone and may import anything.
var testPackages = []string{"engines/enginetest", "abi/abitest", "sdk/sdktest"}

// TestImportDirections fails when a package imports one that it must not: the
// shape of the tree is a promise, kept here.
func TestImportDirections(t *testing.T) {
	seen := map[string]bool{}
	walkImports(t, func(dir, file, imp string, test bool) {
		if slices.ContainsFunc(testPackages, func(p string) bool { return within(dir, p) }) || test {
			return
		}
		allowed, ok := lookup(rooms, dir)
		if !ok {
			if !seen[dir] {
				t.Errorf("package %s has no place in the architecture: add it to rooms", dir)
			}
			seen[dir] = true
			return
		}
		seen[dir] = true
		if ours, found := strings.CutPrefix(imp, module+"/"); found {
			if slices.ContainsFunc(testPackages, func(p string) bool { return within(ours, p) }) {
				t.Errorf("%s imports the test package %s", file, ours)
			} else if !slices.ContainsFunc(allowed, func(a string) bool { return a == "*" || matches(a, ours) }) {
				t.Errorf("%s: %s must not import %s; it may import %v", file, dir, ours, allowed)
			}
			return
		}
		for ext, users := range external {
			if within(imp, ext) && !slices.Contains(users, dir) {
				t.Errorf("%s: only %v may import %s", file, users, ext)
			}
		}
	})
	if len(seen) < len(rooms)/2 {
		t.Fatalf("only %d packages seen: the walk is broken", len(seen))
	}
}

// TestPackageDocs fails when a package does not say what it is for.
func TestPackageDocs(t *testing.T) {
	documented, packages := map[string]bool{}, map[string]bool{}
	walkFiles(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		packages[dir] = true
		if f.Doc != nil && (strings.HasPrefix(f.Doc.Text(), "Package ") || f.Name.Name == "main") {
			documented[dir] = true
		}
	})
	for dir := range packages {
		if !documented[dir] {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

func walkImports(t *testing.T, f func(dir, file, imp string, test bool)) {
	walkFiles(t, func(path string) {
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range parsed.Imports {
			f(filepath.ToSlash(filepath.Dir(path)), path, strings.Trim(imp.Path.Value, `"`), strings.HasSuffix(path, "_test.go"))
		}
	})
}

func walkFiles(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "var" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); d.IsDir() && path != "." && err == nil {
			return filepath.SkipDir // a module of its own
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") && filepath.Dir(path) != "." {
			f(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func lookup(m map[string][]string, dir string) ([]string, bool) {
	for pattern, v := range m {
		if matches(pattern, dir) {
			return v, true
		}
	}
	return nil, false
}

func matches(pattern, dir string) bool {
	if p, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(dir, p)
	}
	return pattern == dir
}

func within(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
