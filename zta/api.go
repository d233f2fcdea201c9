package zta

import (
	"errors"

	"forgeone.dev/forgeone/capability"
)

var errUnfinished = errors.New("zta: not built yet")

// CompileOptions of a graph.
type CompileOptions struct {
	Mode     Mode     // of the kernel
	Syscalls []string // every canonical name there is
}

// PolicyError is one thing wrong with one policy.
type PolicyError struct {
	Policy, Origin, Field string
	Err                   error
}

func (e *PolicyError) Error() string { return e.Err.Error() }
func (e *PolicyError) Unwrap() error { return e.Err }

// PolicyGraph is a compiled, immutable set of policies. A nil graph denies.
type PolicyGraph struct{}

// Compile reports everything that is wrong, as a join of *PolicyError.
func Compile(policies []Policy, opts CompileOptions) (*PolicyGraph, error) {
	return nil, errUnfinished
}

func (g *PolicyGraph) Decide(r *Request) Decision     { return Decision{} }
func (g *PolicyGraph) Explain(r *Request) Explanation { return Explanation{} }
func (g *PolicyGraph) Digest() string                 { return "" }
func (g *PolicyGraph) Mode() Mode                     { return Enforce }
func (g *PolicyGraph) Policies() []Policy             { return nil }

// Explanation is a decision with what each policy had to say.
type Explanation struct {
	Decision Decision
	Rules    []RuleTrace
}

// RuleTrace is one policy's part in a decision.
type RuleTrace struct {
	Policy       string
	Origin       string
	Mode         Mode
	InScope      bool
	OutOfScope   string // why not, if not
	Requirements []RequirementTrace
}

// RequirementTrace is one requirement of a policy in scope.
type RequirementTrace struct {
	Field  string
	Holds  bool
	Hard   bool // failed by an error, which no mode relaxes
	Detail string
}

// IdentitySpec is an identity as configured.
type IdentitySpec struct {
	ID        string
	Vector    TrustVector
	PublicKey string // minisign: the bare base64 line, or a whole .pub file
	Groups    []string
}

// Verify establishes the identity of an artifact.
func Verify(spec IdentitySpec, artifact, signature []byte, rootKey string) (Identity, error) {
	return Identity{}, errUnfinished
}

var _ = capability.Core
