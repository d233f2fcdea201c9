package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// Exit codes of run that are not the command's own, which scripts hold.
const (
	runTrap        = 1
	runLimit       = 124
	runFailed      = 125 // the kernel failed, or refused the module
	runBlocked     = 126
	runQuarantined = 127
	runInterrupted = 130 // as a shell tells it of SIGINT
)

// runOptions are the flags of run.
type runOptions struct {
	engine, memory, config, auditDir string
	dirs, env                        []string
	fuel                             uint64
	timeout                          time.Duration
	noCache                          bool
}

// runEnd is how run ended, all said.
type runEnd struct{ code int }

func (e *runEnd) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func (c *cli) run() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] MODULE.wasm [ARGS…]",
		Short: "Run a WASI command; its exit code is the command's",
		Long: `Run a WASI command (wasi_snapshot_preview1), with the standard streams of this one.

It is granted what language runtimes need (clock, sleep, randomness, the standard
streams) and what --dir and --env give, and nothing else. Each of its effects is
a syscall through the gate, on record in a log that is removed at the end:
--audit-dir keeps it.

With --config, the policies, engines and log of a configuration are in force
besides, under the lock of its state directory.

Exit codes: the command's own; 1 for a trap. With one line of JSON on standard
error: 124 a limit was exceeded, 125 the kernel failed or refused the module,
126 blocked by policy, 127 quarantined. 130 interrupted.

What the command prints is written as it is, but to a terminal, on which control
characters and what is invisible are escaped.`,
		Example: `  forgeone run tool.wasm --version
  forgeone run --dir .::/ wc.wasm README.md
  forgeone run --dir data::/data:ro --dir out::/out --timeout 10s --memory 256MiB convert.wasm /data/a /out/b`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.endRun(&usageError{fmt.Errorf("want MODULE.wasm; see %s --help", cmd.CommandPath())})
			}
			return nil
		},
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("log-level") {
				c.logLevel = "warn" // standard error is the command's
			}
			err := c.runModule(cmd.Context(), o, args[0], args[1:])
			if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return &runEnd{runInterrupted}
			}
			return c.endRun(err)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&o.engine, "engine", "", "engine; default wazero, or the configuration's")
	f.StringArrayVar(&o.dirs, "dir", nil, "lend a directory, `HOST::GUEST[:ro]`; may be given several times")
	f.StringArrayVar(&o.env, "env", nil, "environment variable, `NAME=VALUE`; may be given several times")
	f.Uint64Var(&o.fuel, "fuel", 0, "instructions it may spend; default no limit")
	f.DurationVar(&o.timeout, "timeout", 0, "how long it may take, such as 10s; default no limit")
	f.StringVar(&o.memory, "memory", "", "linear memory it may have, such as 256MiB; default the host's limit")
	f.StringVar(&o.config, "config", "", "configuration whose policies, engines and log are in force")
	f.StringVar(&o.auditDir, "audit-dir", "", "keep the audit log in this directory")
	f.BoolVar(&o.noCache, "no-cache", false, "compile the module anew, and do not keep its machine code")
	f.SetInterspersed(false) // what follows the module is the command's
	cmd.MarkFlagsMutuallyExclusive("config", "audit-dir")
	cmd.MarkFlagsMutuallyExclusive("config", "no-cache")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return c.endRun(&usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())})
	})
	return cmd
}

// endRun says how run ended where the command has not.
func (c *cli) endRun(err error) error {
	if err == nil {
		return nil
	}
	var failed *host.FunctionError
	var trap *engines.Trap
	kind := kindOf(err)
	end := &runEnd{runFailed}
	switch {
	case errors.As(err, &failed):
		return &runEnd{int(uint8(failed.Code))} //nolint:gosec // a process has eight bits of it
	case kind == control.Limit:
		end.code = runLimit
	case kind == control.Quarantined:
		end.code = runQuarantined
	case kind == control.Blocked:
		end.code = runBlocked
	case errors.As(err, &trap):
		fmt.Fprintln(c.err, "error: "+paragraph(err.Error()))
		return &runEnd{runTrap}
	}
	line, _ := json.Marshal(struct { // strings and a number
		Exit    int          `json:"exit"`
		Kind    control.Kind `json:"kind"`
		Message string       `json:"message"`
	}{end.code, kind, err.Error()})
	fmt.Fprintf(c.err, "%s\n", escapeJSON(line))
	return end
}

// runModule runs a command to its end.
func (c *cli) runModule(ctx context.Context, o runOptions, module string, args []string) error {
	pc, grant, err := o.plugin(module, args)
	if err != nil {
		return &usageError{err}
	}
	out, errOut := c.stream(c.out), c.stream(c.err)
	pc.Terminals = [3]bool{isTerminalInput(c.in), isTerminal(c.out), isTerminal(c.err)}
	defer out.flush()
	defer errOut.flush()
	streams := syscalls.Options{
		Stdin: syscalls.NewStdin(c.in).Read,
		Stdio: func(_, stream string, p []byte) {
			if stream == "stderr" {
				errOut.write(p)
				return
			}
			out.write(p)
		},
	}
	policy := zta.Policy{Name: "run", Plugins: []string{pc.Name}, Syscalls: grant.Syscalls}
	if o.config == "" {
		kernel := alone{engine: o.engine, auditDir: o.auditDir, noCache: o.noCache, syscalls: streams, policy: policy}
		return kernel.with(ctx, c.logger(), func(h *host.PluginHost) error { return startOn(ctx, h, pc) })
	}
	cfg, err := loadConfig(o.config)
	if err != nil {
		return err
	}
	cfg.Policies = append(cfg.Policies, policy)
	pc.Engine = o.engine
	k, err := openKernel(cfg, c.logger(), streams)
	if err != nil {
		return err
	}
	return errors.Join(startOn(ctx, k.host, pc), k.close())
}

// startOn runs a command on a host.
func startOn(ctx context.Context, h *host.PluginHost, pc host.PluginConfig) error {
	id, err := h.LoadPlugin(ctx, pc)
	if err != nil {
		return err
	}
	p, err := h.Plugin(id)
	if err != nil {
		return err
	}
	if p.ABI != host.ABIWASI {
		return &usageError{fmt.Errorf("%s is no WASI command, which exports %s, but %s: call its functions with forgeone call", pc.WasmModule, host.Start, p.ABI)}
	}
	if err := h.StartPlugin(ctx, id); err != nil {
		return err
	}
	_, err = h.Call(ctx, id, host.Start, nil)
	return err
}

// plugin is the plugin that the flags make of a module, with what it is granted.
func (o *runOptions) plugin(module string, args []string) (host.PluginConfig, capability.Grant, error) {
	pc := host.PluginConfig{
		Name: nameOf(module), WasmModule: module, TrustLevel: capability.Standard,
		Args: append([]string{filepath.Base(module)}, args...), Env: o.env,
		Limits: host.Limits{Fuel: o.fuel, Timeout: host.NoTimeout, Instances: 1}, Pool: host.Pool{MaxIdle: host.NoIdle},
	}
	grant := capability.Grant{Syscalls: append([]string{"stdio_read"}, runtimeNeeds...)}
	fail := func(format string, args ...any) (host.PluginConfig, capability.Grant, error) {
		return host.PluginConfig{}, capability.Grant{}, fmt.Errorf(format, args...)
	}
	for _, kv := range o.env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			return fail("--env %q: want NAME=VALUE", kv)
		}
	}
	for _, dir := range o.dirs {
		m, err := parseDir(dir)
		if err != nil {
			return fail("--dir %q: %w", dir, err)
		}
		pc.Mounts = append(pc.Mounts, m)
		grant.Resources = append(grant.Resources, "file://"+m.Guest, "file://"+strings.TrimSuffix(m.Guest, "/")+"/**")
	}
	if len(pc.Mounts) > 0 {
		grant.Syscalls = append(grant.Syscalls, "file_*")
	}
	switch {
	case o.timeout < 0:
		return fail("--timeout is negative")
	case o.timeout > 0:
		pc.Limits.Timeout = o.timeout
	}
	if o.memory != "" {
		n, err := config.ParseSize(o.memory)
		if err != nil {
			return fail("--memory: %w", err)
		}
		pc.Limits.Memory = n
	}
	var err error
	pc.Capabilities, err = capability.New(grant)
	return pc, grant, err
}

// parseDir reads HOST::GUEST[:ro].
func parseDir(s string) (host.Mount, error) {
	dir, guest, ok := strings.Cut(s, "::")
	if !ok {
		return host.Mount{}, errors.New("want HOST::GUEST, or HOST::GUEST:ro for reading alone; .::/ makes the working directory the command's root")
	}
	m := host.Mount{Host: dir}
	m.Guest, m.ReadOnly = strings.CutSuffix(guest, ":ro")
	switch {
	case dir == "":
		return m, errors.New("HOST is empty")
	case !path.IsAbs(m.Guest) || m.Guest != path.Clean(m.Guest):
		return m, fmt.Errorf("GUEST %q: want an absolute path without . and .. and a slash at its end", m.Guest)
	case strings.ContainsAny(m.Guest, `*?[]{}\`):
		return m, fmt.Errorf("GUEST %q: want none of the characters of patterns, * ? [ ] { } \\", m.Guest)
	}
	return m, nil
}

// isTerminalInput reports whether someone may be typing.
func isTerminalInput(r io.Reader) bool {
	w, ok := r.(io.Writer)
	return ok && isTerminal(w)
}

// stream is an output of the command. What goes to a terminal is made harmless
// to it.
type stream struct {
	w       io.Writer
	escaped bool

	mu   sync.Mutex
	part []byte // of a character that is not there as a whole yet
}

func (c *cli) stream(w io.Writer) *stream { return &stream{w: w, escaped: isTerminal(w)} }

// write writes as far as it can: whom there is to tell, the command does not know.
func (s *stream) write(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.escaped {
		_, _ = s.w.Write(p)
		return
	}
	p = slices.Concat(s.part, p)
	whole := len(p)
	for i := max(0, len(p)-utf8.UTFMax+1); i < len(p); i++ {
		if utf8.RuneStart(p[i]) && !utf8.FullRune(p[i:]) {
			whole = i
			break
		}
	}
	s.part = p[whole:]
	_, _ = io.WriteString(s.w, harmless(p[:whole]))
}

// flush writes what is left of a character that never came.
func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.w, harmless(s.part))
	s.part = nil
}

// harmless is text for a terminal. Lines, tabs, and the way back to the start of
// a line stay.
func harmless(p []byte) string {
	var b strings.Builder
	for len(p) > 0 {
		n := bytes.IndexAny(p, "\n\t\r")
		if n < 0 {
			n = len(p)
		}
		b.WriteString(printable(string(p[:n])))
		if n < len(p) {
			b.WriteByte(p[n])
			n++
		}
		p = p[n:]
	}
	return b.String()
}
