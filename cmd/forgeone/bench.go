package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/cmd/forgeone/builtins"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/bench"
	"forgeone.dev/forgeone/host"
)

// benchFormats are the forms of a report.
var benchFormats = []string{"table", "json", "markdown", "html"}

// benchExtensions are the forms that a file's name asks for.
var benchExtensions = map[string]string{".json": "json", ".md": "markdown", ".html": "html"}

// benchOptions are the flags of bench.
type benchOptions struct {
	engines, programs, modes, where []string
	module, function                string
	time, timeout                   time.Duration
	format                          string
	output                          []string
}

func (c *cli) bench() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench [flags] [ARGS…]",
		Short: "Compare the WASM engines: the same modules on each, in process and in a worker, bare and metered",
		Long: `Compare the WASM engines: the same modules on each, in the process that calls
them and in one of their own, bare and metered. With --module and --function,
somebody's own module, with numbers as ARGS.

Every answer is checked: a wrong one is reported, and is no figure. What is
reported is the median of many samples, half the distance between their
quartiles, and the ratio to the first of --engines. Samples are taken in turn of
all that is compared. What could not be measured stands at the end, with the
reason.

Modules run without a gate: no policy holds, and nothing is on record. They get
a clock, sleep and random numbers, and what they write is dropped.

An interrupt ends the run with what there is, and with exit code 1; so does a
program that fails, and an engine of --engines that is missing.`,
		Example: `  forgeone bench
  forgeone bench --engines wasmtime,wazero --programs fib,sha256 --modes bare,deadline,own --where in-process
  forgeone bench --time 1s -o bench.html -o bench.json
  forgeone bench --module math.wasm --function add -- 1 -2`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case (o.module == "") != (o.function == ""):
				return errors.New("--module and --function go together")
			case len(args) > 0 && o.module == "":
				return fmt.Errorf("ARGS are for --function, got %q", args[0])
			}
			return nil
		},
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			return c.runBench(cmd, o, args)
		}),
	}
	names := benchPrograms()
	f := cmd.Flags()
	f.StringSliceVar(&o.engines, "engines", builtins.Known, "engines to compare; ratios are to the first")
	f.StringSliceVar(&o.programs, "programs", names, "programs to run")
	f.StringSliceVar(&o.modes, "modes", words(bench.Modes[:3]), "limits to run under: bare, deadline, fuel, and own for the engine's own interruption; costs are over the first")
	f.StringSliceVar(&o.where, "where", words(bench.Places), "where engines run: in-process or worker")
	f.StringVar(&o.module, "module", "", "module to run instead of the programs")
	f.StringVar(&o.function, "function", "", "function of the module to call")
	f.DurationVar(&o.time, "time", 200*time.Millisecond, "time for each figure")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "time after which getting ready, or a sample, has failed")
	f.StringVar(&o.format, "format", benchFormats[0], "form of the report: "+strings.Join(benchFormats, ", "))
	f.StringArrayVarP(&o.output, "output", "o", nil, "file to write instead of standard output; without --format, in the form that its name ends with: .json, .md, .html; may be repeated")
	cmd.MarkFlagsMutuallyExclusive("module", "programs")
	for flag, values := range map[string][]string{
		"engines": builtins.Known, "programs": names, "modes": words(bench.Modes), "where": words(bench.Places), "format": benchFormats,
	} {
		if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // there is no such flag
		}
	}
	cmd.AddCommand(c.benchServe())
	return cmd
}

// benchServe is what bench starts for an engine that is linked into this binary.
func (c *cli) benchServe() *cobra.Command {
	return &cobra.Command{
		Use:     "serve ENGINE",
		Short:   "Measure an engine in this process, for bench",
		Example: "  forgeone bench serve wazero",
		Hidden:  true,
		Args:    exactArgs("ENGINE"),
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			signal.Ignore(os.Interrupt) // bench has it too, and ends this process
			e, err := builtins.Find(args[0], config.InProcess, nil)
			if err != nil {
				return err
			}
			return bench.Serve(cmd.Context(), bench.Engine{Bare: e.Bare, Metered: e.New}, c.in, c.out)
		}),
	}
}

func (c *cli) runBench(cmd *cobra.Command, o benchOptions, args []string) (err error) {
	if !cmd.Flags().Changed("log-level") {
		c.logLevel = "warn" // workers come and go by the hundred
	}
	suite, err := c.benchSuite(o, args)
	if err != nil {
		return err
	}
	outputs := []benchOutput{{c.out, o.format}}
	if len(o.output) > 0 {
		outputs = nil
	}
	for _, path := range o.output {
		file, fail := os.Create(path) // before what takes long
		if fail != nil {
			return fail
		}
		defer func() { err = cmp.Or(err, file.Close()) }()
		format, ok := benchExtensions[filepath.Ext(path)]
		if !ok || cmd.Flags().Changed("format") {
			format = o.format
		}
		outputs = append(outputs, benchOutput{file, format})
	}
	report := suite.Run(cmd.Context(), c.benchProgress())
	report.ForgeOne = versionOf().Version
	if isTerminal(c.err) {
		fmt.Fprint(c.err, "\x1b[K") // the progress
	}
	for _, out := range outputs {
		if err := out.write(report); err != nil {
			return err
		}
	}
	return benchError(cmd, report)
}

// benchError says what makes the run a failure, if anything does.
func benchError(cmd *cobra.Command, r *bench.Report) error {
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	var errs []error
	if cmd.Flags().Changed("engines") {
		for _, e := range r.Engines {
			if e.Missing != "" {
				errs = append(errs, errors.New(e.Missing))
			}
		}
	}
	for _, c := range r.Failures() {
		errs = append(errs, fmt.Errorf("%s on %s: %s", c.Program, c.Column, c.Failure.Reason))
	}
	if len(errs) == 0 && !r.Measured() {
		errs = append(errs, errors.New("nothing could be measured"))
	}
	return errors.Join(errs...)
}

// benchPrograms are the names of the programs that there are.
func benchPrograms() []string {
	var names []string
	for _, p := range bench.Programs() {
		names = append(names, p.Name)
	}
	i := slices.IndexFunc(bench.Programs(), func(p bench.Program) bool { return p.Kind != bench.Call })
	return slices.Insert(names, i, bench.Go)
}

func (c *cli) benchSuite(o benchOptions, args []string) (bench.Suite, error) {
	s := bench.Suite{Time: o.time, Limit: o.timeout}
	if o.time <= 0 || o.timeout <= o.time {
		return s, &usageError{errors.New("--time must be more than nothing, and --timeout more than --time")}
	}
	for _, check := range []error{
		known("--engines", o.engines, builtins.Known), known("--programs", o.programs, benchPrograms()),
		known("--modes", o.modes, words(bench.Modes)), known("--where", o.where, words(bench.Places)),
		known("--format", []string{o.format}, benchFormats),
	} {
		if check != nil {
			return s, check
		}
	}
	for _, m := range o.modes {
		s.Modes = append(s.Modes, bench.Mode(m))
	}
	if err := benchChoose(&s, o, args); err != nil {
		return s, err
	}
	for _, name := range o.engines {
		for _, where := range o.where {
			s.Targets = append(s.Targets, c.benchTarget(name, bench.Where(where)))
		}
	}
	return s, nil
}

// benchChoose gives the suite its programs.
func benchChoose(s *bench.Suite, o benchOptions, args []string) error {
	if o.module != "" {
		wasm, err := os.ReadFile(o.module)
		if err != nil {
			return err
		}
		s.Programs, err = bench.Module(filepath.Base(o.module), wasm, o.function, func(t engines.FuncType) ([]engines.Value, error) {
			values, err := host.ParseArgs(t, args)
			if err != nil {
				return nil, &usageError{err}
			}
			return values, nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", o.module, err)
		}
		return nil
	}
	programs := bench.Programs()
	for _, name := range o.programs {
		if i := slices.IndexFunc(programs, func(p bench.Program) bool { return p.Name == name }); i >= 0 {
			s.Programs = append(s.Programs, programs[i])
			continue
		}
		p, err := benchGo()
		if err != nil {
			s.Absent = append(s.Absent, bench.Absent{Program: name, Reason: err.Error() + "; make examples builds it"})
			continue
		}
		s.Programs = append(s.Programs, p)
	}
	return nil
}

// benchGo is the Go program, which lies among the examples beside this binary.
func benchGo() (bench.Program, error) {
	self, err := os.Executable()
	if err != nil {
		return bench.Program{}, err
	}
	wasm, err := os.ReadFile(filepath.Join(filepath.Dir(self), "examples", "bench-go.wasm"))
	if err != nil {
		return bench.Program{}, err
	}
	return bench.GoProgram(wasm), nil
}

// benchTarget finds an engine. In process means: in a process that calls it
// without a socket between, which is not this one, for a guest that does not end
// could not be stopped here.
func (c *cli) benchTarget(name string, where bench.Where) bench.Target {
	t := bench.Target{Engine: name, Where: where}
	if where == bench.InWorker {
		e, err := builtins.Find(name, config.Process, c.logger())
		if err != nil {
			t.Missing = err.Error()
			return t
		}
		t.Runner = bench.Engine{Metered: e.New}
		return t
	}
	self, err := os.Executable()
	if err != nil {
		t.Missing = err.Error()
		return t
	}
	path, args := self, []string{"bench", "serve", name}
	if !slices.ContainsFunc(builtins.Engines(), func(e builtins.Engine) bool { return e.Name == name }) {
		e, err := builtins.Find(name, config.Process, nil)
		if err != nil {
			t.Missing = err.Error()
			return t
		}
		path, args = e.Worker, []string{"bench"}
	}
	t.Runner = bench.Process{Command: func() *exec.Cmd { return exec.Command(path, args...) }}
	return t
}

// benchProgress tells of a run on standard error: to a terminal on one line,
// elsewhere by a line for each program.
func (c *cli) benchProgress() func(bench.Progress) {
	told := 0
	return func(p bench.Progress) {
		line := fmt.Sprintf("%d of %d: %s", p.Number, p.Programs, printable(p.Program))
		switch {
		case isTerminal(c.err):
			fmt.Fprintf(c.err, "\r\x1b[K%s, %s\r", line, p.Doing)
		case p.Number != told:
			told = p.Number
			fmt.Fprintln(c.err, line)
		}
	}
}

// benchOutput is a place for a report.
type benchOutput struct {
	io.Writer
	format string
}

func (o benchOutput) write(r *bench.Report) error {
	switch o.format {
	case "markdown":
		return r.WriteMarkdown(o)
	case "html":
		return r.WriteHTML(o)
	}
	return (&cli{out: o, format: o.format}).print(r, func(p *printer) {
		for _, f := range r.Facts() {
			p.line("%s", f)
		}
		for _, s := range r.Sections() {
			p.line("")
			p.line("%s", s.Title)
			if s.Note != "" {
				p.line("%s", s.Note)
			}
			for _, cells := range append([][]string{s.Header}, s.Rows...) {
				row := make([]any, len(cells))
				for i, cell := range cells {
					row[i] = dash(cell)
				}
				p.row(row...)
			}
		}
	})
}

// known refuses a value that is none of those that there are.
func known(flag string, values, all []string) error {
	if len(values) == 0 {
		return &usageError{fmt.Errorf("%s is empty: want some of %s", flag, strings.Join(all, ", "))}
	}
	for i, v := range values {
		if !slices.Contains(all, v) {
			return &usageError{fmt.Errorf("%s %q: want some of %s", flag, v, strings.Join(all, ", "))}
		}
		if slices.Contains(values[:i], v) {
			return &usageError{fmt.Errorf("%s names %q twice", flag, v)}
		}
	}
	return nil
}

// words are values as they are written.
func words[T ~string](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}
