package zta

import "slices"

// Explanation is a decision with what each policy had to say about it.
type Explanation struct {
	Decision Decision    `json:"decision"`
	Rules    []RuleTrace `json:"rules,omitempty"` // by name; none where no policy was asked
}

// RuleTrace is one policy's part in a decision.
type RuleTrace struct {
	Policy  string `json:"policy"`
	Origin  string `json:"origin,omitempty"`
	Mode    Mode   `json:"mode"`
	InScope bool   `json:"in_scope"`
	// OutOfScope names the field of the scope that does not match: syscalls,
	// plugins, identities, groups or resources.
	OutOfScope string `json:"out_of_scope,omitempty"`
	// Resources are those of the request that are in scope.
	Resources    []string           `json:"resources,omitempty"`
	Requirements []RequirementTrace `json:"requirements,omitempty"`
	OnViolation  Outcome            `json:"on_violation"`
}

// Holds reports whether every requirement holds.
func (t RuleTrace) Holds() bool {
	return !slices.ContainsFunc(t.Requirements, func(q RequirementTrace) bool { return !q.Holds })
}

// RequirementTrace is one requirement of a policy in scope.
type RequirementTrace struct {
	Field  string `json:"field"` // as in HCL, such as "arg.0.match"
	Holds  bool   `json:"holds"`
	Hard   bool   `json:"hard,omitempty"`   // failed by an error, which no mode relaxes
	Detail string `json:"detail,omitempty"` // why, if it does not hold
}

// Explain is [PolicyGraph.Decide] with the part of every policy of the graph.
// It takes time in proportion to their number.
func (g *PolicyGraph) Explain(r *Request) Explanation {
	e := Explanation{Decision: g.Decide(r)}
	var st evaluation
	if _, done := st.begin(g, r); done {
		return e
	}
	for _, ru := range g.rules {
		e.Rules = append(e.Rules, st.trace(ru))
	}
	if st.activation != nil {
		st.activation.release(g)
	}
	return e
}

func (st *evaluation) trace(ru *rule) RuleTrace {
	r := st.request
	t := RuleTrace{Policy: ru.name, Origin: ru.origin, Mode: ru.mode, OnViolation: ru.onViolation}
	covers := ru.covers(r)
	switch _, named := slices.BinarySearch(ru.syscalls, r.Syscall); {
	case !named:
		t.OutOfScope = "syscalls"
	case len(ru.plugins) > 0 && !matchAny(ru.plugins, r.Plugin):
		t.OutOfScope = "plugins"
	case len(ru.identities) > 0 && !matchAny(ru.identities, r.Identity.ID):
		t.OutOfScope = "identities"
	case !ru.concerns(r):
		t.OutOfScope = "groups"
	case covers == 0:
		t.OutOfScope = "resources"
	default:
		t.InScope = true
		for i, res := range r.Resources {
			if covers&(1<<i) != 0 {
				t.Resources = append(t.Resources, res)
			}
		}
		for i := range ru.requirements {
			q := &ru.requirements[i]
			v := q.check(st)
			qt := RequirementTrace{Field: q.field, Holds: v.ok, Hard: v.hard}
			if !v.ok {
				qt.Detail = v.reason
			}
			t.Requirements = append(t.Requirements, qt)
		}
	}
	return t
}
