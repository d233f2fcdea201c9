package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

func (c *cli) policy() *cobra.Command {
	return group(&cobra.Command{
		Use:     "policy",
		Short:   "Check a configuration and explain its decisions",
		Example: "  forgeone policy check --config forgeone.hcl",
	}, c.policyCheck(), c.policyExplain())
}

// checkResult is what policy check finds.
type checkResult struct {
	OK          bool                `json:"ok"`
	Digest      string              `json:"digest,omitempty"` // of the policy graph
	Mode        string              `json:"mode,omitempty"`
	Policies    []string            `json:"policies"`
	Plugins     []string            `json:"plugins"`
	Diagnostics []config.Diagnostic `json:"diagnostics"`
}

func (c *cli) policyCheck() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Check a configuration: every mistake in it, with its place and remedy",
		Example: "  forgeone policy check --config forgeone.hcl",
		Args:    noArgs,
		RunE: c.do(func(*cobra.Command, []string) error {
			r := checkResult{Policies: []string{}, Plugins: []string{}, Diagnostics: []config.Diagnostic{}}
			cfg, graph, err := loadGraph(path)
			var wrong *config.DiagnosticsError
			switch {
			case errors.As(err, &wrong):
				r.Diagnostics = wrong.Diagnostics()
			case err != nil:
				return err
			default:
				r.OK, r.Digest, r.Mode = true, graph.Digest(), graph.Mode().String()
				for _, p := range graph.Policies() {
					r.Policies = append(r.Policies, p.Name)
				}
				for _, p := range cfg.Plugins {
					r.Plugins = append(r.Plugins, p.Name)
				}
			}
			if err := c.print(r, func(p *printer) { printCheck(p, path, r) }); err != nil {
				return err
			}
			if !r.OK {
				return &silentError{control.Config} // the output says what is wrong
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration to check")
	_ = cmd.MarkFlagRequired("config") // fails only for a flag that does not exist
	return cmd
}

func printCheck(p *printer, path string, r checkResult) {
	if !r.OK {
		for _, d := range r.Diagnostics {
			p.line("%s", d)
		}
		p.line("%s: %d mistakes", path, len(r.Diagnostics))
		return
	}
	p.row("config", path+": no mistakes")
	p.row("mode", r.Mode)
	p.row("policy digest", r.Digest)
	p.row("policies", list(r.Policies))
	p.row("plugins", list(r.Plugins))
}

// loadGraph is a configuration with its compiled policies.
func loadGraph(path string) (*config.Config, *zta.PolicyGraph, error) {
	cfg, err := loadConfig(path)
	if err != nil {
		return nil, nil, err
	}
	registry, err := newRegistry(syscalls.Options{})
	if err != nil {
		return nil, nil, err
	}
	graph, err := registry.Compile(cfg.Policies, cfg.Kernel.Enforcement)
	return cfg, graph, err
}

// explainOptions are the flags of policy explain.
type explainOptions struct {
	config, plugin, syscall string
	args, resources         []string
	live, exitCode          bool
}

func (c *cli) policyExplain() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say how a syscall of a plugin would be decided, and what each policy has to say about it",
		Long: `Say how a syscall of a plugin would be decided, and what each policy has to say
about it. The resources are those that the arguments resolve to, unless
--resource gives them. Nothing is done and nothing is recorded.

The configuration's policies decide, on a plugin without history; with --live
the policy in force in the running kernel, at the plugin's present integrity.
Conditions on the history itself (dna.…) see an empty one.`,
		Example: `  forgeone policy explain --config forgeone.hcl --plugin summarise --syscall file_open --arg /data/a.txt --arg r
  forgeone policy explain --config forgeone.hcl --plugin summarise --syscall kv_put --arg total --live --exit-code`,
		Args: noArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			es, err := explain(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := c.print(es, func(p *printer) { printExplanations(p, es) }); err != nil {
				return err
			}
			if o.exitCode {
				return verdict(es)
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&o.config, "config", "", "configuration of the plugin")
	cmd.Flags().StringVar(&o.plugin, "plugin", "", "plugin that asks")
	cmd.Flags().StringVar(&o.syscall, "syscall", "", "syscall that it asks for")
	cmd.Flags().StringArrayVar(&o.args, "arg", nil, "argument of the syscall; once for each, in order")
	cmd.Flags().StringArrayVar(&o.resources, "resource", nil, "canonical resource, such as file:///data/a.txt; once for each")
	cmd.Flags().BoolVar(&o.live, "live", false, "ask the running kernel")
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 3 if it would be blocked, 4 if quarantined")
	for _, f := range []string{"config", "plugin", "syscall"} {
		_ = cmd.MarkFlagRequired(f) // fails only for a flag that does not exist
	}
	return cmd
}

// explain explains the syscall and those that this use of it implies.
func explain(ctx context.Context, o explainOptions) ([]control.Explanation, error) {
	cfg, graph, err := loadGraph(o.config)
	if err != nil {
		return nil, err
	}
	pc, err := pluginOf(cfg, o.config, o.plugin)
	if err != nil {
		return nil, err
	}
	names, resources, err := resolve(ctx, pc, o)
	if err != nil {
		return nil, err
	}
	decide, done, err := decider(ctx, cfg, graph, pc, o.live)
	if err != nil {
		return nil, err
	}
	defer done()
	var es []control.Explanation
	for _, name := range names {
		e, err := decide(control.ExplainRequest{Plugin: pc.Name, Syscall: name, Args: o.args, Resources: resources})
		if err != nil {
			return nil, err
		}
		es = append(es, e)
	}
	return es, nil
}

// resolve finds what a request means, as the gate would, without an effect: the
// syscalls it takes and its resources.
func resolve(ctx context.Context, pc host.PluginConfig, o explainOptions) (names, resources []string, err error) {
	registry, err := newRegistry(syscalls.Options{})
	if err != nil {
		return nil, nil, err
	}
	reg, ok := registry.Lookup(o.syscall)
	if !ok {
		return nil, nil, &usageError{fmt.Errorf("no syscall is called %q: there are %s", o.syscall, strings.Join(registry.Names(), ", "))}
	}
	names = []string{reg.Name}
	if len(o.resources) > 0 || reg.Resolve == nil {
		return names, o.resources, nil
	}
	s := &abi.Subject{Plugin: pc.Name, TrustLevel: pc.TrustLevel, Capabilities: pc.Capabilities, Container: abi.NewContainer("explain")}
	for _, m := range pc.Mounts {
		root, err := os.OpenRoot(m.Host)
		if err != nil {
			return nil, nil, fmt.Errorf("mount %q of plugin %q: %w", m.Guest, pc.Name, err)
		}
		defer func() { _ = root.Close() }()
		s.Mounts = append(s.Mounts, abi.Mount{Guest: m.Guest, Root: root, ReadOnly: m.ReadOnly})
	}
	if want := strings.Join(reg.Args, ", "); len(o.args) < len(reg.Args) && !(strings.HasSuffix(want, "...") && len(o.args) == len(reg.Args)-1) {
		return nil, nil, &usageError{fmt.Errorf("%s takes the arguments %s: give --arg for each, or --resource", reg.Name, want)}
	}
	res, err := reg.Resolve(ctx, &abi.SyscallContext{Subject: s, Syscall: reg.Name, Args: o.args})
	if err != nil {
		return nil, nil, &usageError{fmt.Errorf("%s: what it would act on cannot be told: %w; give --resource", reg.Name, err)}
	}
	if closer, ok := res.Object.(io.Closer); ok {
		_ = closer.Close()
	}
	return append(names, res.Also...), res.Resources, nil
}

// decider is who explains: the running kernel, or the configuration itself.
func decider(ctx context.Context, cfg *config.Config, graph *zta.PolicyGraph, pc host.PluginConfig, live bool) (
	decide func(control.ExplainRequest) (control.Explanation, error), done func(), err error,
) {
	if live {
		k, err := control.Dial(ctx, cfg.Kernel.Socket)
		if err != nil {
			return nil, nil, err
		}
		return func(q control.ExplainRequest) (control.Explanation, error) { return k.Explain(ctx, q) }, k.Close, nil
	}
	artifact, err := os.ReadFile(pc.WasmModule + pc.NativeLibrary)
	if err != nil {
		return nil, nil, fmt.Errorf("artifact of plugin %q: %w", pc.Name, err)
	}
	spec := pc.Identity
	if spec.ID == "" {
		spec = zta.IdentitySpec{ID: "plugin:" + pc.Name, Vector: zta.Unverified} // as host does
	}
	id, err := zta.Verify(spec, artifact, pc.Signature, cfg.Kernel.RootPublicKey)
	if err != nil {
		return nil, nil, err
	}
	return func(q control.ExplainRequest) (control.Explanation, error) {
		return control.Explain(graph, &zta.Request{
			Syscall: q.Syscall, Args: q.Args, Resources: q.Resources, Plugin: pc.Name, Container: "explain",
			Identity: &id, Ceiling: pc.TrustLevel, Set: pc.Capabilities, Now: time.Now(),
		}), nil
	}, func() {}, nil
}

// verdict is the exit code of what was explained: the worst counts.
func verdict(es []control.Explanation) error {
	var worst error
	for _, e := range es {
		switch {
		case e.Outcome == zta.Allow.String() || e.Relaxed:
		case e.Outcome == zta.Quarantine.String():
			return &silentError{control.Quarantined}
		default:
			worst = &silentError{control.Blocked}
		}
	}
	return worst
}

func printExplanations(p *printer, es []control.Explanation) {
	for i, e := range es {
		if i > 0 {
			p.line("")
		}
		outcome := strings.ToUpper(e.Outcome) + " by " + e.Rule
		if e.Relaxed {
			outcome += ", and proceeds all the same: the kernel does not enforce"
		}
		p.row("syscall", fmt.Sprintf("%s(%s)", e.Syscall, strings.Join(e.Args, ", ")))
		p.row("resources", list(e.Resources))
		p.row("asked by", fmt.Sprintf("plugin %s as %s (%s)", e.Plugin, e.Identity.ID, e.Identity.TrustVector))
		p.row("trust", fmt.Sprintf("%s, score %.2f", e.Level, e.Score))
		p.row("outcome", withReason(outcome, e.Reason))
		if len(e.NotGranted) > 0 {
			p.row("not granted", list(e.NotGranted))
		}
		for _, r := range e.Reports {
			p.row("reported", r)
		}
		for _, r := range e.Rules {
			printRule(p, r)
		}
	}
}

func printRule(p *printer, r control.Rule) {
	name := "policy " + r.Policy
	at := ""
	if r.Origin != "" {
		at = " (" + r.Origin + ")"
	}
	switch {
	case !r.InScope:
		p.row(name, "out of scope by its "+r.OutOfScope+at)
		return
	case r.Holds:
		p.row(name, "in scope, and holds"+at)
	default:
		p.row(name, "in scope, and is violated: "+r.OnViolation+at)
	}
	for _, q := range r.Requirements {
		if q.Holds {
			p.row("", "holds: "+q.Field)
		} else {
			p.row("", "FAILS: "+withReason(q.Field, q.Detail))
		}
	}
}
