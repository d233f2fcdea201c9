package zta_test

import (
	"errors"
	"strings"
	"testing"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

func TestCompileReportsEverything(t *testing.T) {
	yes := func(*zta.Request) bool { return true }
	for _, c := range []struct {
		field, message string
		policy         zta.Policy
	}{
		{"syscalls", `did you mean "file_open"`, zta.Policy{Syscalls: []string{"file_opne"}}},
		{"syscalls", `unknown syscall "frobnicate"`, zta.Policy{Syscalls: []string{"frobnicate"}}},
		{"syscalls", `"dns_*" matches no syscall`, zta.Policy{Syscalls: []string{"dns_*"}}},
		{"syscalls", `unknown syscall ""`, zta.Policy{Syscalls: []string{""}}},
		{"plugins", "empty", zta.Policy{Plugins: []string{""}}},
		{"identities", "resource pattern", zta.Policy{Identities: []string{"spiffe://a/**/b"}}},
		{"groups", "empty", zta.Policy{Groups: []string{"a", ""}}},
		{"resources", "want \"scheme://…\"", zta.Policy{Resources: []string{"/data"}}},
		{"min_trust_level", "does not exist", zta.Policy{MinTrustLevel: capability.Core + 1}},
		{"min_trust_score", "out of range", zta.Policy{MinTrustScore: 1.1}},
		{"allow_identities", "empty", zta.Policy{AllowIdentities: []string{""}}},
		{"deny_identities", "empty", zta.Policy{DenyIdentities: []string{""}}},
		{"arg.-1", "count from 0", zta.Policy{Args: map[int]zta.ArgConstraint{-1: {}}}},
		{"arg.0.match", "error parsing regexp", zta.Policy{Args: map[int]zta.ArgConstraint{0: {Match: "("}}}},
		{"arg.1.deny", "error parsing regexp", zta.Policy{Args: map[int]zta.ArgConstraint{1: {Deny: "(?=x)"}}}},
		{"validator", "not there", zta.Policy{ValidatorID: "gone"}},
		{"validator", "has no id", zta.Policy{Validator: yes}},
		{"on_violation", "want block, freeze or quarantine", zta.Policy{OnViolation: zta.Allow}},
		{"mode", "no mode of a policy", zta.Policy{Mode: zta.Permissive}},
		{"when", "Syntax error", zta.Policy{When: "subject.score >="}},
		{"when", "undefined field 'scor'", zta.Policy{When: "subject.scor > 0.5"}},
		{"when", "undeclared reference", zta.Policy{When: "nothing"}},
		{"when", "must be a bool", zta.Policy{When: "subject.score"}},
		{"when", "no matching overload", zta.Policy{When: `subject.score == "high"`}},
		{"deny_when", "must be a bool", zta.Policy{DenyWhen: "args[0]"}},
		{"deny_when", "literal string", zta.Policy{DenyWhen: "args[0].matches(args[1])"}},
		{"when", "invalid matches argument", zta.Policy{When: `args[0].matches("(")`}},
		{"when", `unknown syscall "file_raed": did you mean "file_read"`, zta.Policy{When: `!dna.seen("file_raed")`}},
		{"when", `dna.after: unknown syscall "dns"`, zta.Policy{When: `dna.after("net_connect", "dns")`}},
		{"when", "may cost", zta.Policy{When: `args.all(a, args.all(b, args.all(c, args.all(d, a.contains(b) || c.contains(d)))))`}},
	} {
		p := c.policy
		p.Name, p.Origin = "p", "forge.hcl:7"
		_, err := zta.Compile([]zta.Policy{p}, zta.CompileOptions{Syscalls: syscallNames})
		var pe *zta.PolicyError
		if !errors.As(err, &pe) {
			t.Errorf("%s %+v: error %v", c.field, c.policy, err)
			continue
		}
		if pe.Field != c.field || pe.Policy != "p" || pe.Origin != "forge.hcl:7" || !strings.Contains(err.Error(), c.message) ||
			!strings.HasPrefix(err.Error(), `forge.hcl:7: policy "p": `+c.field+": ") {
			t.Errorf("error %q of field %q, want %q of field %q", err, pe.Field, c.message, c.field)
		}
	}
}

func TestCompileReportsAllAtOnce(t *testing.T) {
	_, err := zta.Compile([]zta.Policy{
		{Name: "b", Syscalls: []string{"bogus"}, When: "1"},
		{Name: ""},
		{Name: "a", Origin: "forge.hcl:3"},
		{Name: "a"},
		{Name: zta.RuleDefault},
	}, zta.CompileOptions{Mode: 9, Syscalls: syscallNames})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 6 {
		t.Fatalf("want six errors at once:\n%v", err)
	}
	if !strings.Contains(err.Error(), "forge.hcl:3") {
		t.Errorf("a duplicate's error does not say where the first is:\n%v", err)
	}
}

// TestGraphIsImmutable: neither what Compile was given nor what Policies
// returned leads back into the graph.
func TestGraphIsImmutable(t *testing.T) {
	policies := []zta.Policy{{Name: "a", Syscalls: []string{"file_open"}, DenyIdentities: []string{"guest"},
		Args: map[int]zta.ArgConstraint{0: {Match: "x"}}}}
	g := mustCompile(t, policies, zta.Enforce)
	digest := g.Digest()
	for _, p := range [][]zta.Policy{policies, g.Policies()} {
		p[0].Syscalls[0], p[0].DenyIdentities[0] = "changed", "changed"
		p[0].Args[0] = zta.ArgConstraint{}
	}
	got := g.Policies()[0]
	if got.Syscalls[0] != "file_open" || got.DenyIdentities[0] != "guest" || got.Args[0].Match != "x" || g.Digest() != digest {
		t.Errorf("the graph changed: %+v", got)
	}
}

// TestDigest: whatever decides is in the digest, and nothing else is.
func TestDigest(t *testing.T) {
	yes := func(*zta.Request) bool { return true }
	base := func() zta.Policy {
		return zta.Policy{Name: "a", Origin: "x:1", Syscalls: []string{"file_open", "file_read"}, AllowIdentities: []string{"a", "b"},
			Validator: yes, ValidatorID: "v"}
	}
	digest := func(change func(*zta.Policy)) string {
		p := base()
		change(&p)
		return mustCompile(t, []zta.Policy{p}, zta.Enforce).Digest()
	}
	want := digest(func(*zta.Policy) {})
	if len(want) != 64 {
		t.Fatalf("digest %q", want)
	}
	for name, change := range map[string]func(*zta.Policy){
		"origin":       func(p *zta.Policy) { p.Origin = "y:2" },
		"order":        func(p *zta.Policy) { p.Syscalls = []string{"file_read", "file_open", "open_file"} },
		"another func": func(p *zta.Policy) { p.Validator = func(*zta.Request) bool { return true } },
	} {
		if got := digest(change); got != want {
			t.Errorf("%s changes the digest", name)
		}
	}
	seen := map[string]string{want: "base", mustCompile(t, []zta.Policy{base()}, zta.Audit).Digest(): "mode of the kernel"}
	for name, change := range map[string]func(*zta.Policy){
		"name":             func(p *zta.Policy) { p.Name = "b" },
		"syscalls":         func(p *zta.Policy) { p.Syscalls = p.Syscalls[:1] },
		"plugins":          func(p *zta.Policy) { p.Plugins = []string{"x"} },
		"identities":       func(p *zta.Policy) { p.Identities = []string{"x"} },
		"groups":           func(p *zta.Policy) { p.Groups = []string{"x"} },
		"resources":        func(p *zta.Policy) { p.Resources = []string{"file:///x"} },
		"min_trust_level":  func(p *zta.Policy) { p.MinTrustLevel = capability.Core },
		"min_trust_score":  func(p *zta.Policy) { p.MinTrustScore = 0.25 },
		"allow_identities": func(p *zta.Policy) { p.AllowIdentities = []string{"ab"} },
		"allow nobody":     func(p *zta.Policy) { p.AllowIdentities = []string{} },
		"allow anybody":    func(p *zta.Policy) { p.AllowIdentities = nil },
		"deny_identities":  func(p *zta.Policy) { p.DenyIdentities = []string{"x"} },
		"arg":              func(p *zta.Policy) { p.Args = map[int]zta.ArgConstraint{0: {}} },
		"match":            func(p *zta.Policy) { p.Args = map[int]zta.ArgConstraint{0: {Match: "x"}} },
		"deny":             func(p *zta.Policy) { p.Args = map[int]zta.ArgConstraint{0: {Deny: "x"}} },
		"when":             func(p *zta.Policy) { p.When = "true" },
		"deny_when":        func(p *zta.Policy) { p.DenyWhen = "true" },
		"validator":        func(p *zta.Policy) { p.ValidatorID = "w" },
		"on_violation":     func(p *zta.Policy) { p.OnViolation = zta.Freeze },
		"mode":             func(p *zta.Policy) { p.Mode = zta.Audit },
	} {
		got := digest(change)
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		seen[got] = name
	}
}
