package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

// here is wazero in this process.
var here = Engine{Bare: wazero.New, Metered: func() (engines.WasmEngine, error) {
	e, err := wazero.New()
	if err != nil {
		return nil, err
	}
	return meter.Wrap(e, meter.Limits{}), nil
}}

// TestMain is also what the tests start as the process of an engine.
func TestMain(m *testing.M) {
	switch os.Getenv("BENCH_TEST_PROCESS") {
	case "serve":
		if err := Serve(context.Background(), here, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "die":
		fmt.Fprintln(os.Stderr, "of a broken heart")
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// process is this test as a process, which does what is asked of TestMain.
func process(what string) Process {
	return Process{Command: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "BENCH_TEST_PROCESS="+what)
		return cmd
	}}
}

// tiny is a suite that is soon over.
func tiny(programs []Program, modes ...Mode) Suite {
	return Suite{
		Targets:  []Target{{Engine: "wazero", Where: InProcess, Runner: here}},
		Programs: programs, Modes: modes, Time: time.Millisecond, Limit: time.Minute,
	}
}

func quiet(Progress) {}

// Every program gives its answer on wazero, bare and metered.
func TestPrograms(t *testing.T) {
	for _, p := range Programs() {
		for _, m := range Modes {
			s, err := here.Prepare(t.Context(), Job{Program: p, Mode: m, Limit: time.Minute})
			if err != nil {
				t.Errorf("%s %s: %v", p.Name, m, err)
				continue
			}
			if took, err := s.Time(t.Context(), 2); err != nil || took <= 0 {
				t.Errorf("%s %s: %v, %v", p.Name, m, took, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestRun(t *testing.T) {
	programs := slices.DeleteFunc(Programs(), func(p Program) bool { return !slices.Contains([]string{"host", "instantiate", "compile"}, p.Name) })
	s := tiny(programs, Modes...)
	s.Targets = []Target{
		{Engine: "wazero", Where: InProcess, Runner: process("serve")},
		{Engine: "wazero", Where: InWorker, Runner: Engine{Metered: here.Metered}},
		{Engine: "wasmer", Where: InProcess, Missing: "it is not there"},
	}
	s.Absent = []Absent{{"go", "it was not built"}}
	seen := map[string]bool{}
	r := s.Run(t.Context(), func(p Progress) { seen[p.Program] = true })
	if len(seen) != len(s.Programs) || !r.Complete || !r.Measured() || len(r.Failures()) > 0 {
		t.Errorf("%d programs were told of, complete: %v, failures: %+v", len(seen), r.Complete, r.Failures())
	}
	n := 0
	for _, c := range r.Cells {
		switch {
		case c.Engine == "wasmer":
			if c.Failure == nil || *c.Failure != (Failure{Missing, "it is not there"}) {
				t.Errorf("%s: %+v of an engine that is missing", c.Column, c)
			}
		case c.Failure != nil || c.Stats == nil || len(c.Samples) < minSamples || c.Calls < 1 || c.Answer == "":
			t.Errorf("%s on %s: %+v, %+v", c.Program, c.Column, c, c.Failure)
		default:
			n++
		}
	}
	// Every program in process in four modes; in a worker in three, and not compiled.
	if want := len(s.Programs)*4 + (len(s.Programs)-1)*3; n != want {
		t.Errorf("%d figures, want %d", n, want)
	}
	if r.Engines[0].Version == "" || r.Engines[2].Missing == "" {
		t.Errorf("engines: %+v", r.Engines)
	}
	for _, c := range r.Cells {
		if first := c.Engine == "wazero"; first != (c.Ratio == 0) && c.Stats != nil {
			t.Errorf("%s: ratio %v to itself", c.Column, c.Ratio)
		}
	}
	var text bytes.Buffer
	if err := r.WriteMarkdown(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"missing: it is not there", "missing: it was not built", "wazero 1.", "geometric mean"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, text.String())
		}
	}
}

// The Go program gives its answer; it needs the toolchain that runs this test.
func TestGoProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("it is compiled first")
	}
	path := filepath.Join(t.TempDir(), "go.wasm")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-buildmode=c-shared", "-o", path, "./testdata/program")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wasm, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := tiny([]Program{GoProgram(wasm)}, Bare).Run(t.Context(), quiet)
	if !r.Measured() {
		t.Errorf("%+v", r.Cells[0].Failure)
	}
}

// program is a Call of a function without parameters that has a result.
func program(body asm.Code) Program {
	m := new(asm.Module)
	clock := m.ImportFunc(wasiModule, "clock_time_get", asm.Func(asm.Types(engines.I32, engines.I64, engines.I32), asm.Types(engines.I32)))
	if clock != 0 {
		panic("the clock is not function 0")
	}
	m.Memory("memory", 1)
	m.Func("f", asm.Func(nil, asm.Types(engines.I32)), body)
	return Program{Name: "p", Work: "w", Kind: Call, Wasm: m.Bytes(), Function: "f", Ops: 1}
}

// What goes wrong is reported by its cause, and is never a figure.
func TestFailures(t *testing.T) {
	forever := asm.Code{}.Loop().Br(0).End().Op(asm.Unreachable)
	wrong := program(asm.Code{}.I32Const(41))
	wrong.Want = []uint64{42}
	absent := program(asm.Code{}.I32Const(1))
	absent.Function = "g"
	importer := new(asm.Module)
	importer.ImportFunc("env", "launch", asm.Func(nil, nil))
	importer.Func("f", asm.Func(nil, nil), nil)
	nobody := Engine{Bare: func() (engines.WasmEngine, error) { return nil, errors.New("nobody is here") }}

	for name, c := range map[string]struct {
		program Program
		mode    Mode
		runner  Runner
		engine  string
		cause   Cause
		reason  string
	}{
		"wrong answer":      {wrong, Bare, here, "wazero", Wrong, "(41) and should be (42)"},
		"wrong in process":  {wrong, Bare, process("serve"), "wazero", Wrong, "(41) and should be (42)"},
		"trap":              {program(asm.Code{}.Op(asm.Unreachable)), Fuel, here, "wazero", Failed, "unreachable"},
		"without end":       {program(forever), Deadline, here, "wazero", Limit, "did not end within 100ms"},
		"without end, bare": {program(forever), Bare, process("serve"), "wazero", Limit, "did not end within 100ms"},
		"no such function":  {absent, Bare, here, "wazero", Failed, "exports nothing of that name"},
		"no such import":    {Program{Name: "p", Kind: Call, Wasm: importer.Bytes(), Function: "f"}, Bare, here, "wazero", Failed, "env.launch"},
		"no module":         {Program{Name: "p", Kind: Call, Wasm: []byte("text")}, Bare, here, "wazero", Failed, "compile"},
		"no engine":         {wrong, Bare, nobody, "wazero", Failed, "nobody is here"},
		"another engine":    {wrong, Bare, here, "wasmer", Wrong, "should be (42)"},
		"another's name":    {program(asm.Code{}.I32Const(1)), Bare, here, "wasmer", Failed, `"wazero"`},
		"process ends":      {wrong, Bare, process("die"), "wazero", Failed, "exit status 3; it wrote: of a broken heart"},
		"no binary":         {wrong, Bare, Process{Command: func() *exec.Cmd { return exec.Command("/there/is/no/such") }}, "wazero", Failed, "start the engine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tiny([]Program{c.program}, c.mode)
			s.Targets = []Target{{Engine: c.engine, Where: InProcess, Runner: c.runner}}
			if c.cause == Limit {
				s.Limit = 100 * time.Millisecond
			}
			r := s.Run(t.Context(), quiet)
			cell := r.Cells[0]
			if cell.Failure == nil || cell.Failure.Cause != c.cause || !strings.Contains(cell.Failure.Reason, c.reason) {
				t.Errorf("%+v, want %s: …%s…", cell.Failure, c.cause, c.reason)
			}
			if cell.Samples != nil || cell.Stats != nil || r.Measured() || len(r.Failures()) != 1 {
				t.Errorf("it has figures: %+v", cell)
			}
		})
	}
}

// Where nobody knows the answer, the first is the measure.
func TestAnswersThatDiffer(t *testing.T) {
	// The low half of the monotonic clock.
	p := program(asm.Code{}.I32Const(1).I64Const(0).I32Const(0).Call(0).Op(asm.Drop).I32Const(0).I32Load(0))
	r := tiny([]Program{p}, Bare, Deadline).Run(t.Context(), quiet)
	first, second := r.Cells[0], r.Cells[1]
	if first.Failure != nil || second.Failure == nil || second.Failure.Cause != Wrong || !strings.Contains(second.Failure.Reason, "wazero in-process, bare") {
		t.Errorf("%+v and %+v", first.Failure, second.Failure)
	}
}

// An interrupted run keeps what it has, and ends.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	programs := Programs()[:3]
	r := tiny(programs, Bare).Run(ctx, func(p Progress) {
		if p.Number == 2 && strings.HasPrefix(p.Doing, "round") {
			cancel()
		}
	})
	if r.Complete || r.Cells[0].Stats == nil {
		t.Errorf("complete: %v, first: %+v", r.Complete, r.Cells[0])
	}
	if last := r.Cells[2].Failure; last == nil || last.Cause != Interrupted || len(r.Failures()) > 0 {
		t.Errorf("%+v; failures: %+v", last, r.Failures())
	}
}

func TestModule(t *testing.T) {
	m := new(asm.Module)
	m.Func("double", asm.Func(asm.Types(engines.I32), asm.Types(engines.I32)), asm.Code{}.LocalGet(0).LocalGet(0).Op(asm.I32Add))
	args := func(v int32) func(engines.FuncType) ([]engines.Value, error) {
		return func(engines.FuncType) ([]engines.Value, error) { return []engines.Value{engines.ValueI32(v)}, nil }
	}
	programs, err := Module("m.wasm", m.Bytes(), "double", args(-21))
	if err != nil {
		t.Fatal(err)
	}
	r := tiny(programs, Bare, Fuel).Run(t.Context(), quiet)
	for _, c := range r.Cells {
		if c.Stats == nil || c.Answer != "(-42)" {
			t.Errorf("%s: %s, %+v", c.Program, c.Answer, c.Failure)
		}
	}
	if len(r.Cells) != 6 {
		t.Errorf("%d figures, want 6", len(r.Cells))
	}
	if _, err := Module("m.wasm", m.Bytes(), "absent", args(0)); !errors.As(err, new(*engines.ExportError)) {
		t.Errorf("absent function: %v", err)
	}
	if _, err := Module("m.wasm", []byte("(module)"), "f", args(0)); err == nil {
		t.Error("text is a module")
	}
}

// WASI calls do what they say, and fail for addresses that are not there.
func TestWASI(t *testing.T) {
	mem := make(memory, 128)
	call := func(name string, args ...uint64) (uint64, error) {
		fns := wasi(time.Now()).Functions
		i := slices.IndexFunc(fns, func(f engines.HostFunction) bool { return f.Name == name })
		if i < 0 {
			t.Fatalf("no %s", name)
		}
		stack := append(args, 0)
		err := fns[i].Call(t.Context(), caller{mem}, stack)
		return stack[0], err
	}
	le := binary.LittleEndian
	le.PutUint32(mem[4:], 5)  // an iovec at 0 of 5 bytes,
	le.PutUint32(mem[12:], 7) // and one of 7
	copy(mem[64:], "userdata")
	le.PutUint64(mem[64+24:], 1000) // a subscription to a clock
	for _, c := range []struct {
		name string
		args []uint64
		want uint64
	}{
		{"args_sizes_get", []uint64{32, 36}, errnoSuccess},
		{"environ_sizes_get", []uint64{126, 0}, errnoFault},
		{"random_get", []uint64{32, 8}, errnoSuccess},
		{"random_get", []uint64{124, 8}, errnoFault},
		{"random_get", []uint64{0, 1 << 31}, errnoFault},
		{"clock_time_get", []uint64{0, 0, 40}, errnoSuccess},
		{"clock_time_get", []uint64{1, 0, 124}, errnoFault},
		{"fd_write", []uint64{1, 0, 2, 48}, errnoSuccess},
		{"fd_write", []uint64{3, 0, 2, 48}, errnoBadf},
		{"fd_write", []uint64{2, 0, 1 << 30, 48}, errnoFault},
		{"poll_oneoff", []uint64{64, 0, 1, 52}, errnoSuccess},
		{"poll_oneoff", []uint64{64, 0, 2, 52}, errnoNotsup},
		{"poll_oneoff", []uint64{100, 0, 1, 52}, errnoFault},
	} {
		if got, err := call(c.name, c.args...); got != c.want || err != nil {
			t.Errorf("%s%v = %d, %v, want %d", c.name, c.args, got, err, c.want)
		}
	}
	if got := le.Uint32(mem[48:]); got != 12 {
		t.Errorf("fd_write wrote %d bytes, want 12", got)
	}
	if now := time.Unix(0, int64(le.Uint64(mem[40:]))); time.Since(now).Abs() > time.Minute {
		t.Errorf("the time is %v", now)
	}
	if string(mem[:8]) != "userdata" || le.Uint32(mem[52:]) != 1 {
		t.Errorf("the event is %q, and there are %d", mem[:8], le.Uint32(mem[52:]))
	}
	var exit *ExitError
	if _, err := call("proc_exit", 3); !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("proc_exit: %v", err)
	}
}

// memory is a memory that does not grow.
type memory []byte

func (m memory) Size() uint64               { return uint64(len(m)) }
func (m memory) Grow(uint32) (uint32, bool) { return 0, false }

func (m memory) Read(at uint64, dst []byte) bool {
	return at+uint64(len(dst)) <= m.Size() && copy(dst, m[at:]) == len(dst)
}

func (m memory) Write(at uint64, src []byte) bool {
	return at+uint64(len(src)) <= m.Size() && copy(m[at:], src) == len(src)
}

type caller struct{ m memory }

func (c caller) Memory() engines.Memory { return c.m }

func TestStatistics(t *testing.T) {
	positive := rapid.Float64Range(1e-3, 1e9)
	rapid.Check(t, func(t *rapid.T) {
		xs := rapid.SliceOfN(positive, 1, 50).Draw(t, "xs")
		s := Summarise(xs)
		if s.Min != slices.Min(xs) || s.Max != slices.Max(xs) || !slices.IsSorted([]float64{s.Min, s.Q1, s.Median, s.Q3, s.Max}) {
			t.Fatalf("%+v", s)
		}
		below, above := 0, 0
		for _, x := range xs {
			if x <= s.Median {
				below++
			}
			if x >= s.Median {
				above++
			}
		}
		if 2*below < len(xs) || 2*above < len(xs) {
			t.Fatalf("%v is not in the middle: %d are below, %d above", s.Median, below, above)
		}
		if got := Summarise(rapid.Permutation(xs).Draw(t, "permuted")); got != s {
			t.Fatalf("in another order: %+v and %+v", got, s)
		}
		if s.Spread() < 0 {
			t.Fatalf("spread %v", s.Spread())
		}
		close := func(a, b float64) bool { return a/b > 1-1e-9 && a/b < 1+1e-9 }
		g := Geomean(xs)
		inverse := make([]float64, len(xs))
		for i, x := range xs {
			inverse[i] = 1 / x
		}
		if !close(g*Geomean(inverse), 1) {
			t.Fatalf("the mean of the inverses is %v, and of the numbers %v", Geomean(inverse), g)
		}
		if g < s.Min*(1-1e-9) || g > s.Max*(1+1e-9) || !close(Geomean(append(xs, g)), g) {
			t.Fatalf("mean %v", g)
		}
	})
	if got := Geomean(nil); got != 0 {
		t.Errorf("the mean of nothing is %v", got)
	}
}

func TestQuantiles(t *testing.T) {
	got := Summarise([]float64{4, 1, 3, 2})
	if want := (Stats{Min: 1, Q1: 1.75, Median: 2.5, Q3: 3.25, Max: 4}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestJoin(t *testing.T) {
	rows := [][]string{{"add", "e", "bare", "why"}, {"add", "e", "fuel", "why"}, {"fib", "e", "bare", "why"}, {"fib", "e", "fuel", "why"}, {"fib", "e", "own", "else"}}
	got := join(join(rows, 2), 0)
	want := [][]string{{"add, fib", "e", "bare, fuel", "why"}, {"fib", "e", "own", "else"}}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestFormats(t *testing.T) {
	for ns, want := range map[float64]string{
		0.5: "0.50 ns", 18.24: "18.2 ns", 999.4: "999 ns", 999.6: "1.00 µs", 1234: "1.23 µs", 99_960: "100 µs", 999_600: "1.00 ms", 2.5e9: "2.50 s", 1234e9: "1234 s",
	} {
		if got := duration(ns); got != want {
			t.Errorf("duration(%v) = %q, want %q", ns, got, want)
		}
	}
	if got := times(1.046) + times(0); got != "1.05×-" {
		t.Errorf("times: %q", got)
	}
}

const hostile = "<script>alert(1)</script>|\"'`\n\x1b[31m\u202e&{{.}}](javascript:x)"

// sample is a report with one of each thing, whose names are hostile.
func sample() *Report {
	r := &Report{
		Schema: Schema, Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), ForgeOne: "1.0", Complete: true,
		Machine: Machine{CPU: hostile, Cores: 2, OS: "linux", Arch: "amd64", Go: "go1.26"},
		Time:    time.Second, Limit: time.Minute, Modes: []Mode{Bare, Fuel},
		Engines: []EngineReport{
			{Name: "wazero", Where: InProcess, Version: "1"}, {Name: "wasmer", Where: InProcess, Version: "2"},
			{Name: "wazero", Where: InWorker, Version: "1"}, {Name: "wasmer", Where: InWorker, Missing: hostile},
		},
		Programs: []ProgramReport{{Name: hostile, Work: hostile, Kind: Call, Size: 8, SHA256: strings.Repeat("ab", 32)}},
		Absent:   []Absent{{"go", "not built"}},
	}
	for i, e := range r.Engines {
		for j, m := range r.Modes {
			c := Cell{Program: hostile, Column: Column{e.Name, e.Where, m}}
			if e.Missing != "" {
				c.Failure = &Failure{Missing, e.Missing}
			} else {
				x := float64(100 * (1 + i) * (1 + j))
				c.Answer, c.Calls, c.Samples = "(1)", 10, []float64{x, 2 * x, 3 * x}
				stats := Summarise(c.Samples)
				c.Stats = &stats
			}
			r.Cells = append(r.Cells, c)
		}
	}
	r.compare()
	return r
}

// Programs read the JSON: its form changes with Schema alone.
func TestJSON(t *testing.T) {
	got, err := json.MarshalIndent(sample(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const path = "testdata/report.json"
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(want), got) {
		t.Errorf("the JSON of a report has changed: give Schema another name, then -update writes %s; it is\n%s", path, got)
	}
	var back Report
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if again, err := json.MarshalIndent(&back, "", "  "); err != nil || !bytes.Equal(again, got) {
		t.Errorf("it does not come back the same: %v", err)
	}
}

func TestHTML(t *testing.T) {
	var page bytes.Buffer
	if err := sample().WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(bytes.NewReader(page.Bytes()))
	elements, bars := map[string]int{}, 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("it is not well-formed: %v", err)
		}
		e, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		elements[e.Name.Local]++
		if e.Name.Local == "rect" {
			bars++
		}
		for _, a := range e.Attr {
			if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "href" || a.Name.Local == "src" {
				t.Errorf("<%s %s=%q>", e.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if elements["script"]+elements["link"]+elements["img"] > 0 {
		t.Errorf("it has elements of another's, or needs the network: %v", elements)
	}
	if elements["svg"] != 1 || bars != 6 || elements["table"] < 4 {
		t.Errorf("%d charts with %d bars, %d tables", elements["svg"], bars, elements["table"])
	}
	if bytes.Contains(page.Bytes(), []byte("ZgotmplZ")) {
		t.Error("a value stands where none can")
	}
}

func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.Contains(strings.ReplaceAll(line, `\<`, ""), "<") || strings.ContainsAny(line, "\x1b\u202e") {
			t.Errorf("hostile text stands as it is: %q", line)
		}
	}
	rows := 0
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "| ") {
			rows++
			if !strings.HasSuffix(line, "|\n") {
				t.Errorf("a row is broken: %q", line)
			}
		}
	}
	if rows < 10 {
		t.Errorf("%d rows", rows)
	}
}
