package diff

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"forgeone.dev/forgeone/engines"
)

// Subject is an engine, bare and metered.
type Subject struct {
	Name          string
	Bare, Metered engines.WasmEngine
	Takes         func(*Module) bool // whether a module is for it; nil if all are
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
// calls that returned. It knows which instructions there were.
type Tally struct {
	Modules, Runs, Calls, Returned int

	opcodes map[opcode]bool
}

func (t *Tally) String() string {
	return fmt.Sprintf("modules=%d runs=%d calls=%d returned=%d opcodes=%d/%d", t.Modules, t.Runs, t.Calls, t.Returned, len(t.opcodes), len(instructions()))
}

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
//
// What a module does without limits and within some is compared on one engine,
// and each of the two on all engines but one: that one does what all others do
// in the other mode, and the modules take turns. So a module takes a run less
// than there are engines and modes, and over many modules nothing is left out.
func CheckModule(ctx context.Context, subjects []Subject, m *Module, seed uint64, tally *Tally) error {
	tally.Modules++
	tally.addOpcodes(m)
	wasm := m.Bytes()
	type run struct {
		name  string
		bare  bool
		steps []step
	}
	var runs []run
	subjects = slices.DeleteFunc(slices.Clone(subjects), func(s Subject) bool { return s.Takes != nil && !s.Takes(m) })
	all := modes(m, rand.New(rand.NewPCG(seed, 1)))
	skipped := -1 // of the runs, in their order
	if turns := len(all) * len(subjects); len(all) > 1 && len(subjects) > 1 {
		skipped = int(seed % uint64(turns))
	}
	for i, mode := range all {
		first := -1 // of this mode
		for j, s := range subjects {
			if i*len(subjects)+j == skipped {
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

// steps compiles a module and its lender, instantiates them and calls their
// exports, those of the lender last. There is always the same number of steps
// for a module.
func steps(ctx context.Context, e engines.WasmEngine, m *Module, wasm []byte, opts engines.CompileOptions, seed uint64) ([]step, error) {
	r := rand.New(rand.NewPCG(seed, 2))
	list := make([]step, 2, 32)
	w := new(world)
	defer w.close()
	var borrowed map[string]engines.Instance
	if m.Lender != nil {
		p, first, err := w.add(ctx, e, m.Lender, m.Lender.Bytes(), opts, nil)
		list[0] = first
		if p == nil {
			return list, err
		}
		borrowed = map[string]engines.Instance{lender: p.inst}
	}
	p, first, err := w.add(ctx, e, m, wasm, opts, borrowed)
	list[1] = first
	if p == nil {
		return list, err
	}
	for _, p := range slices.Backward(w.parts) {
		list = append(list, w.callAll(ctx, p, &generator{r: r})...)
	}
	return list, nil
}

// callAll calls the exports of a part.
func (w *world) callAll(ctx context.Context, p *part, g *generator) (list []step) {
	for i, f := range p.m.Funcs {
		if !f.Export {
			continue
		}
		t := p.m.Types[f.Type]
		for range callsPerExport {
			stack := make([]uint64, t.Slots())
			for i, param := range t.Params {
				stack[i] = g.bits(param)
			}
			list = append(list, w.call(ctx, p, fmt.Sprint("f", len(p.m.Imports)+i), t, stack))
		}
	}
	return list
}

// world is what there is of a module and its lender, and what the host saw of them.
type world struct {
	parts []*part
	// called is the one that is called from outside, nil while it is made. Host
	// functions call that back, not another: in a worker, the two would run on
	// threads of their own.
	called *part
	trace  strings.Builder
	back   bool // a host function has called back
	page   [engines.PageSize]byte
}

// part is an instance of a module.
type part struct {
	m    *Module
	mod  engines.Module
	inst engines.Instance
}

// add makes an instance. It is nil if that cannot be made, which is an error if
// the module was not compiled.
func (w *world) add(ctx context.Context, e engines.WasmEngine, m *Module, wasm []byte, opts engines.CompileOptions, lenders map[string]engines.Instance) (*part, step, error) {
	mod, err := e.Compile(ctx, wasm, opts)
	if err != nil {
		return nil, step{}, err
	}
	w.trace.Reset()
	imports := engines.Imports{Host: map[string]*engines.HostModule{host: w.functions(m)}, Instances: lenders}
	inst, err := mod.Instantiate(ctx, imports)
	if err != nil {
		failed := step{seen: fmt.Sprintf("instantiate: %s, %s", outcome(err), w.trace.String()), limited: limited(err)}
		return nil, failed, mod.Close()
	}
	p := &part{m, mod, inst}
	w.parts = append(w.parts, p)
	return p, w.step(p, "instantiate", nil, nil, nil), nil
}

func (w *world) close() {
	for _, p := range slices.Backward(w.parts) {
		_ = p.inst.Close()
		_ = p.mod.Close()
	}
}

func (w *world) call(ctx context.Context, p *part, export string, t engines.FuncType, stack []uint64) step {
	w.trace.Reset()
	w.called, w.back = p, false
	arguments := fmt.Sprintf("%#x", stack[:len(t.Params)])
	f, err := p.inst.Func(export)
	if err == nil {
		err = p.inst.Global(fmt.Sprint("g", gasGlobal)).Set(gas)
	}
	if err == nil {
		err = f.Call(ctx, stack)
	}
	return w.step(p, export+" "+arguments, t.Results, stack, err)
}

// seedOfHash makes hashes of memories comparable within a process.
var seedOfHash = maphash.MakeSeed()

// step is what can be seen after a call of a part.
func (w *world) step(p *part, what string, results []engines.ValueType, stack []uint64, err error) step {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", what, outcome(err))
	if err == nil {
		for i, t := range results {
			fmt.Fprintf(&b, " %#x", oneNaN(t, stack[i]))
		}
	}
	for _, p := range w.parts {
		b.WriteString(", globals")
		for i, g := range p.m.Globals {
			if g.export {
				fmt.Fprintf(&b, " %#x", oneNaN(g.Value, p.inst.Global(fmt.Sprint("g", i)).Get()))
			}
		}
		memory := p.inst.Memory("memory")
		fmt.Fprintf(&b, ", memory %d %x", memory.Size(), w.hash(memory))
	}
	fmt.Fprint(&b, ", host calls", w.trace.String())
	s := step{seen: b.String(), limited: limited(err), ok: err == nil}
	if meter, ok := p.inst.(engines.FuelMeter); ok {
		s.fuel = meter.FuelUsed()
	}
	return s
}

// hash is one of all that a memory has.
func (w *world) hash(memory engines.Memory) uint64 {
	var h maphash.Hash
	h.SetSeed(seedOfHash)
	for offset := uint64(0); offset < memory.Size(); offset += engines.PageSize {
		if !memory.Read(offset, w.page[:]) {
			return 0
		}
		h.Write(w.page[:])
	}
	return h.Sum64()
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

// functions are the host's for a module. What they do and return follows from
// their arguments alone.
func (w *world) functions(m *Module) *engines.HostModule {
	functions := new(engines.HostModule)
	for i, im := range m.Imports {
		if im.module != host {
			continue
		}
		t := m.Types[im.typ]
		functions.Functions = append(functions.Functions, engines.HostFunction{
			Name: im.name, Type: t,
			Call: func(ctx context.Context, caller engines.Caller, stack []uint64) error {
				return w.hostCall(ctx, caller, i, t, stack)
			},
		})
	}
	return functions
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

// callBack calls the last function of what was called, once a call.
func (w *world) callBack(ctx context.Context) error {
	p := w.called
	if p == nil || w.back {
		return nil
	}
	w.back = true
	last := len(p.m.Funcs) - 1
	t := p.m.Types[p.m.Funcs[last].Type]
	f, err := p.inst.Func(fmt.Sprint("f", len(p.m.Imports)+last))
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
