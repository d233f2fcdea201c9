package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/control"
)

func (c *cli) plugin() *cobra.Command {
	verb := func(name, short string, do func(*control.Client, context.Context, string) (control.Plugin, error)) *cobra.Command {
		var t target
		cmd := &cobra.Command{
			Use:     name + " PLUGIN",
			Short:   short,
			Example: "  forgeone plugin " + name + " --config forgeone.hcl summarise",
			Args:    exactArgs("PLUGIN"),
			RunE: t.with(c, func(ctx context.Context, k *control.Client, args []string) error {
				p, err := do(k, ctx, args[0])
				if err != nil {
					return err
				}
				return c.print(p, func(pr *printer) { printPlugins(pr, []control.Plugin{p}) })
			}),
		}
		t.flags(cmd)
		cmd.ValidArgsFunction = t.plugins
		return cmd
	}
	return group(&cobra.Command{
		Use:     "plugin",
		Short:   "Manage the plugins of a running kernel, and make new ones",
		Example: "  forgeone plugin list --config forgeone.hcl",
	},
		c.pluginNew(), c.pluginList(), c.pluginInspect(),
		verb("load", "Load a plugin of the kernel's configuration; it is then stopped", (*control.Client).Load),
		verb("start", "Start a stopped or failed plugin", (*control.Client).Start),
		verb("pause", "Refuse a plugin's new calls until it is resumed", (*control.Client).Pause),
		verb("resume", "Let a paused plugin take calls again", (*control.Client).Resume),
		verb("stop", "End a plugin after its calls in flight", (*control.Client).Stop),
		verb("unload", "Forget a plugin that is not running", (*control.Client).Unload),
		verb("reload", "Replace a plugin by its artifact and configuration as they now are, without losing a call", (*control.Client).Reload),
	)
}

func (c *cli) pluginList() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the plugins",
		Example: "  forgeone plugin list --config forgeone.hcl\n  forgeone plugin list --state-dir var/edge-1 --format json",
		Args:    noArgs,
		RunE: t.with(c, func(ctx context.Context, k *control.Client, _ []string) error {
			ps, err := k.Plugins(ctx)
			if err != nil {
				return err
			}
			return c.print(ps, func(p *printer) { printPlugins(p, ps) })
		}),
	}
	t.flags(cmd)
	return cmd
}

func printPlugins(p *printer, ps []control.Plugin) {
	p.row("PLUGIN", "VERSION", "ABI", "ENGINE", "TRUST", "INTEGRITY", "CALLS", "STATUS")
	for _, x := range ps {
		p.row(x.Name, dash(x.Version), dash(x.ABI), dash(x.Engine), x.Level, fmt.Sprintf("%.0f", x.Integrity), x.Calls, statusText(x.Status))
	}
}

func statusText(s control.PluginStatus) string {
	text := s.Phase
	if s.Case != "" {
		text += " (case " + s.Case + ")"
	}
	return withReason(text, s.Reason)
}

func (c *cli) pluginInspect() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:     "inspect PLUGIN",
		Short:   "Show everything about a plugin",
		Example: "  forgeone plugin inspect --config forgeone.hcl summarise",
		Args:    exactArgs("PLUGIN"),
		RunE: t.with(c, func(ctx context.Context, k *control.Client, args []string) error {
			x, err := k.Plugin(ctx, args[0])
			if err != nil {
				return err
			}
			return c.print(x, func(p *printer) { printPlugin(p, x) })
		}),
	}
	t.flags(cmd)
	cmd.ValidArgsFunction = t.plugins
	return cmd
}

func printPlugin(p *printer, x control.Plugin) {
	p.row("name", x.Name)
	p.row("id", x.ID)
	p.row("version", dash(x.Version))
	p.row("status", statusText(x.Status))
	p.row("artifact", x.Wasm+x.Native)
	p.row("sha256", x.SHA256)
	p.row("abi", x.ABI)
	if x.Engine != "" {
		p.row("engine", x.Engine)
	}
	if x.Sandbox != "" {
		p.row("sandbox", x.Sandbox)
	}
	p.row("identity", x.Identity.ID+" ("+x.Identity.TrustVector+")")
	if len(x.Identity.Groups) > 0 {
		p.row("groups", list(x.Identity.Groups))
	}
	if x.Identity.Publisher != "" {
		p.row("publisher", x.Identity.Publisher)
	}
	p.row("trust", fmt.Sprintf("%s now, %s at most; score %.2f", x.Level, x.TrustLevel, x.Score))
	p.row("integrity", fmt.Sprintf("%.1f of 100", x.Integrity))
	p.row("syscalls", list(x.Capabilities.Syscalls))
	p.row("resources", list(x.Capabilities.Resources))
	p.row("apis", list(x.Capabilities.APIs))
	p.row("functions", dash(strings.Join(x.Functions, " ")))
	if x.Pool != nil {
		p.row("instances", poolText(x.Pool))
	}
	p.row("calls", x.Calls)
	p.row("container", dash(x.Container))
	if x.PID != 0 {
		p.row("process", x.PID)
	}
	p.row("loaded", stamp(x.Loaded))
}

// poolText says where the instances of a pristine plugin come from.
func poolText(s *control.Pool) string {
	if s.NoImage != "" {
		return "started anew for each call: " + s.NoImage
	}
	return fmt.Sprintf("from an image of %d KiB for each call, %d idle", s.Image>>10, s.Idle)
}
