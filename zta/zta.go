// Package zta decides. Given who asks (identity, trust, history) and what for
// (syscall, arguments, canonical resources), a [PolicyGraph] says whether the
// call is allowed, and why.
//
// The package is pure: it reads no clock, file, socket or environment. Time and
// artifacts come in as values, so a decision can be replayed from its record.
// (A condition that names a time zone reads the machine's time zone database.)
package zta

import (
	"fmt"
	"time"

	"forgeone.dev/forgeone/capability"
)

// TrustVector is how an identity is known. The zero value is Compromised.
type TrustVector uint8

// The trust vectors, weakest first.
const (
	Compromised TrustVector = iota
	Unverified
	EdgeGateway
	Signed
	Enclave
	Root
)

// Identity is who a subject is, as the host established it. A guest cannot
// supply or change it.
type Identity struct {
	ID          string      // local name or SPIFFE id; never empty in a loaded plugin
	TrustVector TrustVector // verified, see [Verify]
	Groups      []string
	Publisher   string // key id of the key that signed the artifact, "" if none did
}

// Request is one syscall as policy sees it. Policy code and validators MUST
// NOT change or keep it.
type Request struct {
	Syscall   string   // canonical name
	Args      []string // as the guest gave them; argument 0 of file_* is the absolute guest path
	Resources []string // canonical
	Plugin    string
	Container string
	Identity  *Identity
	Ceiling   capability.TrustLevel // configured level; the score can only lower it
	Set       capability.Set
	DNA       *ExecutionDNA // nil means no history: full integrity
	Now       time.Time
}

// Outcome is what was decided about a request, mildest first: the strongest of
// several violations wins.
type Outcome uint8

// Outcomes. The zero value is Block.
const (
	Block Outcome = iota
	Freeze
	Quarantine
	Allow
)

var outcomeNames = [...]string{Block: "blocked", Freeze: "frozen", Quarantine: "quarantined", Allow: "allowed"}

// String is the decision as it stands in a record.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// MarshalText implements encoding.TextMarshaler.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Outcome) UnmarshalText(b []byte) error {
	for i, n := range outcomeNames {
		if n == string(b) {
			*o = Outcome(i)
			return nil
		}
	}
	return fmt.Errorf("unknown outcome %q: want one of %v", b, outcomeNames)
}

// Decision is the answer to a request, with what is needed to explain it. The
// zero Decision blocks.
type Decision struct {
	Outcome Outcome
	// Relaxed reports that the mode lets the call proceed although Outcome is
	// not Allow: the record keeps the outcome and says "would_block".
	Relaxed bool
	// Rule is the name of the deciding policy: of the violated one, or of the
	// first in name order among those that allow; else [RuleDefault], [RuleTrust]
	// or [RuleKernel].
	Rule   string
	Reason string // for people; empty for Allow
	// Reports are the violations of policies in audit mode, "policy: reason",
	// in name order. They changed nothing.
	Reports []string
	Score   float64 // trust score, 0 to 1
	Level   capability.TrustLevel
	Policy  string // digest of the graph that decided
}

// Proceeds reports whether the effect may happen.
func (d Decision) Proceeds() bool { return d.Outcome == Allow || d.Relaxed }

// Mode is how violations take effect.
type Mode uint8

// Modes. The zero value enforces.
const (
	Enforce    Mode = iota
	Audit           // let it proceed, record it as blocked, count it in the DNA
	Permissive      // the same without touching the DNA; for a kernel only, not a single policy
)

// Policy is one rule as a person or a registry writes it.
//
// The first group of fields is its scope: an empty list is no restriction, and
// the policy concerns a request only if every list matches. Entries are names
// or globs, in which "*" alone matches everything and elsewhere any run of
// characters without "/" and ":"; an entry with "://" and "*", such as
// "spiffe://acme/**", is a [capability.Pattern]. Syscalls may be aliases.
// Resources are patterns, of which some resource of the request must match one:
// a policy about resources concerns no request without any.
//
// Everything after that is a requirement. A call is allowed if and only if at
// least one enforcing policy is in scope (for each of its resources, if it has
// several) and every requirement of every enforcing policy in scope holds.
//
// Conditions are CEL. They can read:
//
//	subject    id, score (0 to 1), level, plugin, container, groups, publisher, vector
//	syscall    the canonical name
//	args       list of strings
//	resources  list of strings
//	dna        calls, denials_1m, integrity (0 to 100);
//	           seen(name), first_seen(name), after(name, name): see [ExecutionDNA]
//	custom     the capability set's custom attributes, a map of strings
//	now        the time of the request; in UTC unless a time zone is given
//
// They are checked when the policies are compiled: types, the literal patterns
// of matches(), and that their cost is bounded.
type Policy struct {
	Name   string // unique; not "default", "trust" or "kernel"
	Origin string // "file:line" or "registry", for diagnostics; not part of the digest

	Syscalls   []string
	Plugins    []string
	Identities []string
	Groups     []string
	Resources  []string

	MinTrustLevel   capability.TrustLevel
	MinTrustScore   float64
	AllowIdentities []string // nil: no restriction; otherwise one must match
	DenyIdentities  []string
	Args            map[int]ArgConstraint // by position, from 0; a missing argument is an error
	When            string                // CEL expression that must be true
	DenyWhen        string                // CEL expression that must be false
	// Validator is a custom validator: false violates, a panic is an error. It
	// MUST depend on the request alone. ValidatorID stands for it in the digest.
	Validator   func(*Request) bool
	ValidatorID string

	OnViolation Outcome // Block, Freeze or Quarantine
	Mode        Mode    // Enforce or Audit
}

// ArgConstraint is what an argument must look like. Both are RE2 (package
// regexp), unanchored; empty means no constraint.
type ArgConstraint struct {
	Match string // must match
	Deny  string // must not match
}

var vectorNames = [...]string{"compromised", "unverified", "edge_gateway", "signed", "enclave", "root"}

// String is the vector as written in HCL.
func (v TrustVector) String() string {
	if int(v) < len(vectorNames) {
		return vectorNames[v]
	}
	return fmt.Sprintf("trustvector(%d)", uint8(v))
}

// ParseTrustVector is the vector of that name, as written in HCL.
func ParseTrustVector(s string) (TrustVector, error) {
	for i, n := range vectorNames {
		if n == s {
			return TrustVector(i), nil
		}
	}
	return Compromised, fmt.Errorf("unknown trust vector %q: want one of %v", s, vectorNames)
}

var modeNames = [...]string{"enforce", "audit", "permissive"}

// String is the mode as written in HCL.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode is the mode of that name, as written in HCL.
func ParseMode(s string) (Mode, error) {
	for i, n := range modeNames {
		if n == s {
			return Mode(i), nil
		}
	}
	return Enforce, fmt.Errorf("unknown mode %q: want one of %v", s, modeNames)
}

// MarshalText implements encoding.TextMarshaler.
func (v TrustVector) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *TrustVector) UnmarshalText(b []byte) (err error) {
	*v, err = ParseTrustVector(string(b))
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Mode) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMode(string(b))
	return err
}
