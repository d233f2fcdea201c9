package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/cmd/forgeone/builtins"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/syscalls"
)

// closeTimeout bounds how long a kernel waits for its plugins at the end.
const closeTimeout = 20 * time.Second

// loadConfig reads a configuration, which may name what this binary has.
func loadConfig(path string) (*config.Config, error) {
	registry, err := newRegistry(syscalls.Options{})
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(path, config.Options{Syscalls: registry.Lowest(), Engines: builtins.Known, LookupEnv: os.LookupEnv})
	return cfg, asConfigError(err)
}

// locate finds the kernel that a configuration is of, whatever else is wrong with it.
func locate(path string) (config.Places, error) {
	places, err := config.Locate(path)
	return places, asConfigError(err)
}

// asConfigError classes a file that cannot be read with one that is wrong.
func asConfigError(err error) error {
	if err == nil || errors.As(err, new(*config.DiagnosticsError)) {
		return err
	}
	return &usageError{err}
}

// newRegistry is the registry of all syscalls.
func newRegistry(o syscalls.Options) (*abi.SyscallRegistry, error) {
	o.Version = versionOf().Version
	registry := &abi.SyscallRegistry{}
	if err := registry.Register(syscalls.Registrations(o)...); err != nil {
		return nil, fmt.Errorf("syscalls: %w", err)
	}
	return registry, nil
}

// defaultSocket is the control socket of a kernel whose configuration names none.
func defaultSocket(stateDir string) string { return filepath.Join(stateDir, "control.sock") }

// kernel is a kernel that is up. It holds the lock of its state directory, so
// it is the one writer of its audit log.
type kernel struct {
	db     *state.DB
	log    *audit.Log
	host   *host.PluginHost
	logger hclog.Logger
}

// openKernel brings a kernel up, without its plugins.
//
// o says what its syscalls work on beside what is the kernel's own.
func openKernel(cfg *config.Config, logger hclog.Logger, o syscalls.Options) (_ *kernel, err error) {
	k := &kernel{logger: logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.db, err = state.Open(cfg.Kernel.StateDir); err != nil {
		return nil, err
	}
	if k.log, err = audit.Open(cfg.Audit); err != nil {
		return nil, err
	}
	o.State, o.Logger = k.db, logger.Named("plugin")
	o.Secrets, o.Keys = secretsOf(cfg), keysOf(cfg)
	// Plugins call one another once there are some, and so a host.
	o.CallPlugin = func(ctx context.Context, plugin, function string, input []byte) ([]byte, error) {
		return k.host.CallForPlugin(ctx, plugin, function, input)
	}
	registry, err := newRegistry(o)
	if err != nil {
		return nil, err
	}
	opts := []host.Option{
		host.WithLog(k.log), host.WithState(k.db), host.WithSyscalls(registry), host.WithLogger(logger),
		host.WithPolicies(cfg.Kernel.Enforcement, cfg.Policies...), host.WithRootKey(cfg.Kernel.RootPublicKey),
		host.WithIdleMemory(cfg.Kernel.IdleMemory),
	}
	engines, err := enginesOf(cfg, logger.Named("engine"))
	if err != nil {
		return nil, err
	}
	for _, e := range engines {
		opts = append(opts, host.WithEngine(e.Guarded(compiling(cfg, e.Name), logger.Named("engine"))))
	}
	if k.host, err = host.NewPluginHost(opts...); err != nil {
		return nil, err
	}
	return k, nil
}

// secretsOf are the secrets of a configuration, by name.
func secretsOf(cfg *config.Config) map[string]syscalls.Secret {
	out := make(map[string]syscalls.Secret, len(cfg.Secrets))
	for name, s := range cfg.Secrets {
		out[name] = syscalls.Secret(s)
	}
	return out
}

// keysOf are the keys of a configuration, by name.
func keysOf(cfg *config.Config) map[string]syscalls.Key {
	out := make(map[string]syscalls.Key, len(cfg.Keys))
	for name, k := range cfg.Keys {
		out[name] = syscalls.Key(k)
	}
	return out
}

// close takes the kernel down: plugins, log and lock, in this order.
func (k *kernel) close() error {
	var errs []error
	if k.host != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		errs = append(errs, k.host.Close(ctx))
	}
	if k.log != nil {
		errs = append(errs, k.log.Close())
	}
	if k.db != nil {
		errs = append(errs, k.db.Close())
	}
	return errors.Join(errs...)
}

// bringUp loads a plugin and starts it, unless a quarantine case of its artifact
// is open: such a plugin waits for the release.
func (k *kernel) bringUp(ctx context.Context, cfg host.PluginConfig) error {
	id, err := k.host.LoadPlugin(ctx, cfg)
	if err != nil || !cfg.Autostart {
		return err
	}
	p, err := k.host.Plugin(id)
	if err != nil {
		return err
	}
	if p.Status.Phase == host.PluginQuarantined {
		k.logger.Warn("plugin is not started: it is quarantined", "plugin", p.Name, "case", p.Status.Case, "reason", p.Status.Reason)
		return nil
	}
	return k.host.StartPlugin(ctx, id)
}

// enginesOf are the engines that a configuration names, its default first; the
// built-in default if it names none.
func enginesOf(cfg *config.Config, logger hclog.Logger) ([]builtins.Engine, error) {
	if len(cfg.Engines) == 0 {
		return builtins.Engines()[:1], nil
	}
	var out []builtins.Engine
	for _, want := range cfg.Engines {
		e, err := builtins.Find(want.Name, want.Isolation, logger)
		if err != nil {
			return nil, &usageError{err}
		}
		out = append(out, e)
	}
	return out, nil
}
