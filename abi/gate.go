package abi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// Rules that are the gate's own, in the rule field of a record; the others are
// the policy graph's, or names of policies.
const (
	RuleContainer  = "container"  // the container takes no calls
	RuleRegistry   = "registry"   // no such syscall
	RuleArguments  = "arguments"  // malformed
	RuleCapability = "capability" // not in the capability set
	RuleIntegrity  = "integrity"  // the DNA's integrity fell below a threshold
	RuleRelease    = "release"    // gives something back
)

// Log is what the gate needs of an audit log; *audit.Log is one.
type Log interface {
	// Append puts a record in the log. An error means that it is not there,
	// and the gate denies what it was about.
	Append(*audit.Record) (seq uint64, err error)
	// Sync waits until the record is on disk.
	Sync(ctx context.Context, seq uint64) error
}

// Isolate is told that a decision isolates a subject: it opens a case, isolates
// the containers that the case is about with its number as the reason, and does
// what a container cannot do to itself, such as killing a process. It is called
// with no lock held, and must not wait for the plugin call that led to it. It
// returns the case's number. What it leaves undone of the subject's own
// container, the gate does.
type Isolate func(s *Subject, d zta.Decision) (caseID string)

// GateOptions are what a [Gate] is made of. Registry, Graph and Log are
// required.
type GateOptions struct {
	Registry *SyscallRegistry
	Graph    *zta.PolicyGraph
	Log      Log
	Clock    func() time.Time // nil means time.Now
	Isolate  Isolate          // nil leaves the isolation to the container alone
}

// Gate is the one entry that all syscalls pass. It is safe for concurrent use.
type Gate struct {
	registry *SyscallRegistry
	log      Log
	clock    func() time.Time
	isolate  Isolate
	calls    atomic.Uint64

	// graph is read-locked from the decision to its record, so that when
	// SetPolicyGraph has returned nothing is decided by the old one.
	policy sync.RWMutex
	graph  *zta.PolicyGraph
}

// NewGate makes a gate.
func NewGate(o GateOptions) (*Gate, error) {
	if o.Registry == nil || o.Graph == nil || o.Log == nil {
		return nil, errors.New("abi: a gate needs a registry, a policy graph and a log")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Gate{registry: o.Registry, log: o.Log, clock: o.Clock, isolate: o.Isolate, graph: o.Graph}, nil
}

// GetPolicyGraph is the policy in force.
func (g *Gate) GetPolicyGraph() *zta.PolicyGraph {
	g.policy.RLock()
	defer g.policy.RUnlock()
	return g.graph
}

// SetPolicyGraph puts a policy in force: once it has returned, no call is
// decided by the one before.
func (g *Gate) SetPolicyGraph(graph *zta.PolicyGraph) {
	g.policy.Lock()
	defer g.policy.Unlock()
	g.graph = graph
}

// Registry is the set of syscalls the gate knows.
func (g *Gate) Registry() *SyscallRegistry { return g.registry }

// SecureSyscall takes a request the whole way: live, granted, resolved,
// decided, recorded, carried out, recorded. It never panics on what a guest
// can supply, and what it cannot check or record it denies.
func (g *Gate) SecureSyscall(ctx context.Context, sc *SyscallContext) SyscallResult {
	s := sc.Subject
	if s == nil || s.Container == nil {
		return SyscallResult{Status: Blocked, Reason: "no subject: a syscall is made by a live container"}
	}
	q := request{gate: g, sc: sc, now: sc.Timestamp}
	if q.now.IsZero() {
		q.now = g.clock()
	}

	if d := s.Container.pin(); d != nil {
		outcome := zta.Block
		if d.Status == Quarantined {
			outcome = zta.Quarantine
		}
		q.name = capability.Canonical(sc.Syscall)
		return q.refuse(zta.Decision{Outcome: outcome, Rule: RuleContainer, Reason: d.Reason})
	}
	// Isolation waits for the pins, so it comes after this syscall's own is gone.
	res, isolated := q.run(ctx)
	if isolated.Outcome != zta.Block {
		res = q.isolate(isolated)
	}
	return res
}

// Report puts a red flag that is not of a syscall (a trap, an exceeded limit)
// on a subject's DNA, and isolates the subject if its integrity calls for it.
func (g *Gate) Report(s *Subject, flag zta.RedFlag, reason string) {
	q := request{gate: g, sc: &SyscallContext{Subject: s}, now: g.clock()}
	if s.ExecutionDNA == nil || s.Container == nil {
		return
	}
	s.ExecutionDNA.Flag(q.now, flag)
	if d := q.threshold(zta.Decision{Reason: reason, Policy: g.GetPolicyGraph().Digest()}); d.Outcome != zta.Block {
		q.isolate(d)
	}
}

// request is one syscall on its way through the gate.
type request struct {
	gate *Gate
	sc   *SyscallContext
	now  time.Time
	name string // canonical
	reg  *Registration
	res  Resolution
}

// run does everything that holds a pin, and lets go of it. The second result is a decision that
// isolates the subject: Freeze or Quarantine, else Block.
func (q *request) run(ctx context.Context) (SyscallResult, zta.Decision) {
	g, sc := q.gate, q.sc
	defer sc.Container.unpin()

	q.name = capability.Canonical(sc.Syscall)
	if q.reg = g.registry.lookup(sc.Syscall); q.reg == nil {
		return q.deny(RuleRegistry, zta.UnknownSyscall, fmt.Sprintf("unknown syscall %q", audit.Clip(sc.Syscall)))
	}
	q.name = q.reg.Name
	if err := q.reg.checkArgs(sc.Args); err != nil {
		return q.deny(RuleArguments, zta.BadArguments, q.name+": "+err.Error())
	}
	// The name is checked before anything is looked at, so that a plugin
	// without it cannot make the host touch, or learn of, a resource.
	if !q.granted(q.name) {
		return q.deny(RuleCapability, zta.Denied, q.name+" is not in the capability set; grant it in the plugin's capabilities.syscalls")
	}

	if err := q.resolve(ctx); err != nil {
		return q.deny(RuleArguments, zta.BadArguments, q.name+": "+err.Error())
	}
	defer q.release()
	if reason := q.ungranted(); reason != "" {
		return q.overreached(reason)
	}

	// The decision and its record are one step against a change of policy.
	g.policy.RLock()
	d := q.decide()
	if !d.Proceeds() {
		g.policy.RUnlock()
		return q.violated(d)
	}
	rec, f, err := q.intent(d)
	g.policy.RUnlock()
	if err != nil {
		return q.unrecorded(err)
	}
	defer putRecord(rec)

	if d.Relaxed {
		q.relaxed(d)
	} else if dna := sc.ExecutionDNA; dna != nil {
		dna.Observe(q.now, q.name, zta.Allow)
	}
	if q.reg.privileged() {
		if err := g.log.Sync(ctx, rec.Seq); err != nil {
			_ = q.outcome(rec, f, 0, 0, Fail(CodeIO, "not carried out: %s", unrecorded(err)))
			return q.unrecorded(err)
		}
	}

	begun := g.clock()
	data, failed := q.effect(ctx)
	if err := q.outcome(rec, f, len(data), g.clock().Sub(begun), failed); err != nil && failed == nil {
		failed = Fail(CodeIO, "%s was carried out, but its outcome could not be recorded: %v", q.name, err)
	}
	if failed != nil {
		return SyscallResult{Status: Failure, Err: failed}, zta.Decision{}
	}
	return SyscallResult{Status: Success, Data: data}, zta.Decision{}
}

// unrecorded refuses what cannot be recorded, which is not the subject's fault.
func (q *request) unrecorded(err error) (SyscallResult, zta.Decision) {
	if q.sc.Call != nil {
		q.sc.Call.unrecorded.Store(true)
	}
	return SyscallResult{Status: Blocked, Reason: unrecorded(err)}, zta.Decision{}
}

// granted reports whether the capability set holds a name.
func (q *request) granted(name string) bool {
	return q.reg.Release || q.sc.Capabilities.Syscall(name)
}

// ungranted is why what the request resolved to is not granted, or empty.
func (q *request) ungranted() string {
	for _, name := range q.res.Also {
		if !q.granted(name) {
			return q.name + " here is also a " + name + ", which is not in the capability set; grant it in the plugin's capabilities.syscalls"
		}
	}
	if q.reg.Release {
		return ""
	}
	for _, r := range q.res.Resources {
		if !q.sc.Capabilities.Resource(r) {
			return q.name + ": no grant covers " + strconv.Quote(r) + "; add a pattern to the plugin's capabilities.resources"
		}
	}
	return ""
}

func (q *request) resolve(ctx context.Context) (err error) {
	if q.reg.Resolve == nil {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("resolving panicked: %v", v)
		}
	}()
	q.res, err = q.reg.Resolve(ctx, q.sc)
	return err
}

func (q *request) release() {
	if c, ok := q.res.Object.(io.Closer); ok {
		_ = c.Close()
	}
}

// decide asks the policy graph about every name the request stands for: all of
// them must be allowed, and the first that is not decides.
func (q *request) decide() zta.Decision {
	sc := q.sc
	zr := zta.Request{
		Syscall: q.name, Args: sc.Args, Resources: q.res.Resources, Plugin: sc.Plugin, Container: sc.Container.ID(),
		Identity: &sc.Identity, Ceiling: sc.TrustLevel, Set: sc.Capabilities, DNA: sc.ExecutionDNA, Now: q.now,
	}
	d := q.decideName(&zr, q.reg)
	for _, name := range q.res.Also {
		if !d.Proceeds() {
			return d
		}
		zr.Syscall = name
		reg := q.gate.registry.lookup(name)
		if reg == nil {
			return zta.Decision{Rule: RuleRegistry, Reason: fmt.Sprintf("unknown syscall %q", name), Score: d.Score, Level: d.Level, Policy: d.Policy}
		}
		if also := q.decideName(&zr, reg); also.Outcome != zta.Allow {
			d = also
		}
	}
	return d
}

func (q *request) decideName(zr *zta.Request, reg *Registration) zta.Decision {
	d := q.gate.graph.Decide(zr)
	switch {
	case d.Level < reg.MinTrust && !reg.Release:
		return zta.Decision{Rule: zta.RuleTrust, Score: d.Score, Level: d.Level, Policy: d.Policy,
			Reason: fmt.Sprintf("%s needs trust level %s, the plugin has %s (score %.2f)", zr.Syscall, reg.MinTrust, d.Level, d.Score)}
	case reg.Release && d.Level > capability.Quarantined:
		return zta.Decision{Outcome: zta.Allow, Rule: RuleRelease, Score: d.Score, Level: d.Level, Policy: d.Policy}
	}
	return d
}

// intent puts an allowed request on record before its effect: as a run's
// opening record, as part of an open run, or by itself. Of one that is part of a
// run no more is made than the number of the run's record.
func (q *request) intent(d zta.Decision) (*audit.Record, *fold, error) {
	var key foldKey
	c := q.sc.Call
	folds := c != nil && !d.Relaxed && q.reg.foldable() && len(q.res.Resources) <= 1
	if folds {
		key = foldKey{syscall: q.name, handle: q.sc.Handle, rule: d.Rule}
		if len(q.res.Resources) == 1 {
			key.resource = q.res.Resources[0]
		}
		if f := c.running(key); f != nil {
			r := records.Get().(*audit.Record)
			r.Seq = f.open
			return r, f, nil
		}
	}
	r := q.record(d)
	if d.Relaxed {
		r.Effect, r.Reason = "would_block", d.Reason
	}
	if folds {
		f, err := c.enter(key, r)
		if f != nil {
			r.Seq = f.open
		}
		if f != nil || err != nil {
			return r, f, err
		}
	}
	r.Phase = audit.PhaseIntent
	seq, err := q.gate.log.Append(r)
	r.Seq = seq
	return r, nil, err
}

// outcome records what came of an effect.
func (q *request) outcome(r *audit.Record, f *fold, bytes int, d time.Duration, failed *SyscallError) error {
	if f != nil {
		return q.sc.Call.leave(f, bytes+len(q.sc.Payload), d, failed)
	}
	r.Phase, r.Intent, r.Outcome, r.Duration, r.Bytes = audit.PhaseOutcome, audit.Closes(r.Seq), audit.OutcomeOK, d, uint64(bytes+len(q.sc.Payload))
	r.Args, r.Digest = nil, ""
	if failed != nil {
		r.Outcome, r.Error = audit.OutcomeFailed, audit.Clip(failed.Error())
	}
	_, err := q.gate.log.Append(r)
	return err
}

// effect runs the handler, which has a context of its own.
func (q *request) effect(ctx context.Context) (data []byte, failed *SyscallError) {
	defer func() {
		if v := recover(); v != nil {
			data, failed = nil, Fail(CodeIO, "%s: the handler panicked: %v", q.name, v)
		}
	}()
	if q.res.Err != nil {
		return nil, failure(q.res.Err)
	}
	if err := ctx.Err(); err != nil {
		return nil, failure(context.Cause(ctx))
	}
	if q.sc.Call == nil {
		var cancel context.CancelCauseFunc
		ctx, cancel = q.sc.Container.bind(ctx)
		defer cancel(nil)
	}
	if q.reg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.reg.Timeout)
		defer cancel()
	}
	data, err := q.reg.Handler(ctx, q.sc, &q.res)
	if err != nil {
		return nil, failure(err)
	}
	return data, nil
}

// deny refuses for a reason that no mode relaxes.
func (q *request) deny(rule string, flag zta.RedFlag, reason string) (SyscallResult, zta.Decision) {
	d := zta.Decision{Rule: rule, Reason: reason, Policy: q.gate.GetPolicyGraph().Digest()}
	d.Score, d.Level = zta.Trust(q.sc.Identity.TrustVector, q.sc.ExecutionDNA.Integrity(q.now), q.sc.TrustLevel)
	if dna := q.sc.ExecutionDNA; dna != nil {
		dna.Observe(q.now, q.name, zta.Block)
		dna.Flag(q.now, flag)
	}
	return q.refuse(d), q.threshold(d)
}

// overreached refuses what the capability set does not hold. The policy is asked
// all the same, since the attempt may be a violation that calls for more than a
// refusal; what it would allow does not count.
func (q *request) overreached(reason string) (SyscallResult, zta.Decision) {
	q.gate.policy.RLock()
	d := q.decide()
	q.gate.policy.RUnlock()
	if d.Proceeds() || d.Outcome == zta.Block {
		return q.deny(RuleCapability, zta.Denied, reason)
	}
	d.Reason += "; nor is it in the capability set"
	return q.violated(d)
}

// violated refuses for a violation of policy.
func (q *request) violated(d zta.Decision) (SyscallResult, zta.Decision) {
	if dna := q.sc.ExecutionDNA; dna != nil {
		dna.Observe(q.now, q.name, d.Outcome)
		dna.Flag(q.now, violation(d.Outcome))
	}
	switch d.Rule {
	case zta.RuleDefault, zta.RuleTrust, zta.RuleKernel, RuleRegistry:
	default:
		d.Reason = "policy " + d.Rule + ": " + d.Reason
	}
	res := q.refuse(d)
	if d.Outcome == zta.Block {
		return res, q.threshold(d)
	}
	return res, d
}

// relaxed counts a violation that the mode let pass.
func (q *request) relaxed(d zta.Decision) {
	if dna := q.sc.ExecutionDNA; dna != nil && q.gate.mode() != zta.Permissive {
		dna.Observe(q.now, q.name, d.Outcome)
		dna.Flag(q.now, violation(d.Outcome))
	}
}

// threshold is what the DNA's integrity calls for after a red flag: nothing,
// in modes that only report.
func (q *request) threshold(d zta.Decision) zta.Decision {
	dna := q.sc.ExecutionDNA
	if dna == nil || q.gate.mode() != zta.Enforce {
		return zta.Decision{}
	}
	integrity := dna.Integrity(q.now)
	verdict := zta.Verdict(integrity)
	if verdict == zta.Allow {
		return zta.Decision{}
	}
	d.Outcome, d.Rule = verdict, RuleIntegrity
	d.Reason = fmt.Sprintf("integrity fell to %.0f: %s", integrity, d.Reason)
	return d
}

func (g *Gate) mode() zta.Mode { return g.GetPolicyGraph().Mode() }

// refuse records a denial and is its result. A denial that cannot be recorded
// is a denial all the same.
func (q *request) refuse(d zta.Decision) SyscallResult {
	r := q.record(d)
	defer putRecord(r)
	r.Reason = audit.Clip(d.Reason)
	_, _ = q.gate.log.Append(r)
	status := Blocked
	if d.Outcome == zta.Quarantine {
		status = Quarantined
	}
	return SyscallResult{Status: status, Reason: d.Reason}
}

// isolate freezes or quarantines the subject's container.
func (q *request) isolate(d zta.Decision) SyscallResult {
	c := q.sc.Container
	res := SyscallResult{Status: Blocked, Reason: "frozen for review: " + d.Reason}
	if d.Outcome == zta.Quarantine {
		res = SyscallResult{Status: Quarantined, Reason: d.Reason}
	} else {
		c.Hold(res.Reason) // before a case is opened, whose release would lift it
	}
	if q.gate.isolate != nil {
		if id := q.gate.isolate(q.sc.Subject, d); id != "" {
			res.Reason += " (case " + id + ")"
		}
	}
	if d.Outcome == zta.Quarantine {
		c.Quarantine(res.Reason) // whatever the host did
	}
	return res
}

// violation is the red flag of a violated policy.
func violation(o zta.Outcome) zta.RedFlag {
	switch o {
	case zta.Freeze:
		return zta.FreezeViolated
	case zta.Quarantine:
		return zta.QuarantineViolated
	}
	return zta.Denied
}

var records = sync.Pool{New: func() any { return new(audit.Record) }}

func putRecord(r *audit.Record) {
	*r = audit.Record{}
	records.Put(r)
}

// record is the record of the request, with a decision.
func (q *request) record(d zta.Decision) *audit.Record {
	r := records.Get().(*audit.Record)
	r.Kind, r.Syscall, r.Args, r.Resources = audit.KindSyscall, audit.Clip(q.name), audit.ClipList(q.sc.Args), audit.ClipList(q.res.Resources)
	q.gate.subjectOf(r, q.sc.Subject)
	if q.sc.Call != nil {
		r.Call = q.sc.Call.id
	}
	r.Decision, r.Rule, r.Policy, r.Score, r.Level = d.Outcome.String(), d.Rule, d.Policy, d.Score, d.Level.String()
	if len(d.Reports) > 0 {
		r.Details = map[string]string{"audit_mode_violations": strings.Join(d.Reports, ", ")}
	}
	if n := len(q.sc.Payload); n > 0 {
		r.Bytes = uint64(n)
		sum := sha256.Sum256(q.sc.Payload)
		r.Digest = hex.EncodeToString(sum[:])
	}
	return r
}

func (g *Gate) subjectOf(r *audit.Record, s *Subject) {
	r.Subject, r.Plugin = s.Identity.ID, s.Plugin
	if s.Container != nil {
		r.Container = s.Container.ID()
	}
}

func unrecorded(err error) string {
	return fmt.Sprintf("the audit log cannot be written, so nothing is carried out: %v", err)
}

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }
