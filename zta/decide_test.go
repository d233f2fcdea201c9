package zta_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

func request() *zta.Request {
	return &zta.Request{
		Syscall:   "file_open",
		Args:      []string{"/data/report.csv", "r"},
		Resources: []string{"file:///data/report.csv"},
		Plugin:    "summarise",
		Container: "c-1",
		Identity:  &zta.Identity{ID: "spiffe://acme/reporting", TrustVector: zta.Signed, Groups: []string{"batch"}, Publisher: "27B81DCD11D4B5E0"},
		Ceiling:   capability.Standard,
		Now:       start,
	}
}

func TestConditions(t *testing.T) {
	r := request()
	set, err := capability.New(capability.Grant{Custom: map[string]string{"region": "eu"}})
	if err != nil {
		t.Fatal(err)
	}
	r.Set = set
	r.DNA = zta.NewExecutionDNA("c-1", *r.Identity)
	r.DNA.Observe(start.Add(-2*time.Hour), "file_read", zta.Allow)
	r.DNA.Observe(start.Add(-time.Second), "net_connect", zta.Block)
	r.DNA.SetIntegrity(start, 90)

	for text, want := range map[string]string{ // "" allows; else a part of the reason
		`subject.id == "spiffe://acme/reporting"`:                          "",
		`subject.score > 0.71 && subject.score < 0.73`:                     "",
		`subject.score < 1`:                                                "", // an int beside a double
		`subject.level == "standard" && subject.vector == "signed"`:        "",
		`subject.plugin == "summarise" && subject.container == "c-1"`:      "",
		`subject.groups == ["batch"]`:                                      "",
		`subject.publisher == "27B81DCD11D4B5E0"`:                          "",
		`has(subject.publisher)`:                                           "",
		`subject.level in ["trusted", "core"]`:                             "when is false: subject.level in",
		`syscall == "file_open"`:                                           "",
		`args.size() == 2 && args[1] == "r"`:                               "",
		`args[0].matches("^/data/[a-z.]+$")`:                               "",
		`args[5] == ""`:                                                    "cannot be evaluated: index out of bounds: 5",
		`args.exists(a, a == "w")`:                                         "when is false",
		`resources.all(r, r.startsWith("file:///data/"))`:                  "",
		`custom.region == "eu" && custom["region"] != "us"`:                "",
		`custom.colour == "red"`:                                           "cannot be evaluated: no such key: colour",
		`!has(custom.colour)`:                                              "",
		`now == timestamp("2026-01-02T03:04:05Z") && now.getHours() == 3`:  "",
		`dna.calls == 2 && dna.denials_1m == 1 && dna.integrity == 90.0`:   "",
		`dna.seen("file_read") && !dna.seen("file_write")`:                 "",
		`now - dna.first_seen("file_read") > duration("1h")`:               "",
		`dna.seen("read_file") && !dna.seen(syscall)`:                      "", // an alias, and the name of this call
		`dna.first_seen("file_write") < now`:                               "file_write was never called",
		`dna.after("net_connect", "file_read")`:                            "",
		`dna.after("file_read", "net_connect")`:                            "when is false",
		`dna.integrity / 0.0 > 1.0`:                                        "",
		`dna.calls / 0 == 1`:                                               "cannot be evaluated: division by zero",
		`type(subject) == type(dna)`:                                       "when is false",
		`subject == subject`:                                               "",
		`string(dna.calls) + syscall == "2file_open"`:                      "",
		`[1, 2].all(i, args[i - 1] != "")`:                                 "",
		`args[0].contains("..") || subject.groups.exists(g, g == "batch")`: "",
	} {
		g, err := zta.Compile([]zta.Policy{{Name: "p", When: text}}, zta.CompileOptions{Mode: zta.Permissive, Syscalls: syscallNames})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		d := g.Decide(r)
		if (d.Outcome == zta.Allow) != (want == "") || !strings.Contains(d.Reason, want) {
			t.Errorf("%s: %s %q, want %q", text, d.Outcome, d.Reason, want)
		}
		if strings.Contains(d.Reason, "cannot be evaluated") && d.Relaxed {
			t.Errorf("%s: an error is relaxed", text)
		}
		if again := g.Decide(r); again.Outcome != d.Outcome || again.Reason != d.Reason {
			t.Errorf("%s: %q, then %q", text, d.Reason, again.Reason)
		}
	}
}

// What a condition is never asked about, because its cost has no bound there.
func TestConditionsHaveBounds(t *testing.T) {
	g := mustCompile(t, []zta.Policy{{Name: "p", When: "true"}}, zta.Audit)
	for name, change := range map[string]func(*zta.Request){
		"many arguments": func(r *zta.Request) { r.Args = make([]string, 33) },
		"long argument":  func(r *zta.Request) { r.Args = []string{strings.Repeat("x", 8<<10+1)} },
		"long resource":  func(r *zta.Request) { r.Resources = []string{"file:///" + strings.Repeat("x", 8<<10)} },
		"many resources": func(r *zta.Request) { r.Resources = make([]string, 65) },
	} {
		r := request()
		change(r)
		if d := g.Decide(r); d.Proceeds() || !strings.Contains(d.Reason, "is the most") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	r := request()
	r.Resources = make([]string, 64)
	if d := mustCompile(t, []zta.Policy{{Name: "p"}}, zta.Enforce).Decide(r); d.Outcome != zta.Allow {
		t.Errorf("64 resources: %+v", d)
	}
}

// TestConcurrentDecisions do not read each other's requests.
func TestConcurrentDecisions(t *testing.T) {
	g := mustCompile(t, []zta.Policy{{Name: "p", When: `args[0] == subject.plugin && dna.calls >= 0`}}, zta.Enforce)
	dna := newDNA()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := request()
			r.DNA = dna
			for j := range 300 {
				r.Plugin, r.Args = fmt.Sprint(i, j), []string{fmt.Sprint(i, j)}
				if d := g.Decide(r); d.Outcome != zta.Allow {
					t.Errorf("%+v", d)
					return
				}
				r.Args = []string{"another"}
				if d := g.Decide(r); d.Outcome != zta.Block {
					t.Errorf("%+v", d)
					return
				}
				dna.Observe(start, "file_open", zta.Allow)
			}
		})
	}
	wg.Wait()
}

// TestNothingToGoBy: without graph, identity, trust or a known syscall no mode
// lets anything pass.
func TestNothingToGoBy(t *testing.T) {
	allowing := mustCompile(t, []zta.Policy{{Name: "all"}}, zta.Permissive)
	for name, c := range map[string]struct {
		graph  *zta.PolicyGraph
		change func(*zta.Request)
		rule   string
	}{
		"nil graph":           {nil, func(*zta.Request) {}, zta.RuleKernel},
		"no identity":         {allowing, func(r *zta.Request) { r.Identity = nil }, zta.RuleTrust},
		"compromised":         {allowing, func(r *zta.Request) { r.Identity.TrustVector = zta.Compromised }, zta.RuleTrust},
		"quarantined ceiling": {allowing, func(r *zta.Request) { r.Ceiling = capability.Quarantined }, zta.RuleTrust},
		"no integrity": {allowing, func(r *zta.Request) {
			r.DNA = zta.NewExecutionDNA("c", *r.Identity)
			r.DNA.SetIntegrity(r.Now, 0)
		}, zta.RuleTrust},
		"unknown syscall": {allowing, func(r *zta.Request) { r.Syscall = "bogus" }, zta.RuleKernel},
		"zero request":    {allowing, func(r *zta.Request) { *r = zta.Request{} }, zta.RuleTrust},
	} {
		r := request()
		c.change(r)
		d := c.graph.Decide(r)
		if d.Proceeds() || d.Rule != c.rule || d.Reason == "" {
			t.Errorf("%s: %+v", name, d)
		}
		if e := c.graph.Explain(r); e.Decision.Rule != c.rule || e.Rules != nil {
			t.Errorf("%s: explained as %+v", name, e)
		}
	}
	if d := allowing.Decide(nil); d.Proceeds() {
		t.Errorf("no request: %+v", d)
	}
	if (zta.Decision{}).Proceeds() {
		t.Error("the zero decision lets pass")
	}
	var none *zta.PolicyGraph
	if none.Digest() != "" || none.Mode() != zta.Enforce || none.Policies() != nil {
		t.Error("a nil graph is something")
	}
}

// A policy about one of the resources of a request is a policy about the
// request: renaming a secret away is no way round it.
func TestEachResourceCounts(t *testing.T) {
	g := mustCompile(t, []zta.Policy{
		{Name: "files", Syscalls: []string{"file_*"}, Resources: []string{"file:///data/**"}},
		{Name: "secrets", Syscalls: []string{"file_*"}, Resources: []string{"file:///data/secret/**"}, AllowIdentities: []string{"admin"}},
		{Name: "tmp", Syscalls: []string{"file_*"}, Resources: []string{"file:///tmp/**"}},
	}, zta.Enforce)
	for _, c := range []struct {
		resources []string
		outcome   zta.Outcome
		rule      string
	}{
		{[]string{"file:///data/a", "file:///data/b"}, zta.Allow, "files"},
		{[]string{"file:///data/a", "file:///tmp/b"}, zta.Allow, "files"},
		{[]string{"file:///data/secret/key", "file:///data/b"}, zta.Block, "secrets"},
		{[]string{"file:///tmp/b", "file:///data/secret/key"}, zta.Block, "secrets"},
		{[]string{"file:///data/a", "file:///etc/b"}, zta.Block, zta.RuleDefault},
		{nil, zta.Block, zta.RuleDefault},
	} {
		r := request()
		r.Syscall, r.Resources = "file_rename", c.resources
		if d := g.Decide(r); d.Outcome != c.outcome || d.Rule != c.rule {
			t.Errorf("%v: %+v, want %s by %s", c.resources, d, c.outcome, c.rule)
		}
	}
}

func TestReasons(t *testing.T) {
	no := func(*zta.Request) bool { return false }
	for want, p := range map[string]zta.Policy{
		`needs trust level core`:                             {MinTrustLevel: capability.Core},
		`needs a trust score of 0.9`:                         {MinTrustScore: 0.9},
		`the identity is one of deny_identities`:             {DenyIdentities: []string{"*"}},
		`the identity is none of allow_identities`:           {AllowIdentities: []string{"admin"}},
		`argument 2 is missing`:                              {Args: map[int]zta.ArgConstraint{2: {Deny: "x"}}},
		`argument 0 does not match "^/tmp/"`:                 {Args: map[int]zta.ArgConstraint{0: {Match: "^/tmp/"}}},
		`argument 0 matches "csv$"`:                          {Args: map[int]zta.ArgConstraint{0: {Deny: "csv$"}}},
		`the validator "never" says no`:                      {Validator: no, ValidatorID: "never"},
		`deny_when is true: syscall == "file_open"`:          {DenyWhen: `syscall == "file_open"`},
		`write one with syscalls = ["file_open"] whose scop`: {Plugins: []string{"another"}},
	} {
		p.Name = "p"
		if d := mustCompile(t, []zta.Policy{p}, zta.Enforce).Decide(request()); !strings.Contains(d.Reason, want) {
			t.Errorf("reason %q, want %q", d.Reason, want)
		}
		p.Mode = zta.Audit
		d := mustCompile(t, []zta.Policy{p, {Name: "all"}}, zta.Enforce).Decide(request())
		if d.Outcome != zta.Allow || (p.Plugins == nil) != (len(d.Reports) == 1 && strings.HasPrefix(d.Reports[0], "p: "+want)) {
			t.Errorf("a policy that only reports: %+v", d)
		}
	}
}

// FuzzDecide: no argument, resource or name a guest can think of makes a
// decision panic, or pass where the policy says where it may.
func FuzzDecide(f *testing.F) {
	g := mustCompile(f, []zta.Policy{
		{Name: "inbox", Syscalls: []string{"file_*"}, Resources: []string{"file:///data/**"},
			Args:     map[int]zta.ArgConstraint{0: {Match: `^/data/([a-z]+/)*[a-z.]+$`, Deny: `\.\.`}},
			DenyWhen: `args[0].matches("(a*)*b") && args.exists(a, a.contains("secret"))`},
	}, zta.Audit)
	for _, s := range []string{"/data/a", "/data/../etc/passwd", "/data/\x00", "\xff\xfe", "/data/" + strings.Repeat("a", 5000), "/data/a\n", ""} {
		f.Add(s, "r", "file://"+s, "file_open", "summarise")
	}
	f.Fuzz(func(t *testing.T, arg0, arg1, resource, syscall, plugin string) {
		if len(arg0)+len(arg1)+len(resource) > 1<<15 {
			return // longer ones take longer, and meet nothing new
		}
		r := request()
		r.Args, r.Resources, r.Syscall, r.Plugin = []string{arg0, arg1}, []string{resource}, syscall, plugin
		d := g.Decide(r)
		if d.Outcome != zta.Allow {
			return
		}
		inData := resource == "file:///data" || strings.HasPrefix(resource, "file:///data/")
		if !inData || !strings.HasPrefix(arg0, "/data/") || strings.Contains(arg0, "..") || !strings.HasPrefix(syscall, "file_") ||
			strings.ContainsAny(arg0, "\x00\n") {
			t.Fatalf("%q %q on %q by %q passes", syscall, arg0, resource, plugin)
		}
	})
}

// FuzzCompile: whatever a policy holds, compiling ends, in a graph or in an
// error of which each part says which policy is wrong.
func FuzzCompile(f *testing.F) {
	f.Add("p", "file_*", "file:///data/**", "^/data/", `\.\.`, "subject.score > 0.5", "spiffe://acme/**")
	f.Add("", "*", "file:///", "(", "a{1001}", `args.all(a, a.matches("x"))`, "*")
	f.Add("p", "file_opne", "://", "(?i)x", "[", "has(custom.region)", "**")
	f.Fuzz(func(t *testing.T, name, syscall, resource, match, deny, when, identity string) {
		p := zta.Policy{Name: name, Syscalls: []string{syscall}, Resources: []string{resource}, When: when, DenyIdentities: []string{identity},
			Args: map[int]zta.ArgConstraint{0: {Match: match, Deny: deny}}}
		g, err := zta.Compile([]zta.Policy{p}, zta.CompileOptions{Syscalls: syscallNames})
		if (g == nil) != (err != nil) {
			t.Fatalf("graph %v with error %v", g, err)
		}
		if err == nil {
			g.Decide(request())
		}
	})
}
