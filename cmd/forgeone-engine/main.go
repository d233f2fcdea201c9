// Command forgeone-engine is one WebAssembly engine in a binary of its own:
// wazero without a build tag, wasmer with the tag wasmer. ForgeOne runs engines
// that need cgo this way, so that a crash of theirs is not the kernel's.
//
//	forgeone-engine info [--format json|text]
//	forgeone-engine call MODULE.wasm FUNCTION [ARGS…]
//	forgeone-engine bench
//	forgeone-engine serve
//
// Results go to standard output, errors to standard error. The exit code is 0
// if all went well, 1 if it failed, 2 if the command line is wrong.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/engines"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "forgeone-engine: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// usageError is an error in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usage makes an argument check report a usageError.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w\nusage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:               "forgeone-engine",
		Short:             "One WebAssembly engine of ForgeOne, in a binary of its own",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: usage(func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q", args[0])
			}
			return errors.New("a command is missing: info, call, bench or serve")
		}),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newInfo(), newCall(), newBench(), newServe(), newCompile())
	return root
}

func newInfo() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "info",
		Short:   "Say which engine this is and what it can do",
		Example: "  forgeone-engine info --format json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := newEngine()
			if err != nil {
				return err
			}
			info := e.Info()
			if err := e.Close(); err != nil {
				return err
			}
			switch format {
			case "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(describe(info))
			case "text":
				return describe(info).writeText(cmd.OutOrStdout())
			default:
				return usageError{fmt.Errorf("--format %q is unknown; it is json or text", format)}
			}
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "json or text")
	return cmd
}

// description is the answer of info; its JSON form is read by other programs.
type description struct {
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Cgo      bool     `json:"cgo"`
	Features features `json:"features"`
}

type features struct {
	Interrupt    bool `json:"interrupt"`
	MemoryLimit  bool `json:"memory_limit"`
	Metering     bool `json:"metering"` // fuel and call depth
	V128Values   bool `json:"v128_values"`
	RefValues    bool `json:"ref_values"`
	MappedMemory bool `json:"mapped_memory"`
	Snapshots    bool `json:"snapshots"`
}

func describe(info engines.Info) description {
	return description{Name: info.Name, Version: info.Version, Cgo: usesCgo, Features: features(info.Features)}
}

func (d description) writeText(w io.Writer) error {
	yes := map[bool]string{true: "yes", false: "no"}
	_, err := fmt.Fprintf(w, `engine        %s %s
cgo           %s
interrupt     %s
memory limit  %s
metering      %s
v128 values   %s
ref values    %s
`, d.Name, d.Version, yes[d.Cgo], yes[d.Features.Interrupt], yes[d.Features.MemoryLimit],
		yes[d.Features.Metering], yes[d.Features.V128Values], yes[d.Features.RefValues])
	return err
}

func newCall() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "call MODULE.wasm FUNCTION [ARGS…]",
		Short: "Call an exported function with numbers and print its results, one a line",
		Long: "Call an exported function with numbers and print its results, one a line.\n" +
			"The module gets no imports and no limits: this is for trying an engine, not for untrusted code.",
		Example: "  forgeone-engine call math.wasm add 1 2",
		Args:    usage(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			results, err := callModule(cmd.Context(), args[0], args[1], args[2:])
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), strings.Join(append(results, ""), "\n"))
			return err
		},
	}
	cmd.Flags().SetInterspersed(false) // -1 is a number
	return cmd
}

// callModule loads the module at path, calls one of its functions and returns
// the results as text.
func callModule(ctx context.Context, path, function string, args []string) (_ []string, err error) {
	wasm, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	e, err := newEngine()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	m, err := e.Compile(ctx, wasm, engines.CompileOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	inst, err := m.Instantiate(ctx, engines.Imports{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer func() { err = errors.Join(err, inst.Close()) }()
	f, err := inst.Func(function)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	stack, err := encode(f.Type(), args)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", path, function, err)
	}
	if err := f.Call(ctx, stack); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", path, function, err)
	}
	return decode(f.Type(), stack), nil
}
