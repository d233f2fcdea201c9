package zta

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"forgeone.dev/forgeone/capability"
)

// CompileOptions are what [Compile] needs to know of the kernel.
type CompileOptions struct {
	Mode Mode
	// Syscalls are the canonical names of all there are. A policy that names
	// another is wrong, and a request for another is denied.
	Syscalls []string
}

// PolicyError is one thing that is wrong with one policy.
type PolicyError struct {
	Policy string // its name
	Origin string // where it stands, see [Policy]
	Field  string // as in HCL, such as "arg.0.match"
	Err    error
}

// Error says where and what.
func (e *PolicyError) Error() string {
	s := fmt.Sprintf("policy %q: %s: %v", e.Policy, e.Field, e.Err)
	if e.Origin != "" {
		s = e.Origin + ": " + s
	}
	return s
}

// Unwrap is the cause.
func (e *PolicyError) Unwrap() error { return e.Err }

// Compile makes a graph of policies. The error joins every [PolicyError] there
// is; no graph comes with it. No policy at all is not an error: such a graph
// denies everything.
func Compile(policies []Policy, opts CompileOptions) (*PolicyGraph, error) {
	c := &compiler{syscalls: slices.Compact(slices.Sorted(slices.Values(opts.Syscalls)))}
	if int(opts.Mode) >= len(modeNames) {
		c.errs = append(c.errs, fmt.Errorf("the kernel's mode %s does not exist: want one of %v", opts.Mode, modeNames))
	}
	g := &PolicyGraph{mode: opts.Mode, policies: make([]Policy, len(policies))}
	for i := range policies {
		g.policies[i] = policies[i].clone()
	}
	slices.SortStableFunc(g.policies, func(a, b Policy) int { return cmp.Compare(a.Name, b.Name) })
	for i := range g.policies {
		c.policy = &g.policies[i]
		if i > 0 && c.policy.Name == g.policies[i-1].Name {
			c.fail("name", fmt.Errorf("there is another policy of that name%s: each needs its own", at(g.policies[i-1].Origin)))
		}
		ru := c.rule()
		ru.order = i
		g.rules = append(g.rules, ru)
	}
	if err := errors.Join(c.errs...); err != nil {
		return nil, err
	}
	g.index = buildIndex(g.rules, c.syscalls)
	g.digest = digest(g.policies, g.mode)
	return g, nil
}

func at(origin string) string {
	if origin == "" {
		return ""
	}
	return " at " + origin
}

// compiler compiles policies one after the other and collects what is wrong.
type compiler struct {
	syscalls   []string // canonical, sorted
	conditions *conditions
	policy     *Policy
	errs       []error
}

func (c *compiler) fail(field string, err error) {
	c.errs = append(c.errs, &PolicyError{Policy: c.policy.Name, Origin: c.policy.Origin, Field: field, Err: err})
}

func (c *compiler) rule() *rule {
	p := c.policy
	ru := &rule{name: p.Name, origin: p.Origin, mode: p.Mode, onViolation: p.OnViolation}
	switch p.Name {
	case "":
		c.fail("name", errors.New("the policy has no name: decisions are recorded by it"))
	case RuleDefault, RuleTrust, RuleKernel:
		c.fail("name", fmt.Errorf("%q is the name of a rule of the kernel: choose another", p.Name))
	}
	if p.Mode != Enforce && p.Mode != Audit {
		c.fail("mode", fmt.Errorf("%s is no mode of a policy: want enforce or audit", p.Mode))
	}
	if p.OnViolation > Quarantine {
		c.fail("on_violation", fmt.Errorf("%s is no violation: want block, freeze or quarantine", p.OnViolation))
	}
	ru.syscalls = c.expand(p.Syscalls)
	ru.plugins = c.matchers("plugins", p.Plugins)
	ru.identities = c.matchers("identities", p.Identities)
	ru.groups = c.matchers("groups", p.Groups)
	for _, text := range p.Resources {
		pattern, err := capability.ParsePattern(text)
		if err != nil {
			c.fail("resources", err)
			continue
		}
		ru.resources = append(ru.resources, pattern)
	}
	ru.requirements = c.requirements()
	return ru
}

// expand is the canonical names a list of names and globs stands for; all there
// are for an empty list.
func (c *compiler) expand(entries []string) []string {
	if len(entries) == 0 {
		return c.syscalls
	}
	var out []string
	for _, entry := range entries {
		name := capability.Canonical(entry)
		matched := len(out)
		for _, s := range c.syscalls {
			if capability.MatchName(name, s) {
				out = append(out, s)
			}
		}
		switch {
		case len(out) > matched:
		case strings.Contains(name, "*"):
			c.fail("syscalls", fmt.Errorf("%q matches no syscall", entry))
		default:
			c.fail("syscalls", fmt.Errorf("unknown syscall %q%s", entry, didYouMean(name, c.syscalls)))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *compiler) matchers(field string, entries []string) []matcher {
	var out []matcher
	for _, text := range entries {
		m := matcher{text: text}
		switch {
		case text == "":
			c.fail(field, errors.New("an entry is empty"))
		case text == "*":
			m.kind = matchAll
		case !strings.Contains(text, "*"):
			m.kind = matchExact
		case strings.Contains(text, "://"):
			pattern, err := capability.ParsePattern(text)
			if err != nil {
				c.fail(field, err)
			}
			m.kind, m.pattern = matchPattern, pattern
		default:
			m.kind = matchGlob
		}
		out = append(out, m)
	}
	return out
}

// requirements are those of the policy, in the order in which they give the
// reason of a denial: cheap ones first.
func (c *compiler) requirements() []requirement {
	p := c.policy
	var out []requirement
	if int(p.MinTrustLevel) >= len(capability.LevelNames()) {
		c.fail("min_trust_level", fmt.Errorf("%s does not exist: want one of %v", p.MinTrustLevel, capability.LevelNames()))
	} else if p.MinTrustLevel > capability.Quarantined {
		out = append(out, requirement{kind: minLevel, field: "min_trust_level", level: p.MinTrustLevel,
			reason: fmt.Sprintf("needs trust level %s", p.MinTrustLevel)})
	}
	if !(p.MinTrustScore >= 0 && p.MinTrustScore <= 1) {
		c.fail("min_trust_score", fmt.Errorf("%v is out of range: want 0 to 1", p.MinTrustScore))
	} else if p.MinTrustScore > 0 {
		out = append(out, requirement{kind: minScore, field: "min_trust_score", score: p.MinTrustScore,
			reason: fmt.Sprintf("needs a trust score of %v", p.MinTrustScore)})
	}
	if len(p.DenyIdentities) > 0 {
		out = append(out, requirement{kind: denyIdentities, field: "deny_identities", names: c.matchers("deny_identities", p.DenyIdentities),
			reason: "the identity is one of deny_identities"})
	}
	if p.AllowIdentities != nil {
		out = append(out, requirement{kind: allowIdentities, field: "allow_identities", names: c.matchers("allow_identities", p.AllowIdentities),
			reason: "the identity is none of allow_identities"})
	}
	for _, pos := range slices.Sorted(maps.Keys(p.Args)) {
		out = append(out, c.argument(pos, p.Args[pos])...)
	}
	switch {
	case p.Validator == nil && p.ValidatorID != "":
		c.fail("validator", fmt.Errorf("the validator %q is not there: set Policy.Validator", p.ValidatorID))
	case p.Validator != nil && p.ValidatorID == "":
		c.fail("validator", errors.New("the validator has no id: set Policy.ValidatorID, which stands for it in the policy digest"))
	case p.Validator != nil:
		out = append(out, requirement{kind: validate, field: "validator", validator: p.Validator,
			reason: fmt.Sprintf("the validator %q says no", p.ValidatorID)})
	}
	for _, cond := range []struct {
		kind         requirementKind
		field, text  string
		reasonFormat string
	}{
		{when, "when", p.When, "when is false: %s"},
		{denyWhen, "deny_when", p.DenyWhen, "deny_when is true: %s"},
	} {
		if cond.text == "" {
			continue
		}
		compiled, err := c.condition(cond.text)
		if err != nil {
			c.fail(cond.field, err)
			continue
		}
		out = append(out, requirement{kind: cond.kind, field: cond.field, condition: compiled,
			reason: fmt.Sprintf(cond.reasonFormat, cond.text)})
	}
	return out
}

func (c *compiler) condition(text string) (*condition, error) {
	if c.conditions == nil {
		cs, err := newConditions(c.syscalls)
		if err != nil {
			return nil, err
		}
		c.conditions = cs
	}
	return c.conditions.compile(text)
}

func (c *compiler) argument(pos int, a ArgConstraint) []requirement {
	prefix := "arg." + strconv.Itoa(pos)
	if pos < 0 {
		c.fail(prefix, errors.New("positions count from 0"))
		return nil
	}
	out := []requirement{{kind: argPresent, field: prefix, position: pos,
		reason: fmt.Sprintf("argument %d is missing", pos)}}
	for _, con := range []struct {
		kind        requirementKind
		field, text string
		verb        string
	}{
		{argMatch, ".match", a.Match, "does not match"},
		{argDeny, ".deny", a.Deny, "matches"},
	} {
		if con.text == "" {
			continue
		}
		re, err := regexp.Compile(con.text)
		if err != nil {
			c.fail(prefix+con.field, err)
			continue
		}
		out = append(out, requirement{kind: con.kind, field: prefix + con.field, position: pos, regexp: re,
			reason: fmt.Sprintf("argument %d %s %q", pos, con.verb, con.text)})
	}
	return out
}

// manyRules is from how many rules on it pays to look them up by resource.
const manyRules = 16

// buildIndex lists the rules by syscall and, where a rule's scope names plugins,
// identities or groups without a glob, by those; what remains by resource.
func buildIndex(rules []*rule, syscalls []string) map[string]*candidates {
	index := make(map[string]*candidates, len(syscalls))
	for _, s := range syscalls {
		index[s] = new(candidates)
	}
	for _, ru := range rules {
		for _, s := range ru.syscalls {
			c := index[s]
			switch {
			case allExact(ru.plugins):
				c.byPlugin = listed(c.byPlugin, ru, texts(ru.plugins))
			case allExact(ru.identities):
				c.byIdentity = listed(c.byIdentity, ru, texts(ru.identities))
			case allExact(ru.groups):
				c.byGroup = listed(c.byGroup, ru, texts(ru.groups))
			default:
				c.any = append(c.any, ru)
			}
		}
	}
	for _, c := range index {
		if len(c.any) >= manyRules {
			c.listByResource()
		}
	}
	return index
}

func (c *candidates) listByResource() {
	rules := c.any
	c.any = nil
	c.heads.min = math.MaxInt
	for _, ru := range rules {
		if len(ru.resources) == 0 {
			c.any = append(c.any, ru)
			continue
		}
		var heads []string
		for _, p := range ru.resources {
			heads = append(heads, p.Head())
			c.heads.min = min(c.heads.min, len(p.Head()))
			c.heads.max = max(c.heads.max, len(p.Head()))
		}
		c.byHead = listed(c.byHead, ru, heads)
	}
}

func allExact(ms []matcher) bool {
	return len(ms) > 0 && !slices.ContainsFunc(ms, func(m matcher) bool { return m.kind != matchExact })
}

func texts(ms []matcher) []string {
	out := make([]string, len(ms))
	for i := range ms {
		out[i] = ms[i].text
	}
	return out
}

// listed lists a rule once under each of the keys.
func listed(lists map[string][]*rule, ru *rule, keys []string) map[string][]*rule {
	if lists == nil {
		lists = map[string][]*rule{}
	}
	for _, k := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		lists[k] = append(lists[k], ru)
	}
	return lists
}

func (p *Policy) clone() Policy {
	c := *p
	for _, list := range []*[]string{&c.Syscalls, &c.Plugins, &c.Identities, &c.Groups, &c.Resources, &c.AllowIdentities, &c.DenyIdentities} {
		*list = slices.Clone(*list)
	}
	c.Args = maps.Clone(c.Args)
	return c
}

// didYouMean suggests the known name that is nearest to a misspelt one.
func didYouMean(name string, known []string) string {
	if n := capability.Nearest(name, known); n != "" {
		return fmt.Sprintf(": did you mean %q?", n)
	}
	return ""
}
