package capability_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/capability"
)

func Example() {
	set, err := capability.New(capability.Grant{
		Syscalls:  []string{"read_file", "kv_*"},
		Resources: []string{"file:///data/**"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(set.Syscall("file_open"), set.Syscall("file_write"))
	fmt.Println(set.Resource("file:///data/in/report.csv"), set.Resource("file:///etc/passwd"))
	// Output:
	// true false
	// true false
}

func mustNew(t interface{ Fatal(...any) }, g capability.Grant) capability.Set {
	s, err := capability.New(g)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestZeroSetGrantsNothing(t *testing.T) {
	for name, s := range map[string]capability.Set{
		"zero":                  {},
		"zero and all":          capability.Set{}.Intersect(capability.All()),
		"all and zero":          capability.All().Intersect(capability.Set{}),
		"all, zero and all":     capability.All().Intersect(capability.Set{}).Intersect(capability.All()),
		"compiled from nothing": mustNew(t, capability.Grant{}),
	} {
		_, custom := s.Custom("x")
		if s.Syscall("file_open") || s.Syscall("") || s.Resource("file:///data") || s.API("p/f") || custom || len(s.Attributes()) > 0 {
			t.Errorf("%s: grants something", name)
		}
		if name != "compiled from nothing" && s.Resource("clock://monotonic") {
			t.Errorf("%s: grants the plugin's own resources", name)
		}
		if len(s.Grant().Syscalls) > 0 {
			t.Errorf("%s: text %+v", name, s.Grant())
		}
	}
}

func TestAll(t *testing.T) {
	s := capability.All()
	if !s.Syscall("anything") || !s.Resource("file:///x") || !s.Resource("no uri") || !s.API("p/f") {
		t.Error("All does not grant everything")
	}
}

func TestSyscalls(t *testing.T) {
	for _, c := range []struct {
		entry string
		yes   string
		no    string
	}{
		{"file_open", "file_open", "file_read file_opens open_file"},
		{"open_file", "file_open", "file_read"},
		{"read_file", "file_open file_read", "file_write read_file"},
		{"write_file", "file_open file_write", "file_read"},
		{"kv_*", "kv_get kv_ kv_put", "kv skv_get"},
		{"*", "file_open x", ""},
		{"*_get", "kv_get env_get", "kv_put"},
	} {
		s := mustNew(t, capability.Grant{Syscalls: []string{c.entry}})
		for _, name := range strings.Fields(c.yes) {
			if !s.Syscall(name) {
				t.Errorf("%q does not grant %q", c.entry, name)
			}
		}
		for _, name := range strings.Fields(c.no) {
			if s.Syscall(name) {
				t.Errorf("%q grants %q", c.entry, name)
			}
		}
	}
}

func TestNewReportsEverything(t *testing.T) {
	_, err := capability.New(capability.Grant{
		Syscalls:  []string{"", "a b", "file_open", "x\x00"},
		Resources: []string{"/data", "file:///ok", "file://relative"},
		APIs:      []string{"", "p/f"},
	})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 6 {
		t.Fatalf("want six errors at once:\n%v", err)
	}
}

func TestAPIs(t *testing.T) {
	s := mustNew(t, capability.Grant{APIs: []string{"search/query", "mail/*"}})
	for name, want := range map[string]bool{
		"search/query": true, "search/drop": false, "mail/send": true, "mail/a/b": false, "email/send": false, "": false,
	} {
		if got := s.API(name); got != want {
			t.Errorf("API(%q) = %v", name, got)
		}
		if got := s.Resource("api://" + name); got != want {
			t.Errorf("Resource(api://%s) = %v", name, got)
		}
	}
}

func TestSetIsItsOwn(t *testing.T) {
	g := capability.Grant{Syscalls: []string{"file_open"}, Custom: map[string]string{"region": "eu"}}
	s := mustNew(t, g)
	g.Syscalls[0], g.Custom["region"] = "*", "us"
	s.Grant().Custom["region"] = "us"
	s.Attributes()["region"] = "us"
	if v, ok := s.Custom("region"); v != "eu" || !ok || s.Grant().Syscalls[0] != "file_open" {
		t.Error("the set changed")
	}
}

func TestAboveAndUnknown(t *testing.T) {
	lowest := map[string]capability.TrustLevel{
		"file_open": capability.Limited, "file_read": capability.Limited, "file_write": capability.Standard, "proc_create": capability.Core,
	}
	s := mustNew(t, capability.Grant{Syscalls: []string{"file_*", "read_file", "write_file", "proc_*", "proc_create", "bogus", "x_*"}})
	if got, want := s.Above(capability.Limited, lowest), []string{"write_file", "proc_*", "proc_create"}; !slices.Equal(got, want) {
		t.Errorf("above limited: %q, want %q", got, want)
	}
	if got := s.Above(capability.Core, lowest); got != nil {
		t.Errorf("above core: %q", got)
	}
	if got, want := s.Unknown(lowest), []string{"bogus", "x_*"}; !slices.Equal(got, want) {
		t.Errorf("unknown: %q, want %q", got, want)
	}
}

func TestTrustLevels(t *testing.T) {
	var zero capability.TrustLevel
	if zero != capability.Quarantined {
		t.Errorf("the zero level is %s", zero)
	}
	for i, name := range capability.LevelNames() {
		l, err := capability.ParseTrustLevel(name)
		if err != nil || int(l) != i || l.String() != name {
			t.Errorf("%q: %v, %v", name, l, err)
		}
		text, _ := l.MarshalText()
		var back capability.TrustLevel
		if err := back.UnmarshalText(text); err != nil || back != l {
			t.Errorf("%q: %v, %v", text, back, err)
		}
	}
	if l, err := capability.ParseTrustLevel("Core"); err == nil || l != capability.Quarantined {
		t.Errorf("a wrong level is %s", l)
	}
}

// Laws of sets.

func drawSet(t *rapid.T, label string) capability.Set {
	return mustNew(t, drawGrant(t, label))
}

func drawGrant(t *rapid.T, label string) capability.Grant {
	list := func(what string, from ...string) []string {
		return rapid.SliceOfN(rapid.SampledFrom(from), 0, 4).Draw(t, label+" "+what)
	}
	return capability.Grant{
		Syscalls:  list("syscalls", "file_open", "file_*", "read_file", "*_get", "kv_put", "*"),
		Resources: list("resources", "file:///data/**", "file:///data/*", "file:///data", "file:///**", "tcp://*.internal:*", "tcp://db.internal:5432", "env://APP_*"),
		APIs:      list("apis", "a/f", "a/*", "*"),
	}
}

// holds is all that a set grants of a small world.
func holds(s capability.Set) map[string]bool {
	out := map[string]bool{}
	for _, n := range []string{"file_open", "file_read", "file_write", "kv_get", "kv_put", "env_get", "bogus"} {
		out["syscall "+n] = s.Syscall(n)
	}
	for _, r := range []string{"file:///", "file:///data", "file:///data/a", "file:///data/a/b", "file:///database", "tcp://db.internal:5432",
		"tcp://x.internal:1", "tcp://internal:1", "env://APP_X", "env://HOME", "clock://monotonic", "kv://own/x", "odd"} {
		out["resource "+r] = s.Resource(r)
	}
	for _, a := range []string{"a/f", "a/g", "b/f"} {
		out["api "+a] = s.API(a)
	}
	return out
}

func TestIntersection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawSet(t, "a"), drawSet(t, "b"), drawSet(t, "c")
		inA, inB := holds(a), holds(b)
		for what, got := range holds(a.Intersect(b)) {
			if got != (inA[what] && inB[what]) {
				t.Fatalf("%s: %v of %v and %v", what, got, inA[what], inB[what])
			}
		}
		same := func(law string, x, y capability.Set) {
			if fmt.Sprint(holds(x)) != fmt.Sprint(holds(y)) {
				t.Fatalf("intersection is not %s", law)
			}
		}
		same("commutative", a.Intersect(b), b.Intersect(a))
		same("associative", a.Intersect(b).Intersect(c), a.Intersect(b.Intersect(c)))
		same("idempotent", a.Intersect(a), a)
		same("neutral with All", a.Intersect(capability.All()), a)
		same("empty with nothing", a.Intersect(capability.Set{}), capability.Set{})
	})
}

func TestMoreEntriesNeverGrantLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, more := drawGrant(t, "a"), drawGrant(t, "b")
		before := holds(mustNew(t, g))
		g.Syscalls = append(g.Syscalls, more.Syscalls...)
		g.Resources = append(g.Resources, more.Resources...)
		g.APIs = append(g.APIs, more.APIs...)
		after := holds(mustNew(t, g))
		for what, had := range before {
			if had && !after[what] {
				t.Fatalf("%s is lost", what)
			}
		}
	})
}

// Patterns.

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"file:///data/report.csv", []string{"file:///data/report.csv"}, []string{"file:///data/report.csvx", "file:///data", "FILE:///data/report.csv"}},
		{"file:///data/*", []string{"file:///data/a", "file:///data/.hidden"}, []string{"file:///data", "file:///data/", "file:///data/a/b", "file:///data/a:b"}},
		{"file:///data/**", []string{"file:///data", "file:///data/a", "file:///data/a/b"}, []string{"file:///database", "file:///dat", "file:///", "tcp:///data/a"}},
		{"file:///**", []string{"file:///", "file:///a/b"}, []string{"file://", "file:/a", "tcp:///"}},
		{"file:///*", []string{"file:///a"}, []string{"file:///", "file:///a/b"}},
		{"file:///data/*.csv", []string{"file:///data/a.csv", "file:///data/.csv"}, []string{"file:///data/a.csvx", "file:///data/d/a.csv"}},
		{"file:///*/in/**", []string{"file:///a/in", "file:///a/in/x/y"}, []string{"file:///in", "file:///a/b/in", "file:///a/input"}},
		{"tcp://db.internal:5432", []string{"tcp://db.internal:5432"}, []string{"tcp://db.internal:54321", "tcp://db.internal", "tcp://xdb.internal:5432"}},
		{"tcp://*.internal:*", []string{"tcp://a.internal:1", "tcp://b.internal:65535"},
			[]string{"tcp://internal:1", "tcp://.internal:1", "tcp://a.b.internal:1", "tcp://a.internal:", "tcp://a.internal:1:2", "tcp://evil.com/x.internal:1"}},
		{"tcp://db:*", []string{"tcp://db:1"}, []string{"tcp://db:", "tcp://db:1/x"}},
		{"tcp://**", []string{"tcp://a:1"}, []string{"udp://a:1"}},
		{"https://api.example.com/v1/**", []string{"https://api.example.com/v1", "https://api.example.com/v1/a.b"},
			[]string{"https://api.example.com/v10", "https://api.example.com.evil/v1"}},
		{"https://api.example.com/*", []string{"https://api.example.com/a.b"}, []string{"https://api.example.com/a/b", "https://api.example.com"}},
		{"env://LANG", []string{"env://LANG"}, []string{"env://LANGUAGE", "env://lang"}},
		{"env://APP_*", []string{"env://APP_", "env://APP_A.B"}, []string{"env://XAPP_A"}},
		{"env://*", []string{"env://A"}, []string{"env://"}},
	} {
		p, err := capability.ParsePattern(c.pattern)
		if err != nil {
			t.Error(err)
			continue
		}
		if p.String() != c.pattern {
			t.Errorf("%q prints as %q", c.pattern, p)
		}
		for _, r := range c.yes {
			if !p.Match(r) {
				t.Errorf("%q does not match %q", c.pattern, r)
			}
		}
		for _, r := range c.no {
			if p.Match(r) {
				t.Errorf("%q matches %q", c.pattern, r)
			}
		}
	}
	var zero capability.Pattern
	if zero.Match("") || zero.Match("://") || zero.Match("file:///") {
		t.Error("the zero pattern matches something")
	}
}

func TestBadPatterns(t *testing.T) {
	for _, s := range []string{"", "x", "/data", "://x", "File:///x", "*://x", "1a://x", "file://", "file://data", "file:///data/", "file:///a//b", "file:///a/../b",
		"file:///./a", "file:///a/**/b", "file:///a**", "file:///**/**", "tcp://DB:1", "tcp://a:1\x00", "https://Example.com/x"} {
		if p, err := capability.ParsePattern(s); err == nil {
			t.Errorf("%q is taken as %q", s, p)
		}
	}
}

// reference is what a pattern means, as a regular expression.
func reference(pattern string) *regexp.Regexp {
	scheme, rest, _ := strings.Cut(pattern, "://")
	host := !strings.HasPrefix(rest, "/") && scheme != "env" && scheme != "secret" && scheme != "kv"
	tail := ""
	if rest == "**" {
		rest, tail = "", ".*"
	} else if head, ok := strings.CutSuffix(rest, "/**"); ok {
		rest, tail = head, "(/.*)?"
		if head == "" {
			tail = "/.*"
		}
	}
	var b strings.Builder
	inHost := host
	for i := 0; i < len(rest); i++ {
		separator := func(j int) bool {
			return j < 0 || j >= len(rest) || rest[j] == '/' || rest[j] == ':' || (inHost && rest[j] == '.')
		}
		switch {
		case rest[i] == '*':
			class, repeat := "[^/:]", "*"
			if inHost {
				class = "[^/:.]"
			}
			if separator(i-1) && separator(i+1) {
				repeat = "+"
			}
			b.WriteString(class + repeat)
		default:
			if rest[i] == '/' {
				inHost = false
			}
			b.WriteString(regexp.QuoteMeta(rest[i : i+1]))
		}
	}
	return regexp.MustCompile(`(?s)^` + regexp.QuoteMeta(scheme+"://") + b.String() + tail + `$`)
}

func TestPatternsMatchTheirReference(t *testing.T) {
	alphabet := []rune("ab./:*-")
	rapid.Check(t, func(t *rapid.T) {
		scheme := rapid.SampledFrom([]string{"file", "tcp", "env", "https", "x"}).Draw(t, "scheme")
		p, err := capability.ParsePattern(scheme + "://" + rapid.StringOfN(rapid.SampledFrom(alphabet), 1, 8, -1).Draw(t, "pattern"))
		if err != nil {
			t.Skip("not a pattern")
		}
		for range 8 {
			// Derived from the pattern, so that some match.
			var r strings.Builder
			for _, c := range p.String() {
				if c == '*' {
					r.WriteString(rapid.StringOfN(rapid.SampledFrom(alphabet), 0, 2, -1).Draw(t, "run"))
				} else {
					r.WriteRune(c)
				}
			}
			if got, want := p.Match(r.String()), reference(p.String()).MatchString(r.String()); got != want {
				t.Fatalf("%q on %q: %v, want %v", p, r.String(), got, want)
			}
			head, res := p.Head(), r.String()
			if p.Match(res) && res != head && !strings.HasPrefix(res, head+"/") {
				t.Fatalf("%q matches %q, which is not below its head %q", p, res, head)
			}
		}
	})
}

func TestMatchDoesNotAllocate(t *testing.T) {
	p, err := capability.ParsePattern("tcp://*.internal:*")
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { p.Match("tcp://db.internal:5432") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzPattern: no pattern and no resource makes matching panic, match across a
// separator or leave its scheme; a pattern with nothing to expand matches itself
// alone.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"file:///data/**", "tcp://*.internal:*", "env://APP_*", "file:///*/x", "https://h/*", "x://**"} {
		f.Add(s, strings.ReplaceAll(s, "*", "a"))
		f.Add(s, s)
	}
	f.Add("file:///", "file:///")
	f.Add("x://a\xff*", "x://a\xff\xfe")
	f.Fuzz(func(t *testing.T, pattern, resource string) {
		p, err := capability.ParsePattern(pattern)
		if err != nil {
			return
		}
		got := p.Match(resource)
		scheme, _, _ := strings.Cut(pattern, "://")
		switch subtree := strings.HasSuffix(pattern, "**"); {
		case got && !strings.HasPrefix(resource, scheme+"://"):
			t.Fatalf("%q matches %q of another scheme", pattern, resource)
		case !strings.Contains(pattern, "*") && got != (pattern == resource):
			t.Fatalf("%q on %q: %v", pattern, resource, got)
		case got && !subtree && (strings.Count(pattern, "/") != strings.Count(resource, "/") || strings.Count(pattern, ":") != strings.Count(resource, ":")):
			t.Fatalf("%q matches %q across a separator", pattern, resource)
		}
		capability.MatchName(pattern, resource)
	})
}

func BenchmarkPatternMatch(b *testing.B) {
	for _, c := range []struct{ name, pattern, resource string }{
		{"literal", "file:///data/report.csv", "file:///data/report.csv"},
		{"subtree", "file:///data/**", "file:///data/in/2026/report.csv"},
		{"glob", "tcp://*.internal:*", "tcp://db.internal:5432"},
	} {
		b.Run(c.name, func(b *testing.B) {
			p, err := capability.ParsePattern(c.pattern)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				p.Match(c.resource)
			}
		})
	}
}
