package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// block describes a kind of block. The decoder, the reference in docs and the
// test of the example all read it, so each option is declared once.
type block struct {
	name     string // "" for the file itself
	label    string // what its label is; "" if it has none
	doc      string
	many     bool // may stand more than once, with different labels if it has any
	required bool
	options  []option
	blocks   []block
	unbuilt  []unbuilt
	add      func(parent any, h header) any // adds one to what was decoded of the parent
}

// option describes an attribute of a block.
type option struct {
	name     string
	kind     string // what its value is, for people
	doc      string
	standard string // what it is if it is left out, for people
	required bool
	secret   bool // never written in the configuration itself
	decode   func(d *decoder, target any, e hclsyntax.Expression)
}

// unbuilt is an option or block that the language has and this version has not.
type unbuilt struct {
	name, doc, instead string
}

// header says which block something was decoded from.
type header struct {
	label   string
	at      hcl.Range // type and labels
	labelAt hcl.Range
	origin  string // "file:line"
	twin    bool   // there is an earlier one of the same label; that is reported
}

func (h *header) place(x header) { *h = x }

// opt is the value of an option.
type opt[T any] struct {
	value T
	at    hcl.Range // of the value
	given bool      // it stands in the block
	ok    bool      // and is what it should be
}

// field makes an option of a kind, decoded into a field of B.
func field[B, T any](name string, k kind[T], doc string, in func(*B) *opt[T], traits ...func(*option)) option {
	o := option{name: name, kind: k.name, doc: doc}
	for _, t := range traits {
		t(&o)
	}
	o.decode = func(d *decoder, target any, e hclsyntax.Expression) {
		v := in(target.(*B))
		v.given, v.at = true, e.Range()
		if !o.secret || d.fromOutside(name, e) {
			v.value, v.ok = k.parse(d, e)
		}
	}
	return o
}

func required(o *option) { o.required = true }
func secret(o *option)   { o.secret = true }
func standard(s string) func(*option) {
	return func(o *option) { o.standard = s }
}

// into is a block's add: it appends a B to a list of P.
func into[P, B any, H interface {
	*B
	place(header)
}](list func(*P) *[]*B) func(any, header) any {
	return func(parent any, h header) any {
		b := new(B)
		H(b).place(h)
		l := list(parent.(*P))
		*l = append(*l, b)
		return b
	}
}

// dotted is where an option stands, as people call it: "plugin.limits".
func dotted(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), ".")
}

// body decodes a body into target. Whatever is wrong is reported to d.
func (d *decoder) body(spec *block, target any, body *hclsyntax.Body, at hcl.Range) {
	attrs := slices.SortedFunc(maps.Values(body.Attributes), func(a, b *hclsyntax.Attribute) int {
		return cmp.Compare(a.NameRange.Start.Byte, b.NameRange.Start.Byte)
	})
	for _, attr := range attrs {
		i := slices.IndexFunc(spec.options, func(o option) bool { return o.name == attr.Name })
		if i < 0 {
			d.unexpected(spec, attr.Name, attr.NameRange, false)
			continue
		}
		spec.options[i].decode(d, target, attr.Expr)
	}
	for _, o := range spec.options {
		if _, ok := body.Attributes[o.name]; o.required && !ok {
			d.fail(at, fmt.Sprintf("%s is missing", dotted(spec.name, o.name)), fmt.Sprintf("it is %s: %s", o.kind, o.doc))
		}
	}
	first := map[string]hcl.Range{}
	for _, b := range body.Blocks {
		i := slices.IndexFunc(spec.blocks, func(s block) bool { return s.name == b.Type })
		if i < 0 {
			d.unexpected(spec, b.Type, b.TypeRange, true)
			continue
		}
		d.block(&spec.blocks[i], target, b, first)
	}
	for _, s := range spec.blocks {
		if s.required && !slices.ContainsFunc(body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == s.name }) {
			d.fail(at, fmt.Sprintf("there is no block %s", s.name), s.doc)
		}
	}
}

// block decodes a block of target's body. first holds where each was seen first.
func (d *decoder) block(spec *block, target any, b *hclsyntax.Block, first map[string]hcl.Range) {
	h := header{at: b.DefRange(), origin: fmt.Sprintf("%s:%d", d.name, b.TypeRange.Start.Line)}
	h.labelAt = h.at
	switch want := min(len(spec.label), 1); {
	case len(b.Labels) < want || want == 1 && b.Labels[0] == "":
		d.fail(b.TypeRange, fmt.Sprintf("%s has no label", spec.name), fmt.Sprintf("its label is %s: write %s \"…\" { … }", spec.label, spec.name))
	case len(b.Labels) > want:
		d.fail(b.LabelRanges[want], fmt.Sprintf("%s has a label too many", spec.name), "want "+spec.form())
	case want == 1:
		h.label, h.labelAt = b.Labels[0], b.LabelRanges[0]
	}
	key := spec.name + "\x00" + h.label
	if before, ok := first[key]; ok && (!spec.many || spec.label != "") {
		h.twin = true
		what := spec.name
		if spec.label != "" {
			what = fmt.Sprintf("%s %q", spec.name, h.label)
		}
		d.fail(h.at, fmt.Sprintf("%s stands twice", what),
			fmt.Sprintf("the first is at %s:%d,%d: merge the two, or rename one", before.Filename, before.Start.Line, before.Start.Column))
	} else {
		first[key] = h.at
	}
	d.body(spec, spec.add(target, h), b.Body, h.at)
}

// form is how the block is opened.
func (s *block) form() string {
	if s.label == "" {
		return s.name + " { … }"
	}
	return fmt.Sprintf("%s \"…\" { … }", s.name)
}

// unexpected reports an attribute or block that has no place in spec.
func (d *decoder) unexpected(spec *block, name string, at hcl.Range, isBlock bool) {
	where := cmp.Or(spec.name, "the file")
	for _, u := range spec.unbuilt {
		if u.name == name {
			d.fail(at, dotted(spec.name, name)+" is not built yet", strings.TrimSuffix(u.doc+"; "+u.instead, "; "))
			return
		}
	}
	var names []string
	for _, o := range spec.options {
		if o.name == name {
			d.fail(at, fmt.Sprintf("%s is not a block", dotted(spec.name, name)), fmt.Sprintf("it is an option: write %s = …, %s", name, o.kind))
			return
		}
		names = append(names, o.name)
	}
	for _, b := range spec.blocks {
		if b.name == name {
			d.fail(at, fmt.Sprintf("%s is not an option", dotted(spec.name, name)), "it is a block: write "+b.form())
			return
		}
		names = append(names, b.name)
	}
	what := "option"
	if isBlock {
		what = "block"
	}
	detail := didYouMean(name, names)
	if detail == "" {
		detail = "there are: " + strings.Join(names, ", ")
	}
	d.fail(at, fmt.Sprintf("%s has no %s %q", where, what, name), strings.TrimSpace(detail))
}
