package diff

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"strings"

	"forgeone.dev/forgeone/engines"
)

// Subject is an engine, bare and metered.
type Subject struct {
	Name           string
	Bare, Metered  engines.WasmEngine
	WithoutVectors bool // it does not have all vector instructions: modules with some are not for it
}

// Difference is a module that two engines, or one in two modes, did not run alike.
type Difference struct {
	Seed   uint64
	Module *Module
	A, B   string // engine and mode
	GotA   string // the first step that differs
	GotB   string
}

func (d *Difference) Error() string {
	return fmt.Sprintf("seed %d: %s and %s differ\n%s: %s\n%s: %s\n%s\n%x", d.Seed, d.A, d.B, d.A, d.GotA, d.B, d.GotB, d.Module, d.Module.Bytes())
}

// mode is how modules are compiled.
type mode struct {
	name string
	engines.CompileOptions
}

const (
	plentyOfFuel = 1 << 40
	endlessFuel  = 20_000
	endlessDepth = 100
	fewFrames    = 4
)

// modes are those that a module is run in, of which the first is what it does
// without limits: nil if it does not end. Others that are exact do the same.
func modes(m *Module, r *rand.Rand) []mode {
	if m.Endless {
		return []mode{{"fuel and depth", engines.CompileOptions{Fuel: endlessFuel, CallDepth: endlessDepth}}}
	}
	list := []mode{{name: "bare"}}
	switch r.IntN(4) {
	case 0:
		list = append(list, mode{"interruptible", engines.CompileOptions{Interruptible: true}})
	case 1:
		list = append(list, mode{"little fuel", engines.CompileOptions{Fuel: 1 << r.IntN(14)}})
	case 2:
		list = append(list, mode{"fuel and little depth", engines.CompileOptions{Fuel: plentyOfFuel, CallDepth: fewFrames}})
	default:
		list = append(list, mode{"fuel", engines.CompileOptions{Fuel: plentyOfFuel}})
	}
	return list
}

// step is what can be seen of an instantiation or a call.
type step struct {
	seen    string
	fuel    uint64
	limited bool // the call met a limit that others do not have
	ok      bool // it returned
}

// Tally counts what was run: modules, compilations of them, calls, and those
// calls that returned.
type Tally struct{ Modules, Runs, Calls, Returned int }

func (t *Tally) add(steps []step) {
	t.Runs++
	for _, s := range steps {
		if s.seen != "" {
			t.Calls++
		}
		if s.ok {
			t.Returned++
		}
	}
}

// Check runs the module of a seed in each subject and mode, and adds to the
// tally. The error is a *[Difference] if two of them differ, or that a module
// was not compiled.
func Check(ctx context.Context, subjects []Subject, seed uint64, tally *Tally) error {
	r := rand.New(rand.NewPCG(seed, 0))
	return CheckModule(ctx, subjects, Generate(r), seed, tally)
}

// CheckModule is [Check] for a module that is there; seed is of the modes and
// the arguments.
func CheckModule(ctx context.Context, subjects []Subject, m *Module, seed uint64, tally *Tally) error {
	tally.Modules++
	wasm := m.Bytes()
	type run struct {
		name  string
		bare  bool
		steps []step
	}
	var runs []run
	for _, mode := range modes(m, rand.New(rand.NewPCG(seed, 1))) {
		first := -1 // of this mode
		for _, s := range subjects {
			if s.WithoutVectors && m.Vectors {
				continue
			}
			e, bare := s.Metered, mode.CompileOptions == engines.CompileOptions{}
			if bare {
				e = s.Bare
			}
			got, err := steps(ctx, e, m, wasm, mode.CompileOptions, seed)
			if err != nil {
				return fmt.Errorf("seed %d: %s, %s: %w\n%s\n%x", seed, s.Name, mode.name, err, m, wasm)
			}
			tally.add(got)
			this := run{s.Name + ", " + mode.name, bare, got}
			against := first
			if first < 0 {
				first, against = len(runs), 0
			}
			runs = append(runs, this)
			with := runs[against]
			if a, b, ok := firstDifference(with.steps, this.steps, with.bare != this.bare); ok {
				return &Difference{Seed: seed, Module: m, A: with.name, B: this.name, GotA: a, GotB: b}
			}
		}
	}
	return nil
}

// firstDifference is the first step in which a and b differ. If one has limits
// that the other has not, they are compared until one is met, and without fuel.
func firstDifference(a, b []step, limits bool) (string, string, bool) {
	for i, x := range a {
		y := b[i]
		if limits {
			if x.limited || y.limited {
				return "", "", false
			}
			x.fuel, y.fuel = 0, 0
		}
		if x != y {
			return x.String(), y.String(), true
		}
	}
	return "", "", false
}

func (s step) String() string { return fmt.Sprintf("%s, %d units of fuel", s.seen, s.fuel) }

// callsPerExport is how often each exported function is called.
const callsPerExport = 2

// steps compiles a module, instantiates it and calls its exports. There is
// always the same number of steps for a module.
func steps(ctx context.Context, e engines.WasmEngine, m *Module, wasm []byte, opts engines.CompileOptions, seed uint64) ([]step, error) {
	r := rand.New(rand.NewPCG(seed, 2))
	g := &generator{r: r}
	exports := 0
	for _, f := range m.Funcs {
		if f.Export {
			exports++
		}
	}
	list := make([]step, 1+exports*callsPerExport)
	mod, err := e.Compile(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	defer mod.Close()
	w := &world{m: m}
	w.host = w.functions()
	w.inst, err = mod.Instantiate(ctx, engines.Imports{Host: map[string]*engines.HostModule{"env": w.host}})
	if err != nil {
		list[0] = step{seen: fmt.Sprintf("instantiate: %s, %s", outcome(err), w.trace.String()), limited: limited(err)}
		return list, nil
	}
	defer w.inst.Close()
	list[0] = w.step("instantiate", nil, nil, nil)
	at := 1
	for i, f := range m.Funcs {
		if !f.Export {
			continue
		}
		export := fmt.Sprint("f", len(m.Imports)+i)
		t := m.Types[f.Type]
		for range callsPerExport {
			stack := make([]uint64, t.Slots())
			for i, p := range t.Params {
				stack[i] = g.bits(p)
			}
			list[at] = w.call(ctx, export, t, stack)
			at++
		}
	}
	return list, nil
}

// world is an instance and what its host saw of it.
type world struct {
	m     *Module
	inst  engines.Instance // nil while it is made
	host  *engines.HostModule
	trace strings.Builder
	back  bool // a host function has called back
}

func (w *world) call(ctx context.Context, export string, t engines.FuncType, stack []uint64) step {
	w.trace.Reset()
	w.back = false
	arguments := fmt.Sprintf("%#x", stack[:len(t.Params)])
	f, err := w.inst.Func(export)
	if err == nil {
		if gasLeft := w.inst.Global(fmt.Sprint("g", gasGlobal)); gasLeft != nil {
			err = gasLeft.Set(gas)
		}
	}
	if err == nil {
		err = f.Call(ctx, stack)
	}
	return w.step(export+" "+arguments, t.Results, stack, err)
}

// seedOfHash makes hashes of memories comparable within a process.
var seedOfHash = maphash.MakeSeed()

// step is what can be seen after a call.
func (w *world) step(what string, results []engines.ValueType, stack []uint64, err error) step {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", what, outcome(err))
	if err == nil {
		for i, t := range results {
			fmt.Fprintf(&b, " %#x", oneNaN(t, stack[i]))
		}
	}
	b.WriteString(", globals")
	for i, g := range w.m.Globals {
		if g.export {
			fmt.Fprintf(&b, " %#x", oneNaN(g.Value, w.inst.Global(fmt.Sprint("g", i)).Get()))
		}
	}
	memory := w.inst.Memory("memory")
	content := make([]byte, memory.Size())
	if !memory.Read(0, content) {
		b.WriteString(", memory cannot be read")
	}
	fmt.Fprintf(&b, ", memory %d %x, host calls%s", len(content), maphash.Bytes(seedOfHash, content), w.trace.String())
	s := step{seen: b.String(), limited: limited(err), ok: err == nil}
	if meter, ok := w.inst.(engines.FuelMeter); ok {
		s.fuel = meter.FuelUsed()
	}
	return s
}

// oneNaN is a value with all NaNs made one.
func oneNaN(t engines.ValueType, bits uint64) uint64 {
	switch {
	case t == engines.F32 && bits>>32 == 0 && math.IsNaN(float64(math.Float32frombits(uint32(bits)))):
		return 0x7fc00000
	case t == engines.F64 && math.IsNaN(math.Float64frombits(bits)):
		return 0x7ff8000000000000
	}
	return bits
}

// limited reports whether a call met a limit of CompileOptions.
func limited(err error) bool {
	trap, ok := errors.AsType[*engines.Trap](err)
	return ok && (trap.Class == engines.TrapFuel || trap.Class == engines.TrapStackExhausted || trap.Class == engines.TrapInterrupted)
}

// outcome is how a call ended, without what engines say in words of their own.
func outcome(err error) string {
	switch e := err.(type) {
	case nil:
		return "ok"
	case *engines.Trap:
		if e.Class == engines.TrapUnknown {
			return "unknown trap: " + e.Detail
		}
		return "trap: " + e.Class.String()
	case *engines.HostError:
		return fmt.Sprintf("host function %s.%s: %s", e.Module, e.Name, outcome(e.Err))
	}
	if errors.Is(err, errHost) {
		return err.Error()
	}
	return fmt.Sprintf("%T: %v", err, err)
}

// errHost is what host functions fail with.
var errHost = errors.New("the host refuses")

// functions are the host's. What they do and return follows from their
// arguments alone.
func (w *world) functions() *engines.HostModule {
	host := new(engines.HostModule)
	for i, index := range w.m.Imports {
		t := w.m.Types[index]
		host.Functions = append(host.Functions, engines.HostFunction{
			Name: fmt.Sprint(i), Type: t,
			Call: func(ctx context.Context, caller engines.Caller, stack []uint64) error {
				return w.hostCall(ctx, caller, i, t, stack)
			},
		})
	}
	return host
}

func (w *world) hostCall(ctx context.Context, caller engines.Caller, fn int, t engines.FuncType, stack []uint64) error {
	hash := fnv.New64a()
	fmt.Fprintf(&w.trace, " %d(", fn)
	for i, p := range t.Params {
		v := oneNaN(p, stack[i])
		fmt.Fprintf(&w.trace, "%#x,", v)
		fmt.Fprint(hash, v)
	}
	w.trace.WriteString(")")
	h := hash.Sum64() + uint64(fn)
	switch h % 32 {
	case 0:
		return errHost
	case 1, 2:
		w.trace.WriteString(fmt.Sprint("w", caller.Memory().Write(h>>8&0xffff, []byte{byte(h), 2, 3})))
	case 3, 4:
		var read [4]byte
		w.trace.WriteString(fmt.Sprint("r", caller.Memory().Read(h>>8&0xffff, read[:]), read))
	case 5:
		if h%3 == 0 {
			_, ok := caller.Memory().Grow(1)
			w.trace.WriteString(fmt.Sprint("g", ok))
		}
	case 6, 7, 8:
		if err := w.callBack(ctx); err != nil {
			return err
		}
	}
	for i, r := range t.Results {
		v := h ^ uint64(i)*0x9e3779b97f4a7c15
		switch r {
		case engines.I32:
			v = uint64(uint32(v))
		case engines.F32:
			v = uint64(math.Float32bits(float32(int32(v))))
		case engines.F64:
			v = math.Float64bits(float64(int64(v)))
		}
		stack[i] = v
	}
	return nil
}

// callBack calls the last function of the module from the host, once a call.
func (w *world) callBack(ctx context.Context) error {
	if w.inst == nil || w.back {
		return nil
	}
	w.back = true
	last := len(w.m.Funcs) - 1
	if !w.m.Funcs[last].Export {
		return nil
	}
	t := w.m.Types[w.m.Funcs[last].Type]
	f, err := w.inst.Func(fmt.Sprint("f", len(w.m.Imports)+last))
	if err != nil {
		return err
	}
	stack := make([]uint64, t.Slots())
	err = f.Call(ctx, stack)
	fmt.Fprintf(&w.trace, "back: %s", outcome(err))
	if err == nil {
		for i, r := range t.Results {
			fmt.Fprintf(&w.trace, " %#x", oneNaN(r, stack[i]))
		}
	}
	return err
}
