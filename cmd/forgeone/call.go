package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// callOptions are the flags of call.
type callOptions struct {
	engine, abi, input, config, auditDir string
	timeout                              time.Duration
	noCache                              bool
}

func (c *cli) call() *cobra.Command {
	var o callOptions
	cmd := &cobra.Command{
		Use:   "call [flags] MODULE.wasm|PLUGIN FUNCTION [ARGS…]",
		Short: "Call a function of a module or plugin; the result goes to standard output",
		Long: `Call a function of a plugin of a configuration, or of a module.

With --config, the call goes through the kernel that runs on the configuration's
state directory. Where none does, one is brought up for this one call, under the
directory's lock.

Without --config, the module runs on its own: it is granted what language
runtimes need to start (clock, sleep, randomness, standard output and error,
both of which go to standard error) and nothing else. What it asks for is put on
record in a log of its own, which is removed at the end: --audit-dir keeps it.

The result is written as it is, but to a terminal, on which control characters
and what is invisible are escaped.

Plain exports take numbers as ARGS; put -- before the first if one is negative.
Functions of forge/1, Extism and native plugins take --input.`,
		Example: `  forgeone call math.wasm add 1 2
  forgeone call plugin.wasm greet --input World
  forgeone call --config forgeone.hcl summarise summarise --input @request.json --timeout 5s
  forgeone call math.wasm add -- -1 2`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return fmt.Errorf("want MODULE.wasm or PLUGIN, and FUNCTION; see %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("log-level") {
				c.logLevel = "warn" // the result is what is asked for
			}
			out, err := c.callFunction(cmd.Context(), o, args[0], args[1], args[2:], cmd.Flags().Changed("input"))
			if err != nil {
				return err
			}
			if isTerminal(c.out) {
				out = forTerminal(out)
			}
			_, err = c.out.Write(out)
			return err
		}),
	}
	cmd.Flags().StringVar(&o.engine, "engine", "", "engine of a module; default wazero")
	cmd.Flags().StringVar(&o.abi, "abi", "auto", "ABI the module must have: auto, forge, extism or core")
	cmd.Flags().StringVar(&o.input, "input", "", "input: the text itself, @FILE, or - for standard input")
	cmd.Flags().StringVar(&o.config, "config", "", "configuration that PLUGIN is in")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "how long the call may take, such as 2s; default as configured")
	cmd.Flags().StringVar(&o.auditDir, "audit-dir", "", "keep the audit log of the call of a module in this directory")
	cmd.Flags().BoolVar(&o.noCache, "no-cache", false, "compile the module anew, and do not keep its machine code")
	cmd.MarkFlagsMutuallyExclusive("config", "audit-dir")
	cmd.MarkFlagsMutuallyExclusive("config", "no-cache")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if flag, ok := strings.CutPrefix(err.Error(), "unknown shorthand flag: '"); ok && strings.ContainsAny(flag[:1], "0123456789.") {
			err = fmt.Errorf("%w; put -- before a negative number", err)
		}
		return &usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	return cmd
}

func (c *cli) callFunction(ctx context.Context, o callOptions, target, function string, args []string, hasInput bool) ([]byte, error) {
	switch o.abi {
	case "auto", "forge", "extism", "core":
	default:
		return nil, &usageError{fmt.Errorf("--abi %q: want auto, forge, extism or core", o.abi)}
	}
	if o.timeout < 0 {
		return nil, &usageError{errors.New("--timeout is negative")}
	}
	if hasInput && len(args) > 0 {
		return nil, &usageError{errors.New("give either --input or ARGS")}
	}
	input, err := c.readInput(o.input)
	if err != nil {
		return nil, err
	}
	if len(args) > 0 {
		input = []byte(strings.Join(args, " ")) // as plain exports take them
	}
	q := call{cli: c, options: o, function: function, input: input, numbers: len(args) > 0}
	if o.config == "" {
		return q.module(ctx, target)
	}
	if o.engine != "" {
		return nil, &usageError{errors.New("--engine is for a module: the engine of a plugin stands in its configuration")}
	}
	places, err := locate(o.config)
	if err != nil {
		return nil, err
	}
	k, err := control.Dial(ctx, places.Socket)
	if errors.Is(err, control.ErrNotRunning) {
		cfg, err := loadConfig(o.config)
		if err != nil {
			return nil, err
		}
		pc, err := pluginOf(cfg, o.config, target)
		if err != nil {
			return nil, err
		}
		return q.underLock(ctx, cfg, pc)
	}
	if err != nil {
		return nil, err
	}
	defer k.Close()
	name, err := runningPlugin(ctx, k, target)
	if err != nil {
		return nil, err
	}
	return q.remote(ctx, k, name)
}

// readInput is the input that the flag says.
func (c *cli) readInput(s string) ([]byte, error) {
	r := c.in
	name, file := strings.CutPrefix(s, "@")
	switch {
	case file:
		f, err := os.Open(name) //nolint:gosec // the user names the file
		if err != nil {
			return nil, &usageError{fmt.Errorf("--input: %w", err)}
		}
		defer func() { _ = f.Close() }()
		r = f
	case s != "-":
		return []byte(s), nil
	}
	b, err := io.ReadAll(io.LimitReader(r, control.MaxInput+1))
	if err != nil {
		return nil, fmt.Errorf("--input: %w", err)
	}
	if len(b) > control.MaxInput {
		return nil, &control.Error{Kind: control.Limit, Message: fmt.Sprintf("--input is larger than the %d bytes that are taken", control.MaxInput)}
	}
	return b, nil
}

// pluginOf is the plugin of that name in a configuration, or the one plugin
// whose module the path is.
func pluginOf(cfg *config.Config, path, target string) (host.PluginConfig, error) {
	var names []string
	var same []host.PluginConfig
	for _, p := range cfg.Plugins {
		if p.Name == target {
			return p, nil
		}
		names = append(names, p.Name)
		if sameFile(p.WasmModule, target) {
			same = append(same, p)
		}
	}
	if len(same) == 1 {
		return same[0], nil
	}
	return host.PluginConfig{}, &control.Error{Kind: control.NotFound, Message: fmt.Sprintf("no plugin %q in %s: it has %s", target, path, list(names))}
}

// runningPlugin is the name of the one plugin of a running kernel whose module
// the path is, if target is a path; else it is the name.
func runningPlugin(ctx context.Context, k *control.Client, target string) (string, error) {
	if _, err := os.Stat(target); err != nil {
		return target, nil
	}
	ps, err := k.Plugins(ctx)
	if err != nil {
		return "", err
	}
	var same []string
	for _, p := range ps {
		if p.Name == target {
			return target, nil
		}
		if sameFile(p.Wasm, target) {
			same = append(same, p.Name)
		}
	}
	switch len(same) {
	case 0:
		return target, nil // the kernel says what it has
	case 1:
		return same[0], nil
	}
	return "", &control.Error{Kind: control.NotFound, Message: fmt.Sprintf("%s is the module of several plugins, %s: call one of them by name", target, list(same))}
}

func sameFile(a, b string) bool {
	if a == "" {
		return false
	}
	fa, errA := os.Stat(a)
	fb, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(fa, fb)
}

// call is one call that is asked for.
type call struct {
	*cli
	options  callOptions
	function string
	input    []byte
	numbers  bool // the input is ARGS
}

// check refuses an ABI that was not asked for, or that takes no ARGS.
func (q *call) check(abi string) error {
	switch want := q.options.abi; {
	case want == "forge" && abi != string(host.ABIForge), want == "extism" && abi != string(host.ABIExtism), want == "core" && abi != string(host.ABICore):
		return &usageError{fmt.Errorf("--abi %s: it is %s", want, abi)}
	case q.numbers && abi != string(host.ABICore):
		return &usageError{fmt.Errorf("ARGS are numbers for plain exports, and this is %s: give its functions --input", abi)}
	}
	return nil
}

// remote calls a plugin of a running kernel.
func (q *call) remote(ctx context.Context, k *control.Client, name string) ([]byte, error) {
	if q.numbers || q.options.abi != "auto" {
		p, err := k.Plugin(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := q.check(p.ABI); err != nil {
			return nil, err
		}
	}
	ctx, cancel := q.deadline(ctx)
	defer cancel()
	return k.Call(ctx, name, q.function, q.input)
}

func (q *call) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if q.options.timeout > 0 {
		return context.WithTimeout(ctx, q.options.timeout)
	}
	return context.WithCancel(ctx)
}

// underLock brings up the kernel with this one plugin, and calls it.
func (q *call) underLock(ctx context.Context, cfg *config.Config, pc host.PluginConfig) (_ []byte, err error) {
	k, err := openKernel(cfg, q.logger(), syscalls.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	return q.on(ctx, k.host, pc)
}

// on loads and starts a plugin on a host, and calls it.
func (q *call) on(ctx context.Context, h *host.PluginHost, pc host.PluginConfig) ([]byte, error) {
	id, err := h.LoadPlugin(ctx, pc)
	if err != nil {
		return nil, err
	}
	p, err := h.Plugin(id)
	if err != nil {
		return nil, err
	}
	if err := q.check(string(p.ABI)); err != nil {
		return nil, err
	}
	if q.options.timeout > 0 {
		if err := control.CanTimeOut(h, id); err != nil {
			return nil, err
		}
	}
	if err := h.StartPlugin(ctx, id); err != nil {
		return nil, err
	}
	ctx, cancel := q.deadline(ctx)
	defer cancel()
	return h.Call(ctx, id, q.function, q.input)
}

// module runs a module on its own.
func (q *call) module(ctx context.Context, path string) (out []byte, err error) {
	if filepath.Ext(path) != ".wasm" && !strings.ContainsRune(path, filepath.Separator) {
		return nil, &usageError{fmt.Errorf("%q is no path of a module (*.wasm): give --config to call a plugin by name", path)}
	}
	set, err := capability.New(capability.Grant{Syscalls: runtimeNeeds})
	if err != nil {
		return nil, err
	}
	pc := host.PluginConfig{Name: nameOf(path), WasmModule: path, TrustLevel: capability.Limited, Capabilities: set}
	if q.options.abi == "extism" {
		pc.ABI = host.ABIExtism // which its imports need not show
	}
	kernel := alone{
		engine: q.options.engine, auditDir: q.options.auditDir, noCache: q.options.noCache,
		syscalls: syscalls.Options{Stdio: func(_, _ string, p []byte) {
			_, _ = io.WriteString(q.err, paragraph(strings.TrimSuffix(string(p), "\n"))+"\n") // as far as it can be shown
		}},
		policy: zta.Policy{Name: "runtime", Syscalls: runtimeNeeds},
	}
	err = kernel.with(ctx, q.logger(), func(h *host.PluginHost) (err error) {
		out, err = q.on(ctx, h, pc)
		return err
	})
	return out, err
}
