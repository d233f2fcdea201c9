package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
)

// cli is one run of the command.
type cli struct {
	in       io.Reader
	out, err io.Writer
	format   string // table or json
	logLevel string
	started  bool // past the checks of the command line
}

// run runs the command line and returns its exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	c := &cli{in: in, out: out, err: errOut}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !c.started && !errors.As(err, new(*usageError)) {
		err = &usageError{err}
	}
	var silent *silentError
	var end *runEnd
	switch {
	case errors.As(err, &end):
		return end.code
	case errors.As(err, &silent):
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(errOut, "error: interrupted")
	default:
		fmt.Fprintln(errOut, "error: "+paragraph(err.Error()))
	}
	return exitCode(err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "forgeone",
		Short: "Run untrusted plugins, WASM or native, through one audited gate",
		Long: `ForgeOne runs untrusted plugins, WASM on a swappable engine or native processes.
Every effect a plugin asks for is a syscall through one gate: capability, then
zero-trust policy, then audit, then the effect.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 blocked by policy,
4 quarantined, 5 limit exceeded.`,
		Example: `  forgeone serve --config forgeone.hcl
  forgeone call --config forgeone.hcl summarise summarise --input /data/report.txt
  forgeone plugin list --config forgeone.hcl
  forgeone audit verify --config forgeone.hcl`,
		Version:       versionOf().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if hclog.LevelFromString(c.logLevel) == hclog.NoLevel {
				return &usageError{fmt.Errorf("--log-level %q: want trace, debug, info, warn, error or off", c.logLevel)}
			}
			return nil
		},
	}
	root.PersistentFlags().StringVar(&c.format, "format", "table", "output for people or programs: table or json")
	root.PersistentFlags().StringVar(&c.logLevel, "log-level", "info", "least level of the logs on standard error: trace, debug, info, warn, error or off")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	root.SetVersionTemplate("{{.Version}}\n")
	return group(root,
		c.serve(), c.status(), c.run(), c.call(), c.plugin(), c.module(), c.policy(), c.quarantine(), c.audit(), c.engines(), c.bench(), c.doctor(), c.version(), c.compile(),
	)
}

// do makes a command's RunE, which begins where the command line was checked.
func (c *cli) do(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Lookup("format") == cmd.InheritedFlags().Lookup("format") && c.format != "table" && c.format != "json" {
			return &usageError{fmt.Errorf("--format %q: want table or json", c.format)}
		}
		c.started = true
		return f(cmd, args)
	}
}

// group makes a command that only has subcommands.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(near, " or "))
		}
		return err
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// exactArgs wants as many arguments as there are names.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("want %s, got %d arguments; see %s --help", strings.Join(names, " "), len(args), cmd.CommandPath())
		}
		return nil
	}
}

// noArgs wants no arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, got %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

// logger is the operational log, on standard error.
func (c *cli) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "forgeone", Level: hclog.LevelFromString(c.logLevel), Output: c.err, TimeFormat: "2006-01-02T15:04:05.000Z07:00"})
}
