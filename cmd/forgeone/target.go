package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/control"
)

// target says which running kernel a command is for.
type target struct{ config, stateDir, socket string }

// flags adds the flags that say it; one of them is required.
func (t *target) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.config, "config", "", "configuration of the kernel")
	cmd.Flags().StringVar(&t.stateDir, "state-dir", "", "state directory of the kernel")
	cmd.Flags().StringVar(&t.socket, "socket", "", "control socket of the kernel")
	cmd.MarkFlagsOneRequired("config", "state-dir", "socket")
	cmd.MarkFlagsMutuallyExclusive("config", "state-dir", "socket")
}

// dial connects to the kernel.
func (t *target) dial(ctx context.Context) (*control.Client, error) {
	switch {
	case t.socket != "":
		return control.Dial(ctx, t.socket)
	case t.stateDir != "":
		return control.Dial(ctx, defaultSocket(t.stateDir))
	}
	places, err := locate(t.config)
	if err != nil {
		return nil, fmt.Errorf("%w\n--state-dir or --socket reach a running kernel all the same", err)
	}
	return control.Dial(ctx, places.Socket)
}

// with is a command's RunE that has a client of the kernel.
func (t *target) with(c *cli, f func(ctx context.Context, k *control.Client, args []string) error) func(*cobra.Command, []string) error {
	return c.do(func(cmd *cobra.Command, args []string) error {
		k, err := t.dial(cmd.Context())
		if err != nil {
			return err
		}
		defer k.Close()
		return f(cmd.Context(), k, args)
	})
}

// plugins completes the name of a plugin of the kernel.
func (t *target) plugins(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	k, err := t.dial(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer k.Close()
	ps, err := k.Plugins(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, p := range ps {
		names = append(names, cobra.CompletionWithDesc(p.Name, p.Status.Phase))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
