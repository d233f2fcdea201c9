package main

import (
	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/worker"
)

// newServed is the engine as a kernel has it: metered.
func newServed() (engines.WasmEngine, error) {
	e, err := newEngine()
	if err != nil {
		return nil, err
	}
	return meter.Wrap(e, meter.Limits{}), nil
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
			return worker.Serve(newServed, usesCgo)
		},
	}
	cmd.Flags().BoolVar(&bare, "bare", false, "without a meter, to compare engines by; limits that it holds are refused then")
	return cmd
}
