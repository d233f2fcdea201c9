package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/quarantine"
)

func (c *cli) quarantine() *cobra.Command {
	return group(&cobra.Command{
		Use:     "quarantine",
		Short:   "See and release what was isolated",
		Example: "  forgeone quarantine list --config forgeone.hcl",
	}, c.quarantineList(), c.quarantineShow(), c.quarantineRelease())
}

func (c *cli) quarantineList() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the quarantine cases",
		Example: "  forgeone quarantine list --config forgeone.hcl",
		Args:    noArgs,
		RunE: t.with(c, func(ctx context.Context, k *control.Client, _ []string) error {
			cases, err := k.Cases(ctx)
			if err != nil {
				return err
			}
			return c.print(cases, func(p *printer) {
				p.row("CASE", "STATE", "OUTCOME", "PLUGIN", "ARTIFACT", "OPENED", "RULE", "REASON")
				for _, x := range cases {
					p.row(x.ID, x.State, x.Outcome, x.Plugin, short(x.Artifact), stamp(x.Opened), dash(x.Rule), x.Reason)
				}
			})
		}),
	}
	t.flags(cmd)
	return cmd
}

func (c *cli) quarantineShow() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:     "show CASE",
		Short:   "Show everything about a quarantine case",
		Example: "  forgeone quarantine show --config forgeone.hcl Q-1",
		Args:    exactArgs("CASE"),
		RunE: t.with(c, func(ctx context.Context, k *control.Client, args []string) error {
			x, err := k.Case(ctx, args[0])
			if err != nil {
				return err
			}
			return c.print(x, func(p *printer) { printCase(p, x) })
		}),
	}
	t.flags(cmd)
	return cmd
}

func printCase(p *printer, x quarantine.Case) {
	p.row("case", x.ID)
	p.row("state", x.State)
	p.row("outcome", x.Outcome)
	p.row("plugin", x.Plugin)
	p.row("container", x.Container)
	p.row("identity", x.Identity)
	p.row("artifact", x.Artifact)
	if x.Publisher != "" {
		p.row("publisher", x.Publisher)
	}
	p.row("rule", dash(x.Rule))
	p.row("reason", x.Reason)
	p.row("policy", x.Policy)
	p.row("score", fmt.Sprintf("%.2f", x.Score))
	p.row("opened", stamp(x.Opened))
	if x.Undrained != "" {
		p.row("undrained", x.Undrained)
	}
	if x.State == quarantine.Released {
		p.row("released", stamp(x.ReleasedAt)+" by "+x.ReleasedBy+": "+x.ReleasedReason)
	}
	p.row("history", fmt.Sprintf("integrity %.1f; --format json shows all of it", x.History.Integrity))
}

func (c *cli) quarantineRelease() *cobra.Command {
	var t target
	var reason string
	cmd := &cobra.Command{
		Use:     "release CASE",
		Short:   "Close a quarantine case: a freeze is lifted, a quarantined plugin can be started again",
		Example: `  forgeone quarantine release --config forgeone.hcl --reason "reviewed: a bug in 1.2.0" Q-1`,
		Args:    exactArgs("CASE"),
		RunE: t.with(c, func(ctx context.Context, k *control.Client, args []string) error {
			x, err := k.Release(ctx, args[0], reason)
			if err != nil {
				return err
			}
			return c.print(x, func(p *printer) {
				next := "it takes calls again"
				if x.Quarantines() {
					next = "forgeone plugin start brings it back"
				}
				p.line("case %s is released by %s; integrity of plugin %s is reset, and %s", x.ID, x.ReleasedBy, x.Plugin, next)
			})
		}),
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is put on record")
	_ = cmd.MarkFlagRequired("reason") // fails only for a flag that does not exist
	return cmd
}
