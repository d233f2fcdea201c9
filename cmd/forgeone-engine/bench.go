package main

import (
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/engines/bench"
)

func newBench() *cobra.Command {
	return &cobra.Command{
		Use:   "bench",
		Short: "Measure the engine in this process, for forgeone bench",
		Long: "Measure the engine in this process, for forgeone bench: a job comes in on\n" +
			"standard input as JSON, then how often to do it, again and again; what it took\n" +
			"goes out on standard output, one line each.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(os.Interrupt) // forgeone bench has it too, and ends this process
			e := bench.Engine{Bare: newEngine, Metered: newServed}
			return bench.Serve(cmd.Context(), e, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
