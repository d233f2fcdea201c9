package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/control"
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
		mistakes := "mistakes"
		if len(r.Diagnostics) == 1 {
			mistakes = "mistake"
		}
		p.line("%s: %d %s", path, len(r.Diagnostics), mistakes)
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
	config         string
	request        control.ExplainRequest
	live, exitCode bool
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
			es, err := o.explain(cmd.Context())
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
	cmd.Flags().StringVar(&o.request.Plugin, "plugin", "", "plugin that asks")
	cmd.Flags().StringVar(&o.request.Syscall, "syscall", "", "syscall that it asks for")
	cmd.Flags().StringArrayVar(&o.request.Args, "arg", nil, "argument of the syscall; once for each, in order")
	cmd.Flags().StringArrayVar(&o.request.Resources, "resource", nil, "canonical resource, such as file:///data/a.txt; once for each")
	cmd.Flags().BoolVar(&o.live, "live", false, "ask the running kernel")
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 3 if it would be blocked, 4 if quarantined")
	for _, f := range []string{"config", "plugin", "syscall"} {
		_ = cmd.MarkFlagRequired(f) // fails only for a flag that does not exist
	}
	return cmd
}

// verdict is the exit code of what was explained: the first syscall that does
// not proceed decides, as in the gate.
func verdict(es []control.Explanation) error {
	for _, e := range es {
		switch {
		case e.Outcome == zta.Allow.String() || e.Relaxed:
		case e.Outcome == zta.Quarantine.String():
			return &silentError{control.Quarantined}
		default:
			return &silentError{control.Blocked}
		}
	}
	return nil
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
