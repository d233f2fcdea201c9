package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

const (
	maxFile    = 1 << 20 // bytes of the configuration, and of what file() reads
	maxNesting = 64      // brackets, quotes and templates inside one another
	maxPrefix  = 1024    // operators that nest without brackets
)

// decoder reads one configuration file and collects what is wrong with it.
type decoder struct {
	name  string // of the file, as the user gave it
	dir   string // absolute: what relative paths are relative to
	opts  Options
	src   []byte
	read  map[string][32]byte // SHA-256 of every file read, by absolute path
	ctx   *hcl.EvalContext
	diags hcl.Diagnostics
}

func newDecoder(name string, opts Options) (*decoder, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	if opts.LookupEnv == nil {
		opts.LookupEnv = os.LookupEnv
	}
	d := &decoder{name: name, dir: filepath.Dir(abs), opts: opts, read: map[string][32]byte{}}
	d.ctx = &hcl.EvalContext{Functions: map[string]function.Function{
		"env":  textFunction("name", d.env),
		"file": textFunction("path", d.file),
	}}
	return d, nil
}

// fail reports that something is wrong: what, and what was meant or how to mend it.
func (d *decoder) fail(at hcl.Range, summary, detail string) {
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at})
}

// parse is the syntax of the file.
func (d *decoder) parse(src []byte) (*hcl.File, bool) {
	d.src = slices.Clone(src) // hide changes it
	at := hcl.Range{Filename: d.name, Start: hcl.InitialPos, End: hcl.InitialPos}
	if !utf8.Valid(src) {
		d.fail(at, "the file is not text", "it is not valid UTF-8")
		return &hcl.File{Bytes: d.src}, false
	}
	if deep, ok := tooDeep(src, d.name); ok {
		d.fail(deep, "the file nests too deep", fmt.Sprintf("%d levels of brackets are the most", maxNesting))
		return &hcl.File{Bytes: d.src}, false
	}
	file, diags := hclsyntax.ParseConfig(d.src, d.name, hcl.InitialPos)
	d.diags = append(d.diags, diags...)
	return file, !diags.HasErrors()
}

// tooDeep finds where a file nests deeper than the parser, which recurses
// without a limit, can be trusted with.
func tooDeep(src []byte, name string) (hcl.Range, bool) {
	tokens, _ := hclsyntax.LexConfig(src, name, hcl.InitialPos)
	closes := map[hclsyntax.TokenType]hclsyntax.TokenType{
		hclsyntax.TokenCBrace:         hclsyntax.TokenOBrace,
		hclsyntax.TokenCBrack:         hclsyntax.TokenOBrack,
		hclsyntax.TokenCParen:         hclsyntax.TokenOParen,
		hclsyntax.TokenCQuote:         hclsyntax.TokenOQuote,
		hclsyntax.TokenCHeredoc:       hclsyntax.TokenOHeredoc,
		hclsyntax.TokenTemplateSeqEnd: hclsyntax.TokenTemplateInterp,
	}
	// Each kind of bracket is counted by itself: one that closes another kind
	// is a mistake and lowers nothing.
	open, depth, prefixes := map[hclsyntax.TokenType]int{}, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenTemplateControl:
			prefixes++
			t.Type = hclsyntax.TokenTemplateInterp
			fallthrough
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen,
			hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc, hclsyntax.TokenTemplateInterp:
			open[t.Type]++
			depth++
		case hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenQuestion:
			prefixes++
		default:
			if o, ok := closes[t.Type]; ok && open[o] > 0 {
				open[o]--
				depth--
			}
		}
		if depth > maxNesting || prefixes > maxPrefix {
			return t.Range, true
		}
	}
	return hcl.Range{}, false
}

// textFunction is a function from text to text.
func textFunction(parameter string, f func(string) (string, error)) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: parameter, Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			s, err := f(args[0].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			return cty.StringVal(s), nil
		},
	})
}

// env is the function of that name.
func (d *decoder) env(name string) (string, error) {
	v, ok := d.opts.LookupEnv(name)
	if !ok {
		return "", fmt.Errorf("the environment variable %q is not set", name)
	}
	if !utf8.ValidString(v) {
		return "", fmt.Errorf("the environment variable %q is not text: it is not valid UTF-8", name)
	}
	return v, nil
}

// file is the function of that name.
func (d *decoder) file(name string) (string, error) {
	if name == "" {
		return "", errors.New("the path is empty")
	}
	b, err := d.readFile(d.resolve(name))
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("%s is not text: it is not valid UTF-8", name)
	}
	return string(b), nil
}

// resolve is the absolute path that a path of the file stands for.
func (d *decoder) resolve(path string) string {
	path = filepath.FromSlash(path)
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(d.dir, path)
}

// readFile reads a file that is part of the configuration.
func (d *decoder) readFile(path string) ([]byte, error) {
	if err := regular(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, plain(err, path)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, plain(err, path)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	d.read[path] = sha256.Sum256(b)
	return b, nil
}

// regular is an error unless there is a regular file at path: reading from
// anything else may never end.
func regular(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return plain(err, path)
	case info.IsDir():
		return fmt.Errorf("%s is a directory", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}
	return nil
}

// plain is a file system's error in a form that people read: path and cause.
func plain(err error, path string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s does not exist", path)
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// files are those that were read, sorted, and a digest of them all: the
// SHA-256 of what sha256sum prints of them in the configuration's directory.
func (d *decoder) files() (paths []string, digest string) {
	paths = slices.Sorted(maps.Keys(d.read))
	h := sha256.New()
	for _, p := range paths {
		name := p
		if rel, err := filepath.Rel(d.dir, p); err == nil {
			name = filepath.ToSlash(rel)
		}
		fmt.Fprintf(h, "%x  %s\n", d.read[p], name)
	}
	return paths, fmt.Sprintf("%x", h.Sum(nil))
}

// fromOutside reports whether a secret comes from the environment or a file.
// One that does not is reported, and hidden from the source that a diagnostic
// shows.
func (d *decoder) fromOutside(name string, e hclsyntax.Expression) bool {
	call, ok := unwrap(e).(*hclsyntax.FunctionCallExpr)
	if ok && (call.Name == "env" || call.Name == "file") {
		return true
	}
	for i := e.Range().Start.Byte; i < min(e.Range().End.Byte, len(d.src)); i++ {
		if d.src[i] != '\n' {
			d.src[i] = '*'
		}
	}
	d.fail(e.Range(), name+" is a secret that stands in the configuration",
		fmt.Sprintf(`a secret comes from the environment or a file of its own: write %s = env("NAME") or %s = file("path"), and replace this one, which must count as known`, name, name))
	return false
}

// isLiteral tells true, false and null from other words.
func isLiteral(e hclsyntax.Expression) bool {
	_, ok := unwrap(e).(*hclsyntax.LiteralValueExpr)
	return ok
}

func unwrap(e hclsyntax.Expression) hclsyntax.Expression {
	for {
		p, ok := e.(*hclsyntax.ParenthesesExpr)
		if !ok {
			return e
		}
		e = p.Expression
	}
}

// value evaluates an expression, which must be of a type that want names.
func (d *decoder) value(e hclsyntax.Expression, typ cty.Type, want string) (cty.Value, bool) {
	if word := hcl.ExprAsKeyword(e); word != "" && !isLiteral(e) {
		d.fail(e.Range(), word+" is not a value", fmt.Sprintf("want %s; text stands in quotes: %q", want, word))
		return cty.NilVal, false
	}
	if bad := program(e); bad != nil {
		d.fail(bad.Range(), "an expression that is no plain value", fmt.Sprintf("want %s: a configuration holds values, env() and file(), not programs", want))
		return cty.NilVal, false
	}
	v, diags := e.Value(d.ctx)
	if diags.HasErrors() {
		for _, diag := range diags {
			diag.Expression, diag.EvalContext = nil, nil // Render would print their values
		}
		d.diags = append(d.diags, diags...)
		return cty.NilVal, false
	}
	switch {
	case v.IsNull() || !v.IsKnown():
		d.fail(e.Range(), "a null value", fmt.Sprintf("want %s; to leave the option out, leave out the line", want))
	case !v.Type().Equals(typ):
		d.fail(e.Range(), fmt.Sprintf("a value of the wrong type: %s", v.Type().FriendlyName()), "want "+want)
	default:
		return v, true
	}
	return cty.NilVal, false
}

// program is the part of an expression that is more than a plain value, or nil.
func program(e hclsyntax.Expression) hclsyntax.Expression {
	var parts []hclsyntax.Expression
	switch e := e.(type) {
	case *hclsyntax.LiteralValueExpr:
	case *hclsyntax.ScopeTraversalExpr: // there are no variables: evaluating it says so
	case *hclsyntax.ParenthesesExpr:
		parts = []hclsyntax.Expression{e.Expression}
	case *hclsyntax.TemplateWrapExpr:
		parts = []hclsyntax.Expression{e.Wrapped}
	case *hclsyntax.TemplateExpr:
		parts = e.Parts
	case *hclsyntax.FunctionCallExpr:
		parts = e.Args
	case *hclsyntax.UnaryOpExpr:
		parts = []hclsyntax.Expression{e.Val}
	case *hclsyntax.TupleConsExpr:
		parts = e.Exprs
	case *hclsyntax.ObjectConsExpr:
		for _, item := range e.Items {
			parts = append(parts, item.KeyExpr, item.ValueExpr)
		}
	case *hclsyntax.ObjectConsKeyExpr:
		parts = []hclsyntax.Expression{e.Wrapped}
	default:
		return e
	}
	for _, p := range parts {
		if bad := program(p); bad != nil {
			return bad
		}
	}
	return nil
}
