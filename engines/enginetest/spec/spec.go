// Package spec runs the test vectors of the WebAssembly core specification
// against an engine: scripts of the specification's own test suite, as
// wast2json writes them (https://github.com/WebAssembly/wabt), for the versions
// 1.0 and 2.0. They come with the source of wazero, in the module cache.
package spec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
)

// assertions is how many the vectors have, of both versions.
const assertions = 70_668

// modes are those that engines are used in.
var modes = []struct {
	name    string
	metered bool
	opts    engines.CompileOptions
}{
	{name: "plain"},
	{"deadline", true, engines.CompileOptions{Interruptible: true, CallDepth: 10_000}},
	{"fuel", true, engines.CompileOptions{Fuel: math.MaxInt64, CallDepth: 10_000}},
}

// Test runs the vectors of both versions of the specification in some modes, or
// if none is named in all: "plain", as the engine is, and metered by package
// meter, with a "deadline", and with "fuel" and a depth of calls. Each file has
// an engine of its own. It fails the test for each assertion that does not hold,
// and if there are not as many as there should be. What it logs of each begins
// with "enginetest: engine=".
func Test(t *testing.T, newEngine func(testing.TB) engines.WasmEngine, only ...string) {
	for _, mode := range modes {
		if len(only) > 0 && !slices.Contains(only, mode.name) {
			continue
		}
		t.Run(mode.name, func(t *testing.T) {
			total := 0
			for _, version := range []string{"v1", "v2"} {
				sum := run(t, version, func(t testing.TB) engines.WasmEngine {
					e := newEngine(t)
					if mode.metered {
						e = meter.Wrap(e, meter.Limits{})
					}
					return e
				}, mode.name, mode.opts)
				t.Logf("enginetest: engine=%s mode=%s spec=%s %s", sum.engine, mode.name, version, sum)
				total += sum.assertions()
			}
			// A vector that is not read is not a vector that holds.
			if total != assertions {
				t.Errorf("%d assertions, want %d", total, assertions)
			}
		})
	}
}

// summary counts what became of the assertions of a run.
type summary struct {
	engine  string
	files   int
	held    int
	failed  int
	text    int            // about the text format, which no engine here reads
	skipped map[string]int // by reason
}

// assertions is how many there were.
func (s *summary) assertions() int { return s.held + s.failed + s.text + s.skips() }

func (s *summary) skips() (n int) {
	for _, k := range s.skipped {
		n += k
	}
	return n
}

func (s *summary) String() string {
	line := fmt.Sprintf("files=%d assertions=%d held=%d failed=%d text=%d skipped=%d", s.files, s.assertions(), s.held, s.failed, s.text, s.skips())
	for _, reason := range slices.Sorted(maps.Keys(s.skipped)) {
		line += fmt.Sprintf("\n  %d skipped: %s", s.skipped[reason], reason)
	}
	return line
}

// run runs the vectors of a version, each file with an engine of its own.
func run(t *testing.T, version string, newEngine func(testing.TB) engines.WasmEngine, mode string, opts engines.CompileOptions) *summary {
	t.Helper()
	root := Vectors(t)
	files, err := filepath.Glob(filepath.Join(root, version, "testdata", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	sum := &summary{skipped: make(map[string]int)}
	for _, file := range files {
		name := version + "/" + strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			sum.engine = e.Info().Name
			sum.files++
			runFile(t, name, file, filepath.Join(root, "testdata", "spectest.wasm"), e, mode, opts, sum)
		})
	}
	return sum
}

// Vectors is the folder of the vectors, which has one for each version, and the
// module that all scripts import in testdata.
func Vectors(t testing.TB) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatalf("where the vectors are: go list -m github.com/tetratelabs/wazero: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "internal", "integration_test", "spectest")
}

type script struct {
	Commands []command `json:"commands"`
}

type command struct {
	Type       string  `json:"type"`
	Line       int     `json:"line"`
	Name       string  `json:"name"`
	Filename   string  `json:"filename"`
	As         string  `json:"as"`
	Action     action  `json:"action"`
	Expected   []value `json:"expected"`
	ModuleType string  `json:"module_type"`
	Text       string  `json:"text"`
}

type action struct {
	Type   string  `json:"type"`
	Module string  `json:"module"`
	Field  string  `json:"field"`
	Args   []value `json:"args"`
}

// player is the state of one script.
type player struct {
	t          *testing.T
	name       string // version and file
	dir        string
	engine     engines.WasmEngine
	lower      bool // what is no number crosses the boundary as numbers
	mode       string
	opts       engines.CompileOptions
	sum        *summary
	last       *loaded
	named      map[string]*loaded
	registered map[string]engines.Instance
}

// loaded is an instance, or in missing why there is none.
type loaded struct {
	engines.Instance
	missing string
}

func runFile(t *testing.T, name, file, spectest string, e engines.WasmEngine, mode string, opts engines.CompileOptions, sum *summary) {
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s script
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	features := e.Info().Features
	r := &player{
		t: t, name: name, dir: filepath.Dir(file), engine: e, lower: !features.V128Values || !features.RefValues, mode: mode, opts: opts, sum: sum,
		named: make(map[string]*loaded), registered: make(map[string]engines.Instance),
	}
	host, err := r.load(spectest)
	if err != nil {
		t.Fatalf("the module that all scripts import: %v", err)
	}
	r.registered["spectest"] = host
	for i := range s.Commands {
		r.command(&s.Commands[i])
	}
}

// load compiles and instantiates a file. What it makes is freed with the engine.
func (r *player) load(file string) (engines.Instance, error) {
	wasm, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.lower {
		wasm = lower(wasm)
	}
	mod, err := r.engine.Compile(context.Background(), wasm, r.opts)
	if err != nil {
		return nil, err
	}
	imports := engines.Imports{Instances: make(map[string]engines.Instance)}
	for _, im := range mod.Imports() {
		if inst, ok := r.registered[im.Module]; ok {
			imports.Instances[im.Module] = inst
		}
	}
	return mod.Instantiate(context.Background(), imports)
}

func (r *player) command(c *command) {
	switch c.Type {
	case "module":
		r.last = new(loaded)
		inst, err := r.load(filepath.Join(r.dir, c.Filename))
		k := r.known(c)
		switch {
		case err == nil:
			r.last.Instance = inst
		case k != nil:
			r.last.missing = k.reason
		default:
			if r.last.missing = r.unsupported(err); r.last.missing == "" {
				r.last.missing = "a module before it did not load"
				r.t.Errorf("line %d: module %s: %v", c.Line, c.Filename, err)
			}
		}
		if c.Name != "" {
			r.named[c.Name] = r.last
		}
	case "register":
		l := r.last
		if c.Name != "" {
			l = r.named[c.Name]
		}
		if l.Instance != nil {
			r.registered[c.As] = l.Instance
		}
	case "action":
		_, err := r.act(c)
		if _, skipped := err.(skip); err != nil && !skipped {
			r.t.Errorf("line %d: %s: %v", c.Line, c.Action.Field, err)
		}
	default:
		if c.ModuleType == "text" {
			r.sum.text++
			return
		}
		switch err := r.judged(c).(type) {
		case nil:
			r.sum.held++
		case skip:
			r.sum.skipped[string(err)]++
		default:
			r.sum.failed++
			r.t.Errorf("line %d: %s %s%s: %v", c.Line, c.Type, c.Action.Field, c.Filename, err)
		}
	}
}

// judged makes an assertion, and returns what is wrong and was not known.
func (r *player) judged(c *command) error {
	k := r.known(c)
	if k != nil && k.fatal {
		return skip(k.reason)
	}
	err := r.assert(c)
	switch {
	case err == nil:
		return nil
	case k != nil:
		return skip(k.reason)
	}
	if reason := r.unsupported(err); reason != "" {
		return skip(reason)
	}
	return err
}

func (r *player) known(c *command) *deviation {
	return knownDeviation(r.engine.Info().Name, r.mode, fmt.Sprintf("%s:%d", r.name, c.Line))
}

// unsupported says what the engine's features lack that a module needs, "" if
// that is not what is wrong.
func (r *player) unsupported(err error) string {
	e, ok := errors.AsType[*engines.UnsupportedError](err)
	if !ok || !r.lower {
		return ""
	}
	_, lacks, _ := strings.Cut(e.Feature, " import ")
	if lacks == "" {
		return ""
	}
	return "engine " + e.Engine + ": what cannot cross the boundary is imported"
}

// skip is an assertion that cannot be made, and why.
type skip string

func (s skip) Error() string { return string(s) }

// assert makes an assertion and returns what is wrong.
func (r *player) assert(c *command) error {
	switch c.Type {
	case "assert_return":
		got, err := r.act(c)
		if err != nil {
			return err
		}
		return match(got, c.Expected)
	case "assert_trap":
		_, err := r.act(c)
		return wantTrap(err, trapClass(c.Text))
	case "assert_exhaustion":
		_, err := r.act(c)
		return wantTrap(err, engines.TrapStackExhausted)
	case "assert_malformed", "assert_invalid":
		_, err := r.load(filepath.Join(r.dir, c.Filename))
		return wantError[*engines.CompileError](err, c.Text)
	case "assert_unlinkable":
		_, err := r.load(filepath.Join(r.dir, c.Filename))
		if class, ok := segmentTraps[c.Text]; ok {
			return wantTrap(err, class)
		}
		return wantError[*engines.LinkError](err, c.Text)
	case "assert_uninstantiable":
		_, err := r.load(filepath.Join(r.dir, c.Filename))
		return wantTrap(err, trapClass(c.Text))
	}
	return fmt.Errorf("unknown assertion")
}

// segmentTraps are what version 1.0 called a failure to link, and 2.0 a trap.
var segmentTraps = map[string]engines.TrapClass{
	"data segment does not fit":     engines.TrapMemoryBounds,
	"elements segment does not fit": engines.TrapTableBounds,
}

func wantError[E error](err error, text string) error {
	if _, ok := errors.AsType[E](err); !ok {
		return fmt.Errorf("got %w (%T), want an error that says %q", err, err, text)
	}
	return nil
}

func wantTrap(err error, class engines.TrapClass) error {
	if s, ok := err.(skip); ok {
		return s
	}
	trap, ok := errors.AsType[*engines.Trap](err)
	if !ok || trap.Class != class {
		return fmt.Errorf("got %v (%T), want the trap %q", err, err, class)
	}
	return nil
}

// trapClass is the class of what the scripts call a trap.
func trapClass(text string) engines.TrapClass {
	switch {
	case text == "out of bounds memory access":
		return engines.TrapMemoryBounds
	case text == "out of bounds table access", strings.HasPrefix(text, "undefined"), strings.HasPrefix(text, "uninitialized"):
		return engines.TrapTableBounds
	case strings.HasPrefix(text, "indirect call"):
		return engines.TrapIndirectType
	case text == "integer divide by zero":
		return engines.TrapDivideByZero
	case text == "integer overflow":
		return engines.TrapIntegerOverflow
	case text == "invalid conversion to integer":
		return engines.TrapInvalidConversion
	case text == "unreachable":
		return engines.TrapUnreachable
	}
	return engines.TrapUnknown
}

// act calls a function, or gets a global, and returns the words of the results.
func (r *player) act(c *command) ([]uint64, error) {
	a, l := &c.Action, r.last
	if a.Module != "" {
		l = r.named[a.Module]
	}
	if l.Instance == nil {
		return nil, skip(l.missing)
	}
	if r.lower && slices.ContainsFunc(slices.Concat(a.Args, c.Expected), value.external) {
		return nil, skip("engine " + r.engine.Info().Name + ": an external reference cannot cross the boundary, and no number can stand for it")
	}
	if g := l.Global(a.Field); a.Type == "get" && g != nil {
		return []uint64{g.Get()}, nil
	}
	f, err := l.Func(a.Field) // or what stands for a global
	if err != nil {
		return nil, err
	}
	stack := make([]uint64, 0, f.Type().Slots())
	for _, arg := range a.Args {
		stack = append(stack, arg.words()...)
	}
	stack = stack[:cap(stack)]
	if err := f.Call(context.Background(), stack); err != nil {
		return nil, err
	}
	return stack[:engines.FuncType{Results: f.Type().Results}.Slots()], nil
}
