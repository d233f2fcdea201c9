package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/cmd/forgeone/builtins"
	"forgeone.dev/forgeone/engines/cache"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// runtimeNeeds are the syscalls without which the runtimes of some languages,
// Go's for one, do not start.
var runtimeNeeds = []string{"time_get", "time_sleep", "random_get", "stdio_write"}

// alone is a kernel of a command that runs one module, without a configuration.
// Its audit log goes with it, unless it is to be kept.
type alone struct {
	engine, auditDir string
	noCache          bool
	syscalls         syscalls.Options
	policy           zta.Policy
}

// with brings the kernel up for f.
func (a alone) with(ctx context.Context, logger hclog.Logger, f func(*host.PluginHost) error) (err error) {
	engine, err := builtins.Find(a.engine, "", logger.Named("engine"))
	if err != nil {
		return &usageError{err}
	}
	var compile cache.Config
	if !a.noCache {
		compile = compilingAlone(engine.Name, logger)
	}
	registry, err := newRegistry(a.syscalls)
	if err != nil {
		return err
	}
	opts := []host.Option{
		host.WithEngine(engine.Guarded(compile, logger.Named("engine"))), host.WithSyscalls(registry), host.WithLogger(logger),
		host.WithPolicies(zta.Enforce, a.policy),
	}
	if a.auditDir != "" {
		log, err := audit.Open(audit.Options{Dir: a.auditDir, Name: "forgeone/call", AllowGenerate: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		opts = append(opts, host.WithLog(log))
	}
	h, err := host.NewPluginHost(opts...)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, h.Close(end))
		if own := h.AuditDir(); own != "" {
			err = errors.Join(err, os.RemoveAll(own))
		}
	}()
	return f(h)
}

// nameOf is the name of a plugin for a module that has none.
func nameOf(path string) string {
	return strings.Join(strings.Fields(strings.TrimSuffix(filepath.Base(path), ".wasm")), "_")
}
