package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// explain asks the running kernel, or the configuration itself.
func (o *explainOptions) explain(ctx context.Context) ([]control.Explanation, error) {
	cfg, graph, err := loadGraph(o.config)
	if err != nil {
		return nil, err
	}
	if o.live {
		k, err := control.Dial(ctx, cfg.Kernel.Socket)
		if err != nil {
			return nil, err
		}
		defer k.Close()
		return k.Explain(ctx, o.request)
	}
	pc, err := pluginOf(cfg, o.config, o.request.Plugin)
	if err != nil {
		return nil, err
	}
	artifact, err := os.ReadFile(pc.WasmModule + pc.NativeLibrary)
	if err != nil {
		return nil, fmt.Errorf("artifact of plugin %q: %w", pc.Name, err)
	}
	spec := pc.Identity
	if spec.ID == "" {
		spec = zta.IdentitySpec{ID: "plugin:" + pc.Name, Vector: zta.Unverified} // as host does
	}
	id, err := zta.Verify(spec, artifact, pc.Signature, cfg.Kernel.RootPublicKey)
	if err != nil {
		return nil, err
	}
	registry, err := newRegistry(syscalls.Options{})
	if err != nil {
		return nil, err
	}
	x := explainer{registry: registry, graph: graph, mounts: pc.Mounts, subject: &abi.Subject{
		Plugin: pc.Name, Identity: id, TrustLevel: pc.TrustLevel, Capabilities: pc.Capabilities,
	}}
	return x.explain(ctx, o.request)
}

// explain answers for the running kernel.
func (r *reloader) explain(ctx context.Context, q control.ExplainRequest) ([]control.Explanation, error) {
	id, err := r.k.host.Lookup(q.Plugin)
	if err != nil {
		return nil, err
	}
	p, err := r.k.host.Plugin(id)
	if err != nil {
		return nil, err
	}
	pc, err := pluginOf(r.current().Config, r.path, p.Name)
	if err != nil {
		return nil, err
	}
	// What its history holds is the host's alone; its weight is the integrity.
	dna := zta.NewExecutionDNA(p.Container, p.Identity)
	dna.SetIntegrity(time.Now(), p.Integrity)
	gate := r.k.host.Gate()
	x := explainer{registry: gate.Registry(), graph: gate.GetPolicyGraph(), mounts: pc.Mounts, subject: &abi.Subject{
		Plugin: p.Name, Identity: p.Identity, TrustLevel: p.TrustLevel,
		Capabilities: pc.Capabilities.Intersect(r.k.host.Capabilities()), ExecutionDNA: dna,
	}}
	return x.explain(ctx, q)
}

// explainer says how the gate would decide, without an effect or a record.
type explainer struct {
	registry *abi.SyscallRegistry
	graph    *zta.PolicyGraph
	subject  *abi.Subject // without container and mounts
	mounts   []host.Mount
}

// explain explains the syscall and those that this use of it implies.
func (x *explainer) explain(ctx context.Context, q control.ExplainRequest) ([]control.Explanation, error) {
	reg, ok := x.registry.Lookup(q.Syscall)
	if !ok {
		return nil, &usageError{fmt.Errorf("no syscall is called %q: there are %s", q.Syscall, strings.Join(x.registry.Names(), ", "))}
	}
	implied, resources, err := x.resolve(ctx, reg, q)
	if err != nil {
		return nil, err
	}
	es := []control.Explanation{x.decide(reg, q.Args, resources, false)}
	for _, name := range implied {
		also, ok := x.registry.Lookup(name)
		if !ok {
			return nil, fmt.Errorf("%s implies %q, which is no syscall", reg.Name, name)
		}
		es = append(es, x.decide(also, q.Args, resources, true))
	}
	return es, nil
}

// resolve finds what a request means, as the gate would: the further syscalls it
// takes, and its resources.
func (x *explainer) resolve(ctx context.Context, reg abi.Registration, q control.ExplainRequest) (implied, resources []string, err error) {
	if len(q.Resources) > 0 || reg.Resolve == nil {
		return nil, q.Resources, nil
	}
	want := strings.Join(reg.Args, ", ")
	if missing := len(reg.Args) - len(q.Args); missing > 1 || missing == 1 && !strings.HasSuffix(want, "...") {
		return nil, nil, &usageError{fmt.Errorf("%s takes the arguments %s: give --arg for each, or --resource", reg.Name, want)}
	}
	s := *x.subject
	s.Container = abi.NewContainer("explain")
	defer s.Container.Close("explained")
	for _, m := range x.mounts {
		root, err := os.OpenRoot(m.Host)
		if err != nil {
			return nil, nil, fmt.Errorf("mount %q of plugin %q: %w", m.Guest, s.Plugin, err)
		}
		defer func() { _ = root.Close() }()
		s.Mounts = append(s.Mounts, abi.Mount{Guest: m.Guest, Root: root, ReadOnly: m.ReadOnly})
	}
	res, err := reg.Resolve(ctx, &abi.SyscallContext{Subject: &s, Syscall: reg.Name, Args: q.Args})
	if err != nil {
		return nil, nil, &usageError{fmt.Errorf("%s: what it would act on cannot be told: %w; give --resource", reg.Name, err)}
	}
	if c, ok := res.Object.(io.Closer); ok {
		_ = c.Close()
	}
	return res.Also, res.Resources, nil
}

// decide is the gate's decision on one syscall: see abi.Gate. What the set does
// not hold is refused; but a violation that isolates isolates all the same,
// unless it is the syscall itself that is not granted.
func (x *explainer) decide(reg abi.Registration, args, resources []string, implied bool) control.Explanation {
	s := x.subject
	r := &zta.Request{
		Syscall: reg.Name, Args: args, Resources: resources, Plugin: s.Plugin, Container: "explain",
		Identity: &s.Identity, Ceiling: s.TrustLevel, Set: s.Capabilities, DNA: s.ExecutionDNA, Now: time.Now(),
	}
	policy := x.graph.Explain(r)
	d := policy.Decision
	e := control.NewExplanation(r, policy)
	switch {
	case reg.Release && d.Level > capability.Quarantined:
		e.Outcome, e.Relaxed, e.Rule, e.Reason = zta.Allow.String(), false, abi.RuleRelease, ""
		return e
	case d.Level < reg.MinTrust && !reg.Release:
		d = zta.Decision{}
		e.Outcome, e.Relaxed, e.Rule = zta.Block.String(), false, zta.RuleTrust
		e.Reason = fmt.Sprintf("%s needs trust level %s, the plugin has %s", reg.Name, reg.MinTrust, e.Level)
	}
	named := s.Capabilities.Syscall(reg.Name)
	if !named {
		e.NotGranted = append(e.NotGranted, reg.Name)
	}
	for _, res := range resources {
		if !s.Capabilities.Resource(res) {
			e.NotGranted = append(e.NotGranted, res)
		}
	}
	isolates := !d.Proceeds() && d.Outcome != zta.Block && (named || implied)
	if len(e.NotGranted) > 0 && !isolates {
		e.Outcome, e.Relaxed, e.Rule = zta.Block.String(), false, abi.RuleCapability
		e.Reason = "the capability set of the plugin does not grant it"
	}
	return e
}
