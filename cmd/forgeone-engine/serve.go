package main

import (
	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/engines/worker"
)

func newServe() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve the engine to the kernel that started this process",
		Long: "Serve the engine to the kernel that started this process.\n" +
			"The kernel does so for an engine block with isolation = \"process\"; it is of no use by hand.",
		Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return worker.Serve(newEngine, usesCgo) },
	}
}
