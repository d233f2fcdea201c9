package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/control"
)

func (c *cli) status() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Describe a running kernel: engines, plugins, policy, audit log, health",
		Example: "  forgeone status --config forgeone.hcl\n  forgeone status --state-dir var/edge-1 --format json",
		Args:    noArgs,
		RunE: t.with(c, func(ctx context.Context, k *control.Client, _ []string) error {
			st, err := k.Status(ctx)
			if err != nil {
				return err
			}
			return c.print(st, func(p *printer) { printStatus(p, st) })
		}),
	}
	t.flags(cmd)
	return cmd
}

func printStatus(p *printer, st control.Status) {
	p.row("kernel", st.Name)
	p.row("version", st.Version)
	p.row("process", st.PID)
	p.row("started", stamp(st.Started))
	p.row("phase", withReason(st.Phase, st.Reason))
	p.row("state", st.StateDir)
	p.row("config", st.Config.Path+" "+short(st.Config.Digest))
	if st.Config.Problem != "" {
		p.row("", "NOT IN FORCE as it now stands: "+st.Config.Problem)
	}
	p.row("policy", st.Policy.Mode+" "+short(st.Policy.Digest)+": "+list(st.Policy.Policies))
	for _, e := range st.Engines {
		name := e.Name + " " + e.Version
		if e.Default {
			name += " (default)"
		}
		p.row("engine", name)
	}
	p.row("audit", st.Audit.Dir)
	p.row("records", fmt.Sprintf("%d, %d of them under a signed checkpoint", st.Audit.Records, st.Audit.Checkpoint))
	p.row("root", st.Audit.Root)
	if st.Audit.Problem != "" {
		p.row("", "NOT HEALTHY: "+st.Audit.Problem)
	}
	p.row("cases", st.OpenCases)
	if len(st.Plugins) > 0 {
		p.line("")
		printPlugins(p, st.Plugins)
	}
}

func withReason(s, reason string) string {
	if reason == "" {
		return s
	}
	return s + ": " + reason
}
