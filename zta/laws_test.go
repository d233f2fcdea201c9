package zta_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// The naive evaluator: the sentences of the design, one policy after the other,
// over the policies' text. It shares no code with the graph.

type naiveResult struct {
	outcome zta.Outcome
	rule    string
	relaxed bool
	reports int
}

// outcomes of a condition, as the test knows them without CEL.
type answer int

const (
	yes answer = iota
	no
	broken
)

type testCondition struct {
	text   string
	answer func(*zta.Request) answer
}

func when(b bool) answer {
	if b {
		return yes
	}
	return no
}

var testConditions = []testCondition{
	{`true`, func(*zta.Request) answer { return yes }},
	{`false`, func(*zta.Request) answer { return no }},
	{`subject.plugin == "alpha"`, func(r *zta.Request) answer { return when(r.Plugin == "alpha") }},
	{`args[1] == "r"`, func(r *zta.Request) answer {
		if len(r.Args) < 2 {
			return broken
		}
		return when(r.Args[1] == "r")
	}},
	{`custom.region == "eu"`, func(r *zta.Request) answer {
		v, ok := r.Set.Custom("region")
		if !ok {
			return broken
		}
		return when(v == "eu")
	}},
	{`"batch" in subject.groups`, func(r *zta.Request) answer { return when(slices.Contains(r.Identity.Groups, "batch")) }},
	{`dna.denials_1m < 2 && syscall.startsWith("file_")`, func(r *zta.Request) answer {
		return when(r.DNA.Denials(r.Now, time.Minute) < 2 && strings.HasPrefix(r.Syscall, "file_"))
	}},
}

func naiveName(entry, name string) bool {
	if entry == "*" {
		return true
	}
	separators := "[^/:]*"
	if strings.Contains(entry, "://") && strings.HasSuffix(entry, "/**") {
		return regexp.MustCompile(`^` + regexp.QuoteMeta(strings.TrimSuffix(entry, "/**")) + `(/.*)?$`).MatchString(name)
	}
	return regexp.MustCompile(`^` + strings.ReplaceAll(regexp.QuoteMeta(entry), `\*`, separators) + `$`).MatchString(name)
}

func naiveAny(entries []string, name string) bool {
	return slices.ContainsFunc(entries, func(e string) bool { return naiveName(e, name) })
}

func naiveResource(entry, resource string) bool {
	if head, ok := strings.CutSuffix(entry, "/**"); ok {
		return resource == head || strings.HasPrefix(resource, head+"/")
	}
	if head, ok := strings.CutSuffix(entry, "/*"); ok {
		tail, ok := strings.CutPrefix(resource, head+"/")
		return ok && tail != "" && !strings.ContainsAny(tail, "/:")
	}
	return entry == resource
}

// naiveFails says whether a requirement fails, and whether by an error.
func naiveFails(p zta.Policy, r *zta.Request, score float64, level capability.TrustLevel) (fails, hard bool) {
	fail := func(is, isHard bool) {
		fails = fails || is
		hard = hard || (is && isHard)
	}
	fail(level < p.MinTrustLevel, false)
	fail(score < p.MinTrustScore, false)
	fail(naiveAny(p.DenyIdentities, r.Identity.ID), false)
	fail(p.AllowIdentities != nil && !naiveAny(p.AllowIdentities, r.Identity.ID), false)
	for pos, c := range p.Args {
		if pos >= len(r.Args) {
			fail(true, true)
			continue
		}
		fail(c.Match != "" && !regexp.MustCompile(c.Match).MatchString(r.Args[pos]), false)
		fail(c.Deny != "" && regexp.MustCompile(c.Deny).MatchString(r.Args[pos]), false)
	}
	if p.Validator != nil {
		fail(p.ValidatorID == "no", false)
		fail(p.ValidatorID == "panics", true)
	}
	for _, c := range testConditions {
		if c.text == p.When {
			a := c.answer(r)
			fail(a != yes, a == broken)
		}
		if c.text == p.DenyWhen {
			a := c.answer(r)
			fail(a != no, a == broken)
		}
	}
	return fails, hard
}

func naiveInScope(p zta.Policy, r *zta.Request, resource string) bool {
	canonical := make([]string, len(p.Syscalls))
	for i, s := range p.Syscalls {
		canonical[i] = capability.Canonical(s)
	}
	return (len(p.Syscalls) == 0 || naiveAny(canonical, r.Syscall)) &&
		(len(p.Plugins) == 0 || naiveAny(p.Plugins, r.Plugin)) &&
		(len(p.Identities) == 0 || naiveAny(p.Identities, r.Identity.ID)) &&
		(len(p.Groups) == 0 || slices.ContainsFunc(r.Identity.Groups, func(g string) bool { return naiveAny(p.Groups, g) })) &&
		(len(p.Resources) == 0 || slices.ContainsFunc(p.Resources, func(e string) bool { return naiveResource(e, resource) }))
}

func naiveDecide(policies []zta.Policy, mode zta.Mode, r *zta.Request) naiveResult {
	score := map[zta.TrustVector]float64{zta.Unverified: .5, zta.EdgeGateway: .7, zta.Signed: .8, zta.Enclave: .9, zta.Root: 1}[r.Identity.TrustVector]
	score *= r.DNA.Integrity(r.Now) / 100
	level := capability.Quarantined
	switch {
	case score >= .95:
		level = capability.Core
	case score >= .75:
		level = capability.Trusted
	case score >= .45:
		level = capability.Standard
	case score > 0:
		level = capability.Limited
	}
	level = min(level, r.Ceiling)
	if level == capability.Quarantined {
		return naiveResult{rule: zta.RuleTrust}
	}
	if !slices.Contains(syscallNames, r.Syscall) {
		return naiveResult{rule: zta.RuleKernel}
	}

	policies = slices.Clone(policies)
	sort.Slice(policies, func(i, j int) bool { return policies[i].Name < policies[j].Name })
	resources := r.Resources
	if len(resources) == 0 {
		resources = []string{"\x00 no resource is like this"}
	}
	var allowing []string
	covered := map[string]bool{}
	type failure struct {
		zta.Policy
		hard bool
	}
	var failures []failure
	var out naiveResult
	anyHard := false
	for _, p := range policies {
		inScope := false
		for _, res := range resources {
			if naiveInScope(p, r, res) {
				inScope = true
				if p.Mode == zta.Enforce {
					covered[res] = true
				}
			}
		}
		if !inScope {
			continue
		}
		fails, hard := naiveFails(p, r, score, level)
		if p.Mode == zta.Audit {
			if fails {
				out.reports++
			}
			continue
		}
		allowing = append(allowing, p.Name)
		if fails {
			failures = append(failures, failure{p, hard})
			anyHard = anyHard || hard
		}
	}
	sort.SliceStable(failures, func(i, j int) bool {
		if failures[i].OnViolation != failures[j].OnViolation {
			return failures[i].OnViolation > failures[j].OnViolation
		}
		return failures[i].hard && !failures[j].hard
	})
	switch {
	case len(failures) > 0:
		out.outcome, out.rule = failures[0].OnViolation, failures[0].Name
	case slices.ContainsFunc(resources, func(res string) bool { return !covered[res] }):
		out.outcome, out.rule = zta.Block, zta.RuleDefault
	default:
		out.outcome, out.rule = zta.Allow, allowing[0]
	}
	out.relaxed = out.outcome != zta.Allow && mode != zta.Enforce && !anyHard
	return out
}

// Generators. The domains are small, so that policies and requests meet.

var (
	plugins    = []string{"alpha", "beta"}
	identities = []string{"spiffe://acme/reporting", "spiffe://acme/web", "guest"}
	groups     = []string{"batch", "web", "ops"}
	resources  = []string{"file:///data/a", "file:///data/b/c", "file:///data", "file:///etc/passwd", "tcp://db:5432"}
)

func someOf(t *rapid.T, label string, from ...string) []string {
	if rapid.IntRange(0, 2).Draw(t, label+"?") > 0 {
		return nil
	}
	return rapid.SliceOfN(rapid.SampledFrom(from), 1, 3).Draw(t, label)
}

func drawPolicy(t *rapid.T, name string) zta.Policy {
	condition := func(label string) string {
		i := rapid.IntRange(-6, len(testConditions)-1).Draw(t, label)
		if i < 0 {
			return ""
		}
		return testConditions[i].text
	}
	p := zta.Policy{
		Name:           name,
		Syscalls:       someOf(t, "syscalls", "file_*", "file_open", "open_file", "file_rename", "net_connect", "*"),
		Plugins:        someOf(t, "plugins", "alpha", "beta", "al*", "*"),
		Identities:     someOf(t, "identities", append(identities, "spiffe://acme/**", "g*", "*")...),
		Groups:         someOf(t, "groups", append(groups, "*s")...),
		Resources:      someOf(t, "resources", "file:///data/**", "file:///data/*", "file:///**", "file:///etc/passwd", "tcp://db:5432"),
		DenyIdentities: someOf(t, "deny", "guest", "nobody", "spiffe://acme/w*"),
		OnViolation:    rapid.SampledFrom([]zta.Outcome{zta.Block, zta.Block, zta.Freeze, zta.Quarantine}).Draw(t, "on_violation"),
		When:           condition("when"),
		DenyWhen:       condition("deny_when"),
	}
	if rapid.IntRange(0, 4).Draw(t, "audit?") == 0 {
		p.Mode = zta.Audit
	}
	if rapid.IntRange(0, 3).Draw(t, "level?") == 0 {
		p.MinTrustLevel = capability.TrustLevel(rapid.IntRange(0, 4).Draw(t, "level"))
	}
	if rapid.IntRange(0, 3).Draw(t, "score?") == 0 {
		p.MinTrustScore = rapid.Float64Range(0, 1).Draw(t, "score")
	}
	switch rapid.IntRange(0, 9).Draw(t, "allow?") {
	case 0:
		p.AllowIdentities = []string{}
	case 1, 2:
		p.AllowIdentities = rapid.SliceOfN(rapid.SampledFrom(append(identities, "*")), 1, 3).Draw(t, "allow")
	}
	if rapid.IntRange(0, 3).Draw(t, "arg?") == 0 {
		p.Args = map[int]zta.ArgConstraint{
			rapid.IntRange(0, 2).Draw(t, "position"): {
				Match: rapid.SampledFrom([]string{"", "^/data/", "a"}).Draw(t, "match"),
				Deny:  rapid.SampledFrom([]string{"", `\.\.`, "^r$"}).Draw(t, "deny"),
			},
		}
	}
	switch p.ValidatorID = rapid.SampledFrom([]string{"", "", "", "", "yes", "no", "panics"}).Draw(t, "validator"); p.ValidatorID {
	case "yes":
		p.Validator = func(*zta.Request) bool { return true }
	case "no":
		p.Validator = func(*zta.Request) bool { return false }
	case "panics":
		p.Validator = func(*zta.Request) bool { panic("validator") }
	}
	return p
}

func drawPolicies(t *rapid.T) []zta.Policy {
	// More than sixteen now and then: from there on rules are also looked up by
	// resource.
	n := rapid.OneOf(rapid.IntRange(0, 4), rapid.IntRange(0, 40)).Draw(t, "policies")
	out := make([]zta.Policy, n)
	for i := range out {
		out[i] = drawPolicy(t, fmt.Sprintf("p%02d", i))
	}
	return out
}

func drawRequest(t *rapid.T) *zta.Request {
	now := time.Unix(1_700_000_000, 0)
	id := zta.Identity{
		ID:          rapid.SampledFrom(identities).Draw(t, "identity"),
		TrustVector: zta.TrustVector(rapid.IntRange(0, 5).Draw(t, "vector")),
		Groups:      rapid.SliceOfN(rapid.SampledFrom(groups), 0, 3).Draw(t, "groups of the subject"),
	}
	grant := capability.Grant{}
	if rapid.Bool().Draw(t, "custom?") {
		grant.Custom = map[string]string{"region": rapid.SampledFrom([]string{"eu", "us"}).Draw(t, "region")}
	}
	set, err := capability.New(grant)
	if err != nil {
		t.Fatal(err)
	}
	r := &zta.Request{
		Syscall:   rapid.SampledFrom(append([]string{"bogus", "file_open", "file_open", "file_rename"}, syscallNames...)).Draw(t, "syscall"),
		Args:      rapid.SliceOfN(rapid.SampledFrom([]string{"/data/a", "/data/../b", "r", "w", ""}), 0, 3).Draw(t, "args"),
		Resources: rapid.SliceOfN(rapid.SampledFrom(resources), 0, 3).Draw(t, "resources of the request"),
		Plugin:    rapid.SampledFrom(append([]string{"gamma"}, plugins...)).Draw(t, "plugin"),
		Container: "c",
		Identity:  &id,
		Ceiling:   capability.TrustLevel(rapid.IntRange(0, 4).Draw(t, "ceiling")),
		Set:       set,
		Now:       now,
	}
	if rapid.Bool().Draw(t, "history?") {
		r.DNA = zta.NewExecutionDNA("c", id)
		for range rapid.IntRange(0, 3).Draw(t, "denials") {
			r.DNA.Observe(now, "file_open", zta.Block)
		}
		r.DNA.SetIntegrity(now, rapid.Float64Range(0, 100).Draw(t, "integrity"))
	}
	return r
}

func mustCompile(t interface{ Fatal(...any) }, policies []zta.Policy, mode zta.Mode) *zta.PolicyGraph {
	g, err := zta.Compile(policies, zta.CompileOptions{Mode: mode, Syscalls: syscallNames})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

var modes = []zta.Mode{zta.Enforce, zta.Audit, zta.Permissive}

// TestDecideMatchesTheDesign: the graph decides what the naive evaluator does.
func TestDecideMatchesTheDesign(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, r := drawPolicies(t), drawRequest(t)
		mode := rapid.SampledFrom(modes).Draw(t, "mode")
		g := mustCompile(t, policies, mode)
		for range 4 { // several requests for the price of one compilation
			d, want := g.Decide(r), naiveDecide(policies, mode, r)
			got := naiveResult{d.Outcome, d.Rule, d.Relaxed, len(d.Reports)}
			if got != want {
				t.Fatalf("Decide = %+v, want %+v", d, want)
			}
			if (d.Reason == "") != (d.Outcome == zta.Allow) {
				t.Fatalf("%s with reason %q", d.Outcome, d.Reason)
			}
			r = drawRequest(t)
		}
	})
}

// TestOrderDoesNotMatter: neither that of policies, nor that of what a list holds.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, r := drawPolicies(t), drawRequest(t)
		g := mustCompile(t, policies, zta.Enforce)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		shuffled := slices.Clone(policies)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for i := range shuffled {
			for _, list := range []*[]string{&shuffled[i].Syscalls, &shuffled[i].Plugins, &shuffled[i].Resources, &shuffled[i].DenyIdentities} {
				*list = slices.Clone(*list)
				rng.Shuffle(len(*list), func(a, b int) { (*list)[a], (*list)[b] = (*list)[b], (*list)[a] })
			}
		}
		h := mustCompile(t, shuffled, zta.Enforce)
		if g.Digest() != h.Digest() {
			t.Fatal("the digest depends on the order")
		}
		if a, b := g.Decide(r), h.Decide(r); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("%+v, in another order %+v", a, b)
		}
	})
}

// TestAnotherPolicyNeverOverridesADenial: what one policy denies, no second one
// can allow; and no policy at all allows nothing.
func TestAnotherPolicyNeverOverridesADenial(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, r := drawPolicies(t), drawRequest(t)
		before := mustCompile(t, policies, zta.Enforce).Decide(r)
		after := mustCompile(t, append(policies, drawPolicy(t, "zz")), zta.Enforce).Decide(r)
		if before.Rule != zta.RuleDefault && before.Outcome != zta.Allow && after.Outcome == zta.Allow {
			t.Fatalf("%+v became %+v", before, after)
		}
		if d := mustCompile(t, nil, zta.Enforce).Decide(r); d.Outcome != zta.Block || d.Proceeds() {
			t.Fatalf("an empty graph decides %+v", d)
		}
	})
}

// TestErrorsNeverWiden: a policy whose condition, validator or argument cannot
// be evaluated allows no less than nothing: a call in its scope goes through in
// no mode.
func TestErrorsNeverWiden(t *testing.T) {
	broken := map[string]func(*zta.Policy){
		"condition":  func(p *zta.Policy) { p.When = `args[99] == ""` },
		"negated":    func(p *zta.Policy) { p.DenyWhen = `custom.nothing == ""` },
		"shadowed":   func(p *zta.Policy) { p.When, p.MinTrustLevel = `args[99] == ""`, capability.Core },
		"argument":   func(p *zta.Policy) { p.Args = map[int]zta.ArgConstraint{9: {}} },
		"denied arg": func(p *zta.Policy) { p.Args = map[int]zta.ArgConstraint{9: {Deny: "x"}} },
		"validator":  func(p *zta.Policy) { p.Validator, p.ValidatorID = func(*zta.Request) bool { panic("no") }, "panics" },
		"nil validator": func(p *zta.Policy) {
			p.Validator, p.ValidatorID = func(r *zta.Request) bool { return r.Args[99] == "" }, "index"
		},
	}
	for name, breakIt := range broken {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				policies, r := drawPolicies(t), drawRequest(t)
				p := zta.Policy{Name: "broken", Syscalls: []string{"*"}}
				breakIt(&p)
				d := mustCompile(t, append(policies, p), rapid.SampledFrom(modes).Draw(t, "mode")).Decide(r)
				if d.Proceeds() {
					t.Fatalf("a broken policy let it pass: %+v", d)
				}
			})
		})
	}
}

// TestMoreTrustNeverAllowsLess, for policies without conditions on the trust
// itself.
func TestMoreTrustNeverAllowsLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, r := drawPolicies(t), drawRequest(t)
		g := mustCompile(t, policies, zta.Enforce)
		more := *r
		id := *r.Identity
		more.Identity = &id
		id.TrustVector = zta.TrustVector(rapid.IntRange(int(id.TrustVector), int(zta.Root)).Draw(t, "better vector"))
		more.Ceiling = capability.TrustLevel(rapid.IntRange(int(r.Ceiling), int(capability.Core)).Draw(t, "higher ceiling"))
		if r.DNA != nil {
			h := r.DNA.Snapshot(r.Now)
			h.Integrity = rapid.Float64Range(h.Integrity, 100).Draw(t, "more integrity")
			more.DNA = zta.NewExecutionDNA("c", id)
			more.DNA.Restore(r.Now, h)
		}
		if a, b := g.Decide(r), g.Decide(&more); a.Outcome == zta.Allow && b.Outcome != zta.Allow {
			t.Fatalf("%+v, with more trust %+v", a, b)
		}
	})
}

// TestModesChangeTheEffectAlone: what goes on record is the same in every mode.
func TestModesChangeTheEffectAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, r := drawPolicies(t), drawRequest(t)
		enforced := mustCompile(t, policies, zta.Enforce).Decide(r)
		if enforced.Relaxed {
			t.Fatalf("enforcing relaxed: %+v", enforced)
		}
		for _, mode := range modes[1:] {
			d := mustCompile(t, policies, mode).Decide(r)
			if d.Policy == enforced.Policy {
				t.Fatal("the digest does not tell the mode")
			}
			d.Relaxed, d.Policy = false, enforced.Policy
			if fmt.Sprint(d) != fmt.Sprint(enforced) {
				t.Fatalf("%s records %+v, enforce %+v", mode, d, enforced)
			}
		}
	})
}

// TestExplainAgreesWithDecide: the decision follows from the traces alone.
func TestExplainAgreesWithDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, r := drawPolicies(t), drawRequest(t)
		mode := rapid.SampledFrom(modes).Draw(t, "mode")
		g := mustCompile(t, policies, mode)
		d, e := g.Decide(r), g.Explain(r)
		if fmt.Sprint(e.Decision) != fmt.Sprint(d) {
			t.Fatalf("explains %+v, decides %+v", e.Decision, d)
		}
		if d.Rule == zta.RuleTrust || d.Rule == zta.RuleKernel {
			if e.Rules != nil {
				t.Fatalf("%s decided, yet policies were asked: %+v", d.Rule, e.Rules)
			}
			return
		}
		if len(e.Rules) != len(policies) {
			t.Fatalf("%d traces of %d policies", len(e.Rules), len(policies))
		}
		outcome, failed, hard, reports := zta.Block, false, false, 0
		covered := map[string]bool{}
		inScope := 0
		for _, rule := range e.Rules {
			if rule.InScope == (rule.OutOfScope != "") {
				t.Fatalf("in scope or not? %+v", rule)
			}
			switch {
			case !rule.InScope:
			case rule.Mode == zta.Audit:
				if !rule.Holds() {
					reports++
				}
			default:
				inScope++
				for _, res := range rule.Resources {
					covered[res] = true
				}
				if !rule.Holds() {
					failed = true
					outcome = max(outcome, rule.OnViolation)
				}
				for _, q := range rule.Requirements {
					hard = hard || q.Hard
				}
			}
		}
		all := inScope > 0
		for _, res := range r.Resources {
			all = all && covered[res]
		}
		if !failed && all {
			outcome = zta.Allow
		}
		relaxed := outcome != zta.Allow && mode != zta.Enforce && !hard
		if outcome != d.Outcome || relaxed != d.Relaxed || reports != len(d.Reports) {
			t.Fatalf("the traces say %s relaxed=%v %d reports, decided was %+v\n%+v", outcome, relaxed, reports, d, e.Rules)
		}
	})
}
