package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"forgeone.dev/forgeone/capability"
)

const example = "../config.hcl.example"

// TestExampleLoads loads the shipped example beside stand-ins for what it
// refers to.
func TestExampleLoads(t *testing.T) {
	src, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	d := dir(t, map[string]string{"bin/examples/summarise.wasm": "m", "bin/examples/summarise": "n", "docs/x": ""})
	path := filepath.Join(d, "config.hcl.example")
	write(t, path, string(src))
	opts := testOptions()
	for _, name := range []string{"file_close", "time_sleep", "random_get", "crypto_hash", "sys_info", "stdio_write"} {
		opts.Syscalls[name] = capability.Limited
	}
	opts.LookupEnv = func(name string) (string, bool) { return sum("n"), name == "SUMMARISE_SHA256" }
	c, err := Load(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Plugins) != 2 || len(c.Policies) != 3 || len(c.Identities) != 2 {
		t.Errorf("%d plugins, %d policies, %d identities", len(c.Plugins), len(c.Policies), len(c.Identities))
	}
}

// TestExampleShowsEveryOption walks the language: an option that the example
// does not show, at its place and at least in a comment, fails.
func TestExampleShowsEveryOption(t *testing.T) {
	src, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	f, diags := hclsyntax.ParseConfig(src, example, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	shown := 0
	var walk func(spec *block, at string, bodies []*hclsyntax.Body)
	walk = func(spec *block, at string, bodies []*hclsyntax.Body) {
		var own strings.Builder // the source of the bodies, without the blocks in them
		nested := map[string][]*hclsyntax.Body{}
		for _, b := range bodies {
			from := b.SrcRange.Start.Byte
			for _, n := range b.Blocks {
				own.Write(src[from:n.TypeRange.Start.Byte])
				from = n.CloseBraceRange.End.Byte
				nested[n.Type] = append(nested[n.Type], n.Body)
			}
			own.Write(src[from:b.SrcRange.End.Byte])
		}
		show := func(name string) {
			shown++
			if !regexp.MustCompile(`(?m)^\s*(# )?`+name+`\s+[="{]`).MatchString(own.String()) && nested[name] == nil {
				t.Errorf("%s does not show %s", example, dotted(at, name))
			}
		}
		for _, o := range spec.options {
			show(o.name)
		}
		for _, u := range spec.unbuilt {
			show(u.name)
		}
		for i, b := range spec.blocks {
			show(b.name)
			walk(&spec.blocks[i], dotted(at, b.name), nested[b.name])
		}
	}
	walk(language(), "", []*hclsyntax.Body{f.Body.(*hclsyntax.Body)})
	if shown < 60 {
		t.Errorf("only %d options: the walk is broken", shown)
	}
}

// TestEveryOptionIsStrict walks the language: each option refuses a value that
// is of no kind, each misspelt one is told from the right one, and each that is
// not built yet says so, as an option and as a block.
func TestEveryOptionIsStrict(t *testing.T) {
	// says reports whether the only line of a block, inside its parents, is
	// found wrong in the given words.
	says := func(parents []*block, line, want string) {
		t.Helper()
		var open, close string
		for _, p := range parents {
			label := ""
			if p.label != "" {
				label = ` "0"`
			}
			open += p.name + label + " {\n"
			close += "}\n"
		}
		d, err := newDecoder("strict.hcl", testOptions())
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.load([]byte(open + line + "\n" + close))
		var wrong *DiagnosticsError
		if !errors.As(err, &wrong) {
			t.Fatalf("%s: %v", line, err)
		}
		for _, d := range wrong.Diagnostics() {
			if d.Line == len(parents)+1 && strings.Contains(d.String(), want) {
				return
			}
		}
		t.Errorf("line %d, %s, is not told %q:\n%v", len(parents)+1, line, want, err)
	}
	var walk func(spec *block, parents []*block)
	walk = func(spec *block, parents []*block) {
		for _, o := range spec.options {
			says(parents, o.name+" = [[]]", "")
			says(parents, o.name+" = null", "")
			says(parents, o.name+"x = 1", fmt.Sprintf("did you mean %q?", o.name))
			says(parents, o.name+" {}", "not a block")
			if o.secret {
				says(parents, o.name+` = "literal"`, "is a secret")
			}
		}
		for _, u := range spec.unbuilt {
			says(parents, u.name+" = 1", "not built yet")
			says(parents, u.name+` "x" {}`, "not built yet")
		}
		for i := range spec.blocks {
			b := &spec.blocks[i]
			says(parents, b.name+" = {}", "is not an option")
			says(parents, b.name+`x "0" {}`, fmt.Sprintf("did you mean %q?", b.name))
			walk(b, append(slices.Clone(parents), b))
		}
	}
	walk(language(), nil)
}

// TestReference holds docs/config.md to the language.
func TestReference(t *testing.T) {
	const name = "../docs/config.md"
	want := reference()
	if *update {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not of this language: go test ./config -update writes it anew", name)
	}
}

// reference is docs/config.md.
func reference() string {
	var b strings.Builder
	b.WriteString("# Configuration\n\nMade from the language that `config` declares; do not edit. [config.hcl.example](../config.hcl.example) shows all of it at work.\n\n")
	b.WriteString("Values may use `env(\"NAME\")` and `file(\"path\")`; a secret can be written in no other way. " +
		"Durations are like `\"2s\"`, sizes like `\"64MiB\"` (B, KiB, MiB, GiB).\n")
	describe(&b, language(), "")
	return b.String()
}

func describe(b *strings.Builder, spec *block, at string) {
	if at != "" {
		form := at
		if spec.label != "" {
			form += fmt.Sprintf(" \"%s\"", spec.label)
		}
		fmt.Fprintf(b, "\n## %s\n", form)
	}
	fmt.Fprintf(b, "\n%s", spec.doc)
	if spec.required {
		b.WriteString(" Required.")
	}
	b.WriteString("\n")
	if len(spec.options) > 0 {
		b.WriteString("\n| option | value | if left out | meaning |\n|---|---|---|---|\n")
	}
	for _, o := range spec.options {
		absent := o.standard
		if o.required {
			absent = "**required**"
		}
		doc := o.doc
		if o.secret {
			doc += " (secret)"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", o.name, o.kind, absent, doc)
	}
	if len(spec.unbuilt) > 0 {
		b.WriteString("\nNot built yet, and refused:\n\n")
	}
	for _, u := range spec.unbuilt {
		fmt.Fprintf(b, "- `%s`: %s\n", u.name, strings.TrimSuffix(u.doc+"; "+u.instead, "; "))
	}
	for i := range spec.blocks {
		describe(b, &spec.blocks[i], dotted(at, spec.blocks[i].name))
	}
}
