package zta

import (
	"cmp"
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"sync"

	"forgeone.dev/forgeone/capability"
)

// Names of the rules that are not policies; no policy may be called so.
const (
	// RuleDefault denies what no policy in scope allows.
	RuleDefault = "default"
	// RuleTrust denies whatever is asked by a subject without any trust.
	RuleTrust = "trust"
	// RuleKernel denies what cannot be decided: no graph, no request, a syscall
	// nobody registered.
	RuleKernel = "kernel"
)

// maxResources is how many resources a request may have.
const maxResources = 64

// PolicyGraph is a compiled set of policies: immutable, and safe for concurrent
// use. A nil PolicyGraph denies everything. Make one with [Compile].
type PolicyGraph struct {
	mode     Mode
	digest   string
	policies []Policy // by name
	rules    []*rule  // by name
	index    map[string]*candidates
	pool     sync.Pool // of *activation
}

// candidates are the rules that may concern one syscall, so listed that the time
// of a decision depends on those in scope and not on how many there are.
type candidates struct {
	any        []*rule
	byPlugin   map[string][]*rule
	byIdentity map[string][]*rule
	byGroup    map[string][]*rule
	byHead     map[string][]*rule     // by [capability.Pattern.Head]
	heads      struct{ min, max int } // their lengths
}

// collect visits every list that may hold a rule in scope of the request.
func (c *candidates) collect(st *evaluation) {
	r := st.request
	st.visit(c.any)
	if c.byPlugin != nil {
		st.visit(c.byPlugin[r.Plugin])
	}
	if c.byIdentity != nil {
		st.visit(c.byIdentity[r.Identity.ID])
	}
	if c.byGroup != nil {
		for _, group := range r.Identity.Groups {
			st.visit(c.byGroup[group])
		}
	}
	if c.byHead != nil {
		for _, res := range r.Resources {
			for i := c.heads.min; i <= min(c.heads.max, len(res)); i++ {
				if i == len(res) || res[i] == '/' {
					st.visit(c.byHead[res[:i]])
				}
			}
		}
	}
}

// rule is a compiled policy.
type rule struct {
	order       int // in name order
	name        string
	origin      string
	mode        Mode
	onViolation Outcome

	syscalls     []string // canonical, sorted
	plugins      []matcher
	identities   []matcher
	groups       []matcher
	resources    []capability.Pattern
	requirements []requirement
}

// enforcing reports whether the rule decides, rather than reports.
func (ru *rule) enforcing() bool { return ru.mode == Enforce }

// concerns reports whether plugin, identity and groups of the request are in
// the rule's scope.
func (ru *rule) concerns(r *Request) bool {
	return (len(ru.plugins) == 0 || matchAny(ru.plugins, r.Plugin)) &&
		(len(ru.identities) == 0 || matchAny(ru.identities, r.Identity.ID)) &&
		(len(ru.groups) == 0 || slices.ContainsFunc(r.Identity.Groups, func(g string) bool { return matchAny(ru.groups, g) }))
}

// covers is the set of the request's resources that are in the rule's scope,
// as bits; for a request without resources, bit 0 if the rule names none.
func (ru *rule) covers(r *Request) uint64 {
	if len(ru.resources) == 0 {
		return allResources(r)
	}
	var set uint64
	for i, res := range r.Resources {
		for j := range ru.resources {
			if ru.resources[j].Match(res) {
				set |= 1 << i
				break
			}
		}
	}
	return set
}

func allResources(r *Request) uint64 {
	return 1<<max(1, len(r.Resources)) - 1
}

// matcher is a compiled name, glob or pattern of a policy's scope.
type matcher struct {
	text    string
	kind    matchKind
	pattern capability.Pattern
}

type matchKind uint8

const (
	matchExact matchKind = iota
	matchAll
	matchGlob
	matchPattern
)

func (m *matcher) match(name string) bool {
	switch m.kind {
	case matchExact:
		return m.text == name
	case matchAll:
		return true
	case matchGlob:
		return capability.MatchName(m.text, name)
	case matchPattern:
		return m.pattern.Match(name)
	}
	return false
}

func matchAny(ms []matcher, name string) bool {
	for i := range ms {
		if ms[i].match(name) {
			return true
		}
	}
	return false
}

// requirement is one thing a rule demands of the requests in its scope.
type requirement struct {
	kind      requirementKind
	field     string // as in HCL
	reason    string // why it does not hold, if it does not
	level     capability.TrustLevel
	score     float64
	names     []matcher
	position  int
	regexp    *regexp.Regexp
	validator func(*Request) bool
	condition *condition
}

type requirementKind uint8

const (
	minLevel requirementKind = iota
	minScore
	allowIdentities
	denyIdentities
	argPresent
	argMatch
	argDeny
	validate
	when
	denyWhen
)

// verdict is what became of a requirement.
type verdict struct {
	ok     bool
	hard   bool // failed in a way that no mode relaxes
	reason string
}

// check evaluates a requirement. It allocates nothing unless it runs a
// condition or fails with an error.
func (q *requirement) check(st *evaluation) verdict {
	v := verdict{reason: q.reason}
	r := st.request
	switch q.kind {
	case minLevel:
		v.ok = st.level >= q.level
	case minScore:
		v.ok = st.score >= q.score
	case allowIdentities:
		v.ok = matchAny(q.names, r.Identity.ID)
	case denyIdentities:
		v.ok = !matchAny(q.names, r.Identity.ID)
	case argPresent:
		v.ok = q.position < len(r.Args)
		v.hard = !v.ok
	case argMatch:
		// A missing argument is argPresent's to report.
		v.ok = q.position >= len(r.Args) || q.regexp.MatchString(r.Args[q.position])
	case argDeny:
		v.ok = q.position >= len(r.Args) || !q.regexp.MatchString(r.Args[q.position])
	case validate:
		var err error
		if v.ok, err = runValidator(q.validator, r); err != nil {
			v.hard, v.reason = true, err.Error()
		}
	case when, denyWhen:
		holds, err := q.condition.eval(st)
		if err != nil {
			v.hard, v.reason = true, fmt.Sprintf("%s cannot be evaluated: %v", q.field, err)
			break
		}
		v.ok = holds == (q.kind == when)
	}
	return v
}

func runValidator(f func(*Request) bool, r *Request) (ok bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			ok, err = false, fmt.Errorf("the validator panicked: %v", p)
		}
	}()
	return f(r), nil
}

// violation is the failure of a rule.
type violation struct {
	rule   *rule // nil for the kernel's own rules
	hard   bool
	reason string
}

// stronger reports whether v rather than w decides: by what it demands, then
// whether a mode could relax it, then by name.
func (v violation) stronger(w violation) bool {
	if w.rule == nil {
		return true
	}
	if v.rule.onViolation != w.rule.onViolation {
		return v.rule.onViolation > w.rule.onViolation
	}
	if v.hard != w.hard {
		return v.hard
	}
	return v.rule.order < w.rule.order
}

// standing is a request and what is computed once for its decision.
type standing struct {
	request   *Request
	integrity float64
	score     float64
	level     capability.TrustLevel
}

// evaluation is the state of one decision.
type evaluation struct {
	standing
	graph      *PolicyGraph
	activation *activation // made when the first condition is met

	covered uint64 // resources for which an enforcing rule is in scope
	allows  *rule  // the first enforcing rule in scope
	worst   violation
	hard    bool // some violation is not to be relaxed
	reports []report
}

type report struct {
	rule   *rule
	reason string
}

// Decide says whether the request is allowed, and why.
//
// A request with several resources (a rename has two) is allowed if each of
// them alone would be: a policy is in scope if it matches one of them, and each
// must be in scope of some enforcing policy.
//
// Without an error the decision depends on nothing but graph and request. The
// modes of a graph change [Decision.Relaxed] and nothing else. Errors are
// denials that no mode relaxes: a condition that cannot be evaluated, a
// validator that panics, a missing argument under a constraint, a request that
// is malformed. Who has no trust at all gets nothing, in every mode. A policy
// that is itself in audit mode only reports, its errors included.
func (g *PolicyGraph) Decide(r *Request) Decision {
	var st evaluation
	if d, done := st.begin(g, r); done {
		return d
	}
	g.index[r.Syscall].collect(&st)
	return st.end()
}

// begin decides what needs no policy.
func (st *evaluation) begin(g *PolicyGraph, r *Request) (d Decision, done bool) {
	if g == nil {
		return Decision{Rule: RuleKernel, Reason: "no policy is loaded"}, true
	}
	if r == nil {
		return Decision{Rule: RuleKernel, Reason: "there is no request", Policy: g.digest}, true
	}
	if r.Identity == nil {
		return Decision{Rule: RuleTrust, Reason: "the subject has no identity", Policy: g.digest}, true
	}
	st.graph, st.request = g, r
	st.integrity = r.DNA.Integrity(r.Now)
	st.score, st.level = Trust(r.Identity.TrustVector, st.integrity, r.Ceiling)
	deny := func(rule, reason string) (Decision, bool) {
		return Decision{Rule: rule, Reason: reason, Score: st.score, Level: st.level, Policy: g.digest}, true
	}
	switch {
	case r.Ceiling == capability.Quarantined:
		return deny(RuleTrust, "the plugin's trust level is quarantined")
	case st.level == capability.Quarantined:
		return deny(RuleTrust, "the trust score is 0: the identity is compromised or the container has no integrity left")
	case g.index[r.Syscall] == nil:
		return deny(RuleKernel, fmt.Sprintf("unknown syscall %q", r.Syscall))
	case len(r.Resources) > maxResources:
		return deny(RuleKernel, fmt.Sprintf("%d resources in one request: %d is the most", len(r.Resources), maxResources))
	}
	return Decision{}, false
}

// visit evaluates those of the rules that are in scope. The order of visits
// does not matter, nor does it if a rule is visited twice.
func (st *evaluation) visit(rules []*rule) {
	for _, ru := range rules {
		if !ru.concerns(st.request) {
			continue
		}
		covers := ru.covers(st.request)
		if covers == 0 {
			continue
		}
		v, violated := st.judge(ru)
		if !ru.enforcing() {
			if violated {
				st.reports = append(st.reports, report{ru, v.reason})
			}
			continue
		}
		st.covered |= covers
		if st.allows == nil || ru.order < st.allows.order {
			st.allows = ru
		}
		if violated {
			st.hard = st.hard || v.hard
			if v.stronger(st.worst) {
				st.worst = v
			}
		}
	}
}

// judge checks every requirement of a rule in scope, because an error counts
// even where an earlier one has failed. The reason is that of the first error,
// or else of the first failure.
func (st *evaluation) judge(ru *rule) (v violation, violated bool) {
	for i := range ru.requirements {
		c := ru.requirements[i].check(st)
		if c.ok || (violated && (v.hard || !c.hard)) {
			continue
		}
		v, violated = violation{rule: ru, hard: c.hard, reason: c.reason}, true
	}
	return v, violated
}

// end sums up.
func (st *evaluation) end() Decision {
	g := st.graph
	if st.activation != nil {
		st.activation.release(g)
	}
	d := Decision{Score: st.score, Level: st.level, Policy: g.digest, Reports: st.reported()}
	switch uncovered := allResources(st.request) &^ st.covered; {
	case st.worst.rule != nil:
		d.Outcome, d.Rule, d.Reason = st.worst.rule.onViolation, st.worst.rule.name, st.worst.reason
	case uncovered != 0:
		d.Rule, d.Reason = RuleDefault, defaultReason(st.request, bits.TrailingZeros64(uncovered))
	default:
		d.Outcome, d.Rule = Allow, st.allows.name
	}
	d.Relaxed = d.Outcome != Allow && !st.hard && g.mode != Enforce
	return d
}

func (st *evaluation) reported() []string {
	if len(st.reports) == 0 {
		return nil
	}
	slices.SortFunc(st.reports, func(a, b report) int { return cmp.Compare(a.rule.order, b.rule.order) })
	var out []string
	for i, r := range st.reports {
		if i == 0 || r.rule != st.reports[i-1].rule {
			out = append(out, r.rule.name+": "+r.reason)
		}
	}
	return out
}

func defaultReason(r *Request, resource int) string {
	if resource < len(r.Resources) {
		return fmt.Sprintf("no policy allows it: write one with syscalls = [%q] whose scope takes in plugin %q and resource %q", r.Syscall, r.Plugin, r.Resources[resource])
	}
	return fmt.Sprintf("no policy allows it: write one with syscalls = [%q] and no resources, whose scope takes in plugin %q", r.Syscall, r.Plugin)
}

// Mode is how the graph's violations take effect. That of a nil graph enforces.
func (g *PolicyGraph) Mode() Mode {
	if g == nil {
		return Enforce
	}
	return g.mode
}

// Digest identifies what the graph decides: the SHA-256, in hex, of a canonical
// encoding of its mode and policies. The order in which policies were given
// does not matter, nor that of the entries of a list. It is "" for a nil graph.
func (g *PolicyGraph) Digest() string {
	if g == nil {
		return ""
	}
	return g.digest
}

// Policies are the graph's policies by name. The result is the caller's own.
func (g *PolicyGraph) Policies() []Policy {
	if g == nil {
		return nil
	}
	out := make([]Policy, len(g.policies))
	for i := range g.policies {
		out[i] = g.policies[i].clone()
	}
	return out
}
