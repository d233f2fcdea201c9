package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/syscalls"
)

func (c *cli) serve() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the kernel as a daemon in the foreground",
		Long: `Run the kernel that a configuration describes, until SIGTERM or Ctrl-C. Its
plugins are loaded and started; one that does not come up is reported and does
not stop the others. A line that begins with "ready" on standard error says
that calls are taken.

The configuration is read again when its files change and on SIGHUP: policies
are swapped, changed plugins are reloaded without losing a call, new ones are
loaded and removed ones unloaded. What is wrong leaves the last good one in
force; forgeone status says why.`,
		Example: "  forgeone serve --config forgeone.hcl",
		Args:    noArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			return c.runKernel(cmd.Context(), path, cfg)
		}),
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration of the kernel")
	_ = cmd.MarkFlagRequired("config") // fails only for a flag that does not exist
	return cmd
}

func (c *cli) runKernel(ctx context.Context, path string, cfg *config.Config) (err error) {
	logger := c.logger()
	k, err := openKernel(cfg, logger, syscalls.Options{})
	if err != nil {
		return err
	}
	defer func() {
		if e := k.close(); e != nil {
			err = errors.Join(err, fmt.Errorf("shutdown: %w", e))
		}
		logger.Info("stopped")
	}()
	// Who connects from here on waits until the plugins are up.
	l, err := control.Listen(cfg.Kernel.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // a no-op where the server has closed it

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	r := newReloader(k, path)
	defer r.close()
	if err := r.start(ctx, cfg); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := control.NewServer(control.Options{
		Host: k.host, Log: k.log, Config: r.current, Kind: kindOf, Explain: r.explain, Version: versionOf().Version, AuditDir: cfg.Audit.Dir, Logger: logger.Named("control"),
	})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		r.watch(ctx, hup)
	}()
	fmt.Fprintf(c.err, "ready: kernel %s takes calls on %s\n", printable(cfg.Kernel.Name), printable(l.Path()))
	err = server.Serve(ctx, l)
	logger.Info("stopping")
	cancel()
	<-watched
	return err
}
