package control

import (
	"forgeone.dev/forgeone/zta"
)

// ExplainRequest asks how a syscall of a plugin would be decided.
type ExplainRequest struct {
	Plugin  string   `json:"plugin"` // name or id
	Syscall string   `json:"syscall"`
	Args    []string `json:"args,omitempty"`
	// Resources are canonical. None means those that the arguments resolve to.
	Resources []string `json:"resources,omitempty"`
}

// Explanation is how one syscall of a request would be decided, and what each
// policy has to say about it. A request may take several: an open that can
// write is a write too.
type Explanation struct {
	Plugin    string   `json:"plugin"`
	Identity  Identity `json:"identity"`
	Syscall   string   `json:"syscall"`
	Args      []string `json:"args,omitempty"`
	Resources []string `json:"resources,omitempty"`

	// Outcome is what comes of it: "allowed", "blocked", "frozen", "quarantined".
	Outcome string `json:"outcome"`
	// Relaxed reports that the mode lets it proceed all the same.
	Relaxed bool   `json:"relaxed,omitempty"`
	Rule    string `json:"rule"`
	Reason  string `json:"reason,omitempty"`
	// NotGranted lists what the plugin's capability set lacks: the syscall or
	// resources.
	NotGranted []string `json:"not_granted,omitempty"`
	Reports    []string `json:"reports,omitempty"` // of policies in audit mode
	Score      float64  `json:"score"`
	Level      string   `json:"level"`
	Policy     string   `json:"policy"` // digest of the graph
	Rules      []Rule   `json:"rules"`  // by name
}

// Rule is one policy's part in an [Explanation].
type Rule struct {
	Policy       string        `json:"policy"`
	Origin       string        `json:"origin,omitempty"`
	Mode         string        `json:"mode"`
	InScope      bool          `json:"in_scope"`
	OutOfScope   string        `json:"out_of_scope,omitempty"` // field of the scope that does not match
	Resources    []string      `json:"resources,omitempty"`    // of the request, in scope
	Holds        bool          `json:"holds"`
	OnViolation  string        `json:"on_violation"`
	Requirements []Requirement `json:"requirements,omitempty"`
}

// Requirement is one requirement of a policy in scope.
type Requirement struct {
	Field  string `json:"field"`
	Holds  bool   `json:"holds"`
	Detail string `json:"detail,omitempty"` // why, if it does not hold
}

// NewExplanation is what policy has to say about a request, as it crosses the
// socket.
func NewExplanation(r *zta.Request, x zta.Explanation) Explanation {
	d := x.Decision
	e := Explanation{
		Plugin: r.Plugin, Identity: viewIdentity(*r.Identity), Syscall: r.Syscall, Args: r.Args, Resources: r.Resources,
		Outcome: d.Outcome.String(), Relaxed: d.Relaxed, Rule: d.Rule, Reason: d.Reason,
		Reports: d.Reports, Score: d.Score, Level: d.Level.String(), Policy: d.Policy, Rules: []Rule{},
	}
	for _, t := range x.Rules {
		ru := Rule{
			Policy: t.Policy, Origin: t.Origin, Mode: t.Mode.String(), InScope: t.InScope, OutOfScope: t.OutOfScope,
			Resources: t.Resources, Holds: t.InScope && t.Holds(), OnViolation: t.OnViolation.String(),
		}
		for _, q := range t.Requirements {
			ru.Requirements = append(ru.Requirements, Requirement{Field: q.Field, Holds: q.Holds, Detail: q.Detail})
		}
		e.Rules = append(e.Rules, ru)
	}
	return e
}
