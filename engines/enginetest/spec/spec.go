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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forgeone.dev/forgeone/engines"
)

// Summary counts what became of the assertions of a run.
type Summary struct {
	Files   int
	Passed  int
	Failed  int
	Text    int            // about the text format, which no engine here reads
	Skipped map[string]int // by reason
}

// Assertions is how many there were.
func (s *Summary) Assertions() int {
	n := s.Passed + s.Failed + s.Text
	for _, k := range s.Skipped {
		n += k
	}
	return n
}

func (s *Summary) String() string {
	line := fmt.Sprintf("files=%d assertions=%d passed=%d failed=%d text=%d", s.Files, s.Assertions(), s.Passed, s.Failed, s.Text)
	reasons := make([]string, 0, len(s.Skipped))
	for reason, n := range s.Skipped {
		reasons = append(reasons, fmt.Sprintf("%d skipped: %s", n, reason))
	}
	slices.Sort(reasons)
	return strings.Join(append([]string{line}, reasons...), "\n  ")
}

// Run runs the vectors of a version of the specification, "v1" or "v2", each
// file with an engine of its own and its modules compiled with opts. It fails
// the test for each assertion that does not hold, and if there was none.
func Run(t *testing.T, version string, newEngine func(testing.TB) engines.WasmEngine, opts engines.CompileOptions) *Summary {
	t.Helper()
	root := Vectors(t)
	files, err := filepath.Glob(filepath.Join(root, version, "testdata", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	sum := &Summary{Skipped: make(map[string]int)}
	for _, file := range files {
		name := version + "/" + strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			sum.Files++
			runFile(t, name, file, filepath.Join(root, "testdata", "spectest.wasm"), newEngine(t), opts, sum)
		})
	}
	if sum.Passed == 0 {
		t.Errorf("no assertion of the specification's %s held in %s", version, root)
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

// run is the state of one script.
type run struct {
	t          *testing.T
	name       string // version and file
	dir        string
	engine     engines.WasmEngine
	opts       engines.CompileOptions
	sum        *Summary
	last       *loaded
	named      map[string]*loaded
	registered map[string]engines.Instance
}

// loaded is an instance, or in missing why there is none.
type loaded struct {
	engines.Instance
	missing string
}

func runFile(t *testing.T, name, file, spectest string, e engines.WasmEngine, opts engines.CompileOptions, sum *Summary) {
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
	r := &run{
		t: t, name: name, dir: filepath.Dir(file), engine: e, opts: opts, sum: sum,
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
func (r *run) load(file string) (engines.Instance, error) {
	wasm, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
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

func (r *run) command(c *command) {
	switch c.Type {
	case "module":
		r.last = new(loaded)
		inst, err := r.load(filepath.Join(r.dir, c.Filename))
		if unsupported, ok := errors.AsType[*engines.UnsupportedError](err); ok {
			r.last.missing = fmt.Sprintf("engine %s: %s", unsupported.Engine, unsupported.Feature)
		} else if err != nil {
			r.last.missing = "a module before it did not load"
			r.t.Errorf("line %d: module %s: %v", c.Line, c.Filename, err)
		} else {
			r.last.Instance = inst
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
		if _, err := r.act(&c.Action); err != nil {
			r.t.Errorf("line %d: %s: %v", c.Line, c.Action.Field, err)
		}
	default:
		if c.ModuleType == "text" {
			r.sum.Text++
			return
		}
		err := r.assert(c)
		if reason, ok := knownReason(r.engine.Info().Name, fmt.Sprintf("%s:%d", r.name, c.Line)); ok && err != nil {
			err = skip(reason)
		}
		switch err := err.(type) {
		case nil:
			r.sum.Passed++
		case skip:
			r.sum.Skipped[string(err)]++
		default:
			r.sum.Failed++
			r.t.Errorf("line %d: %s %s%s: %v", c.Line, c.Type, c.Action.Field, c.Filename, err)
		}
	}
}

// skip is an assertion that cannot be made, and why.
type skip string

func (s skip) Error() string { return string(s) }

// assert makes an assertion and returns what is wrong.
func (r *run) assert(c *command) error {
	switch c.Type {
	case "assert_return":
		got, err := r.act(&c.Action)
		if err != nil {
			return err
		}
		return match(got, c.Expected)
	case "assert_trap":
		_, err := r.act(&c.Action)
		return wantTrap(err, trapClass(c.Text))
	case "assert_exhaustion":
		_, err := r.act(&c.Action)
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
		return fmt.Errorf("got %v (%T), want an error that says %q", err, err, text)
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

// act calls a function, or gets a global, and returns its results by type.
func (r *run) act(a *action) ([]engines.Value, error) {
	l := r.last
	if a.Module != "" {
		l = r.named[a.Module]
	}
	if l.Instance == nil {
		return nil, skip(l.missing)
	}
	if a.Type == "get" {
		g := l.Global(a.Field)
		if g == nil {
			return nil, fmt.Errorf("there is no global %q", a.Field)
		}
		return []engines.Value{{Type: g.Type().Value, Bits: g.Get()}}, nil
	}
	f, err := l.Func(a.Field)
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
	var out []engines.Value
	for _, t := range f.Type().Results {
		out = append(out, engines.Value{Type: t, Bits: stack[0]})
		stack = stack[1:]
		if t == engines.V128 {
			out = append(out, engines.Value{Type: t, Bits: stack[0]})
			stack = stack[1:]
		}
	}
	return out, nil
}
