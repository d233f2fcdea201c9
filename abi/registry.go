package abi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// SyscallHandler carries out an effect. It acts on what was resolved and on
// nothing else, honours ctx, and returns a *[SyscallError] where an errno fits.
type SyscallHandler func(ctx context.Context, sc *SyscallContext, r *Resolution) ([]byte, error)

// Resolution is what a request turned out to mean, before anything was done.
type Resolution struct {
	// Also names further syscalls that this use implies and that must be
	// granted and allowed as well: an open that can write is a file_write too.
	Also []string
	// Resources are canonical: what is decided and recorded.
	Resources []string
	// Object is what the handler acts on. If it is an io.Closer, the gate
	// closes it after the syscall, whatever came of it.
	Object any
	// Err is why the effect will fail, told to the plugin only once the
	// decision allowed it: what lies outside a grant cannot be probed.
	Err error
}

// Registration is one syscall.
type Registration struct {
	Name string
	// Args names the arguments, all of them required; a last name that ends in
	// "..." stands for any number, none included.
	Args []string
	// MinTrust is the lowest trust level that may hold it. The zero value means
	// Core: what names no level is for the most trusted alone.
	MinTrust capability.TrustLevel
	// Doc is one line for people.
	Doc string

	// World reports that the effect changes something that outlives the call,
	// so that intent and outcome are recorded one by one.
	World bool
	// Fold lets repeats within a call share records although World is set
	// (writes to an open handle). Syscalls without World may always be folded.
	Fold bool
	// Privileged makes the effect wait until its intent is on disk. Whatever
	// needs Trusted or Core is privileged without it.
	Privileged bool
	// Release reports that it only gives something back (a close): it needs
	// neither a grant nor a policy that allows it.
	Release bool
	// Timeout bounds the handler; 0 leaves it to the call's own deadline, for
	// effects that cannot block.
	Timeout time.Duration

	// Resolve says what the request means. It has no side effect. nil means no
	// resource. An error is a malformed request, and denies.
	Resolve func(ctx context.Context, sc *SyscallContext) (Resolution, error)
	Handler SyscallHandler
}

func (r *Registration) foldable() bool   { return !r.World || r.Fold }
func (r *Registration) privileged() bool { return r.Privileged || r.MinTrust >= capability.Trusted }

// Limits of arguments; bulk data is payload.
const (
	MaxArgs     = 64
	MaxArgBytes = 64 << 10 // of all together
)

// checkArgs reports whether the arguments fit.
func (r *Registration) checkArgs(args []string) error {
	size := 0
	for _, a := range args {
		size += len(a)
	}
	if len(args) > MaxArgs || size > MaxArgBytes {
		return fmt.Errorf("%d arguments of %d bytes, at most %d of %d bytes are taken", len(args), size, MaxArgs, MaxArgBytes)
	}
	want, variadic := len(r.Args), false
	if want > 0 && len(r.Args[want-1]) > 3 && r.Args[want-1][len(r.Args[want-1])-3:] == "..." {
		want, variadic = want-1, true
	}
	switch {
	case len(args) < want:
		return fmt.Errorf("missing argument %d (%s)", len(args), r.Args[len(args)])
	case len(args) > want && !variadic:
		return fmt.Errorf("%d arguments, takes %d (%v)", len(args), want, r.Args)
	}
	return nil
}

// SyscallPolicy is a policy that a registry brings along: the form of the
// user's document. It is compiled into the policy graph, with the same meaning
// as a policy block whose scope is the one syscall.
type SyscallPolicy struct {
	Syscall           string
	MinTrustLevel     capability.TrustLevel
	AllowedIdentities []string       // nil: any
	DeniedIdentities  []string       // nil: none
	ArgConstraints    map[int]string // RE2 by position, from 0; a missing argument denies
	// CustomValidator must return true for the call to be allowed; a panic denies.
	CustomValidator func(*zta.Request) bool
	OnViolation     zta.Outcome
}

// SyscallRegistry is the set of syscalls a kernel has. Fill it before it is
// given to a [Gate]; it is not changed after that. The zero value is empty.
type SyscallRegistry struct {
	syscalls map[string]*Registration
	policies map[string]SyscallPolicy
}

// Register adds syscalls. Errors: a bad or taken name, no handler.
func (r *SyscallRegistry) Register(regs ...Registration) error {
	if r.syscalls == nil {
		r.syscalls = map[string]*Registration{}
	}
	for _, reg := range regs {
		switch {
		case reg.Name == "" || reg.Name != capability.Canonical(reg.Name):
			return fmt.Errorf("abi: register %q: not a canonical syscall name", reg.Name)
		case reg.Handler == nil:
			return fmt.Errorf("abi: register %s: no handler", reg.Name)
		case r.syscalls[reg.Name] != nil:
			return fmt.Errorf("abi: register %s: registered twice", reg.Name)
		}
		if reg.MinTrust == capability.Quarantined {
			reg.MinTrust = capability.Core
		}
		r.syscalls[reg.Name] = &reg
	}
	return nil
}

// SetPolicy adds or replaces a policy under a name.
func (r *SyscallRegistry) SetPolicy(name string, p SyscallPolicy) {
	if r.policies == nil {
		r.policies = map[string]SyscallPolicy{}
	}
	r.policies[name] = p
}

// Names lists the syscalls in name order.
func (r *SyscallRegistry) Names() []string { return slices.Sorted(maps.Keys(r.syscalls)) }

// Lookup is the registration of a name or alias.
func (r *SyscallRegistry) Lookup(name string) (Registration, bool) {
	reg := r.lookup(name)
	if reg == nil {
		return Registration{}, false
	}
	return *reg, true
}

func (r *SyscallRegistry) lookup(name string) *Registration {
	if reg := r.syscalls[name]; reg != nil {
		return reg
	}
	return r.syscalls[capability.Canonical(name)]
}

// Lowest is the lowest trust level that may hold each syscall.
func (r *SyscallRegistry) Lowest() map[string]capability.TrustLevel {
	m := make(map[string]capability.TrustLevel, len(r.syscalls))
	for n, reg := range r.syscalls {
		m[n] = reg.MinTrust
	}
	return m
}

// Compile makes the policy graph of the registry's own policies and the given
// ones.
func (r *SyscallRegistry) Compile(policies []zta.Policy, mode zta.Mode) (*zta.PolicyGraph, error) {
	all := slices.Clone(policies)
	for name, p := range r.policies {
		zp := zta.Policy{
			Name: name, Origin: "registry", Syscalls: []string{p.Syscall},
			MinTrustLevel: p.MinTrustLevel, AllowIdentities: p.AllowedIdentities, DenyIdentities: p.DeniedIdentities,
			Validator: p.CustomValidator, OnViolation: p.OnViolation,
		}
		if p.Syscall == "" {
			return nil, errors.New("abi: registry policy " + name + " names no syscall")
		}
		if p.CustomValidator != nil {
			zp.ValidatorID = "registry:" + name
		}
		for i, re := range p.ArgConstraints {
			if zp.Args == nil {
				zp.Args = map[int]zta.ArgConstraint{}
			}
			zp.Args[i] = zta.ArgConstraint{Match: re}
		}
		all = append(all, zp)
	}
	return zta.Compile(all, zta.CompileOptions{Mode: mode, Syscalls: r.Names()})
}
