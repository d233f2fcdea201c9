package zta

import (
	"errors"
	"time"

	"forgeone.dev/forgeone/capability"
)

var errUnfinished = errors.New("zta: not built yet")

// RedFlag is a kind of suspicious behaviour; each has a weight in integrity points.
type RedFlag uint8

// Red flags.
const (
	Denied         RedFlag = iota // a call was blocked
	UnknownSyscall                // a name that no registration has
	BadArguments                  // wrong count, not decodable, out of bounds
	LimitExceeded                 // fuel, deadline, memory, output
	Trap                          // the guest trapped or its process died
	HandleAbuse                   // a handle it does not hold
	FreezeViolated                // violated a policy that freezes
	QuarantineViolated            // violated a policy that quarantines
)

// String is the flag's name as it stands in records.
func (f RedFlag) String() string { return "" }

// Weight is the flag's cost in integrity points.
func (f RedFlag) Weight() float64 { return 0 }

// ExecutionDNA is a container's history. Reads of a nil DNA are those of one without history.
type ExecutionDNA struct{}

// NewExecutionDNA is the empty history of a new container.
func NewExecutionDNA(containerID string, identity Identity) *ExecutionDNA { return &ExecutionDNA{} }

func (d *ExecutionDNA) ContainerID() string { return "" }
func (d *ExecutionDNA) Identity() Identity  { return Identity{} }

// Observe counts one decided call; it does not change integrity (Flag does).
func (d *ExecutionDNA) Observe(now time.Time, syscall string, o Outcome) {}

// Flag subtracts the flag's weight and returns the integrity that is left, for Verdict.
func (d *ExecutionDNA) Flag(now time.Time, f RedFlag) float64         { return 0 }
func (d *ExecutionDNA) Integrity(now time.Time) float64               { return FullIntegrity }
func (d *ExecutionDNA) SetIntegrity(now time.Time, integrity float64) {}

// Calls is how many calls were observed, Denials how many of the remembered ones were
// not allowed in the window before now.
func (d *ExecutionDNA) Calls() uint64                                        { return 0 }
func (d *ExecutionDNA) Denials(now time.Time, window time.Duration) int      { return 0 }
func (d *ExecutionDNA) FirstSeen(syscall string) (first time.Time, ok bool) { return time.Time{}, false }

// After reports whether a call of a came after one of b.
func (d *ExecutionDNA) After(a, b string) bool { return false }

// Snapshot is the history as a value that serialises to JSON; Restore takes it over.
func (d *ExecutionDNA) Snapshot() History { return History{} }
func (d *ExecutionDNA) Restore(h History) {}

// History is a DNA as a value, to keep across restarts and renames.
type History struct{}

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
