package main

import (
	"errors"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/worker"
)

// newServed is the engine with a meter, which compiles in place.
func newServed() (engines.WasmEngine, error) {
	e, err := newEngine()
	if err != nil {
		return nil, err
	}
	return meter.Wrap(e, meter.Limits{}), nil
}

// newGuarded is the engine as a kernel has it: metered, with modules compiled in
// processes of their own, and the code kept, as the kernel says.
func newGuarded() (engines.WasmEngine, error) {
	cfg, err := cache.ConfigFromEnv()
	if err != nil {
		return nil, err
	}
	inner, err := newEngine()
	if err != nil {
		return nil, err
	}
	e, err := cache.Wrap(inner, cache.Options{
		Config: cfg, Compiler: cache.NewCompiler(cfg, compileCommand),
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}), // the kernel reads it
	})
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	return meter.Wrap(e, meter.Limits{}), nil
}

const compileCommand = "compile"

func newCompile() *cobra.Command {
	return &cobra.Command{
		Use:    compileCommand,
		Short:  "Compile a module for the process that started this one",
		Hidden: true, // serve runs it
		Args:   usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cache.RunCompiler(newEngine, os.Stdin, cmd.OutOrStdout())
		},
	}
}

func newServe() *cobra.Command {
	var bare bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the engine to the kernel that started this process",
		Long: "Serve the engine to the kernel that started this process.\n" +
			"The kernel does so for an engine block with isolation = \"process\"; it is of no use by hand.",
		Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if bare {
				return worker.Serve(newEngine, usesCgo)
			}
			return worker.Serve(newGuarded, usesCgo)
		},
	}
	cmd.Flags().BoolVar(&bare, "bare", false, "without a meter, to compare engines by; limits that it holds are refused then")
	return cmd
}
