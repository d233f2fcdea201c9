package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs are the texts that users type from.
func docs(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("docs: %v, %v", paths, err)
	}
	texts := map[string]string{}
	for _, p := range append(paths, "../../README.md", "../../SECURITY.md", "../../CHANGELOG.md", "../../config.hcl.example") {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(p)] = string(b)
	}
	return texts
}

// Every command of the documentation is one that this binary takes: whole in
// blocks of shell, by its verb and flags where a sentence names it.
func TestDocumentedCommandsParse(t *testing.T) {
	block := regexp.MustCompile("(?s)```sh\n(.*?)```")
	span := regexp.MustCompile("`(forgeone [^`\n]+)`")
	parse := func(args []string, whole bool) error {
		found, rest, err := (&cli{}).root().Find(args[1:])
		if err == nil {
			err = found.ParseFlags(rest)
		}
		if err != nil || !whole {
			return err
		}
		return errors.Join(found.ValidateArgs(found.Flags().Args()), found.ValidateRequiredFlags(), found.ValidateFlagGroups())
	}
	n := 0
	check := func(doc, line string, whole bool) {
		t.Helper()
		n++
		if err := parse(fields(line), whole); err != nil {
			t.Errorf("%s: %q: %v", doc, line, err)
		}
	}
	for doc, text := range docs(t) {
		for _, b := range block.FindAllStringSubmatch(text, -1) {
			for line := range strings.Lines(b[1]) {
				line, _, _ = strings.Cut(line, " #")
				line, _, _ = strings.Cut(line, " > ")
				line = strings.TrimRight(line, " &\n")
				if line = strings.TrimPrefix(line, "bin/"); strings.HasPrefix(line, "forgeone ") {
					check(doc, line, true)
				}
			}
		}
		for _, s := range span.FindAllStringSubmatch(text, -1) {
			check(doc, strings.ReplaceAll(s[1], "…", "x"), false)
		}
	}
	if n < 25 {
		t.Errorf("only %d commands were seen", n)
	}
}

// The configuration that plugin-author.md gives is one.
func TestDocumentedConfigurations(t *testing.T) {
	t.Parallel()
	hcl := regexp.MustCompile("(?s)```hcl\n(.*?)```").FindStringSubmatch(docs(t)["plugin-author.md"])
	if hcl == nil {
		t.Fatal("there is none")
	}
	config := setup(t, hcl[1])
	write(t, filepath.Join(filepath.Dir(config), "greet.wasm"), toolModule())
	if err := os.Mkdir(filepath.Join(filepath.Dir(config), "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	forgeone(t, "policy", "check", "--config", config).want(t, 0, "no mistakes")
}

// What operator.md says that conditions may read is there, and of its type.
func TestDocumentedConditions(t *testing.T) {
	t.Parallel()
	row := regexp.MustCompile("(?m)^\\| `((?:subject|dna|custom|syscall|args|resources|now)[^`]*)` \\| ([a-z ]+) \\|")
	uses := map[string]string{
		"text": "%s == 'x'", "list of texts": "'x' in %s", "number": "%s < 0.5", "whole number": "%s < 5",
		"true or false": "%s", "time": "%s < now", "texts by name": "%s['x'] == 'y'",
	}
	var policies strings.Builder
	rows := row.FindAllStringSubmatch(docs(t)["operator.md"], -1)
	for i, r := range rows {
		use, ok := uses[r[2]]
		if !ok {
			t.Fatalf("%s has the type %q", r[1], r[2])
		}
		when := strings.ReplaceAll(strings.ReplaceAll(use, "%s", r[1]), `"`, `\"`)
		policies.WriteString("policy \"p" + string(rune('a'+i)) + "\" {\n  syscalls = [\"*\"]\n  when = \"" + when + "\"\n}\n")
	}
	if len(rows) < 15 {
		t.Fatalf("only %d names were seen", len(rows))
	}
	forgeone(t, "policy", "check", "--config", setup(t, baseConfig+policies.String())).want(t, 0, "no mistakes")
}
