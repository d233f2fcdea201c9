package config

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/host"
)

// kind is a kind of value. parse reports what is wrong to d.
type kind[T any] struct {
	name  string // for people: "text"
	parse func(d *decoder, e hclsyntax.Expression) (T, bool)
}

// item is an element of a list.
type item struct {
	text string
	at   hcl.Range
}

func texts(items []item) []string {
	out := make([]string, len(items))
	for i := range items {
		out[i] = items[i].text
	}
	return out
}

// whole is a whole number from least to most.
func whole[T int | uint32 | uint64](least, most int64) kind[T] {
	what := fmt.Sprintf("a whole number from %d", least)
	return kind[T]{what, func(d *decoder, e hclsyntax.Expression) (T, bool) {
		v, ok := d.value(e, cty.Number, what)
		if !ok {
			return 0, false
		}
		n, exact := v.AsBigFloat().Int64()
		if exact != big.Exact || n < least || n > most {
			d.fail(e.Range(), "a number out of range", fmt.Sprintf("want %s to %d", what, most))
			return 0, false
		}
		return T(n), true
	}}
}

var (
	text    = parsed("text", func(s string) (string, error) { return s, nil })
	boolean = kind[bool]{"true or false", func(d *decoder, e hclsyntax.Expression) (bool, bool) {
		v, ok := d.value(e, cty.Bool, "true or false")
		return ok && v.True(), ok
	}}
	count     = whole[int](1, math.MaxInt32)
	anyCount  = whole[int](0, math.MaxInt32)
	fuel      = whole[uint64](1, math.MaxInt64)
	callDepth = whole[uint32](1, math.MaxInt32)
	fraction  = kind[float64]{"a number from 0 to 1", func(d *decoder, e hclsyntax.Expression) (float64, bool) {
		v, ok := d.value(e, cty.Number, "a number from 0 to 1")
		if !ok {
			return 0, false
		}
		f, _ := v.AsBigFloat().Float64()
		if !(f >= 0 && f <= 1) {
			d.fail(e.Range(), "a number out of range", "want a number from 0 to 1")
			return 0, false
		}
		return f, true
	}}
	duration = parsed(`a duration such as "500ms" or "2s"`, parseDuration)
	timeout  = parsed(`a duration such as "2s", or "none"`, func(s string) (time.Duration, error) {
		if s == "none" {
			return host.NoTimeout, nil
		}
		return parseDuration(s)
	})
	size   = parsed(`a size such as "64MiB"`, ParseSize)
	digest = parsed("a SHA-256, 64 hexadecimal digits", func(s string) (string, error) {
		s = strings.ToLower(strings.TrimSpace(s)) // of file(), which may end in a newline
		if !hexDigest.MatchString(s) {
			return "", fmt.Errorf("%q is not a SHA-256", s)
		}
		return s, nil
	})
	level = choice(levels()...)

	// Paths come out absolute; relative ones are relative to the configuration.
	anyPath  = pathKind("a path", func(string) error { return nil })
	filePath = pathKind("the path of a file", regular)
	dirPath  = pathKind("the path of a directory", func(path string) error {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return plain(err, path)
		case !info.IsDir():
			return fmt.Errorf("%s is not a directory", path)
		}
		return nil
	})

	list = kind[[]item]{"a list of texts", func(d *decoder, e hclsyntax.Expression) ([]item, bool) {
		const want = `want a list of texts, ["…", "…"]`
		tuple, ok := unwrap(e).(*hclsyntax.TupleConsExpr)
		if !ok {
			d.fail(e.Range(), "a value that is no list", want)
			return nil, false
		}
		items := make([]item, 0, len(tuple.Exprs))
		for _, x := range tuple.Exprs {
			v, good := d.value(x, cty.String, "text")
			if ok = ok && good; good {
				items = append(items, item{v.AsString(), x.Range()})
			}
		}
		return items, ok
	}}
	table = kind[map[string]string]{"texts by name", func(d *decoder, e hclsyntax.Expression) (map[string]string, bool) {
		object, ok := unwrap(e).(*hclsyntax.ObjectConsExpr)
		if !ok {
			d.fail(e.Range(), "a value that is no table", `want texts by name, { name = "…" }`)
			return nil, false
		}
		out := make(map[string]string, len(object.Items))
		for _, it := range object.Items {
			key := hcl.ExprAsKeyword(it.KeyExpr)
			if key == "" {
				k, good := d.value(it.KeyExpr, cty.String, "a name")
				if !good {
					ok = false
					continue
				}
				key = k.AsString()
			}
			if _, twice := out[key]; twice {
				d.fail(it.KeyExpr.Range(), fmt.Sprintf("%q stands twice", key), "each name has one value")
				ok = false
			}
			v, good := d.value(it.ValueExpr, cty.String, "text")
			if !good {
				ok = false
				continue
			}
			out[key] = v.AsString()
		}
		return out, ok
	}}
)

var (
	hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)
	sizeForm  = regexp.MustCompile(`^([0-9]+) ?([A-Za-z]*)$`)
)

// parsed is a kind that is written as text.
func parsed[T any](name string, parse func(string) (T, error)) kind[T] {
	return kind[T]{name, func(d *decoder, e hclsyntax.Expression) (T, bool) {
		var none T
		v, ok := d.value(e, cty.String, name)
		if !ok {
			return none, false
		}
		t, err := parse(v.AsString())
		if err != nil {
			d.fail(e.Range(), err.Error(), "want "+name)
			return none, false
		}
		return t, true
	}}
}

// word is one of the words of a choice.
type word[T any] struct {
	text    string
	value   T
	unbuilt string // why it is not accepted yet; "" if it is
}

// choice is a kind that is one of a few words.
func choice[T any](words ...word[T]) kind[T] {
	var names, built []string
	for _, w := range words {
		names = append(names, w.text)
		if w.unbuilt == "" {
			built = append(built, strconv.Quote(w.text))
		}
	}
	name := "one of " + strings.Join(built, ", ")
	if len(built) == 1 {
		name = built[0]
	}
	return kind[T]{name, func(d *decoder, e hclsyntax.Expression) (T, bool) {
		var none T
		v, ok := d.value(e, cty.String, name)
		if !ok {
			return none, false
		}
		for _, w := range words {
			switch {
			case w.text != v.AsString():
			case w.unbuilt != "":
				d.fail(e.Range(), fmt.Sprintf("%q is not built yet", w.text), fmt.Sprintf("%s; want %s", w.unbuilt, name))
				return none, false
			default:
				return w.value, true
			}
		}
		d.fail(e.Range(), fmt.Sprintf("%q is not known here", v.AsString()), didYouMean(v.AsString(), names)+"want "+name)
		return none, false
	}}
}

func levels() []word[capability.TrustLevel] {
	var words []word[capability.TrustLevel]
	for i, name := range capability.LevelNames() {
		words = append(words, word[capability.TrustLevel]{text: name, value: capability.TrustLevel(i)})
	}
	return words
}

func pathKind(name string, check func(string) error) kind[string] {
	return kind[string]{name, func(d *decoder, e hclsyntax.Expression) (string, bool) {
		v, ok := d.value(e, cty.String, name)
		if !ok {
			return "", false
		}
		err := errors.New("an empty path")
		if v.AsString() != "" {
			path := d.resolve(v.AsString())
			if err = check(path); err == nil {
				return path, true
			}
		}
		d.fail(e.Range(), err.Error(), fmt.Sprintf("want %s; a relative path is relative to the directory of the configuration, %s", name, d.dir))
		return "", false
	}}
}

func parseDuration(s string) (time.Duration, error) {
	v, err := time.ParseDuration(s)
	if err != nil || v <= 0 {
		return 0, fmt.Errorf("%q is not a duration", s)
	}
	return v, nil
}

// ParseSize reads a size as a configuration has it: a number with a binary unit
// of IEC 80000-13, such as "64MiB". It is in bytes, and not 0.
func ParseSize(s string) (uint64, error) {
	bad := fmt.Errorf("%q is not a size", s)
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, bad
	}
	shift, ok := map[string]int{"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
	if !ok {
		for _, unit := range []string{"K", "M", "G"} {
			if strings.HasPrefix(strings.ToUpper(m[2]), unit) {
				return 0, fmt.Errorf("%w: did you mean %q", bad, m[1]+unit+"iB")
			}
		}
		return 0, bad
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%w: out of range", bad)
	}
	return n << shift, nil
}
