package host

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/extism"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// ABI is how a plugin is spoken to.
type ABI string

// ABIs.
const (
	ABIForge  ABI = "forge/1" // bytes in, bytes out, syscalls: abi/forge
	ABIExtism ABI = "extism"  // bytes in, bytes out, as Extism's PDKs build it: abi/extism
	ABIWASI   ABI = "wasi"    // a WASI command: abi/wasi
	ABICore   ABI = "core"    // plain numeric exports
	ABINative ABI = "native"  // a go-plugin process
)

// detectABI says how a module is spoken to, or why it cannot be.
func detectABI(m engines.Module) (ABI, error) {
	if forge.Detect(m) {
		return ABIForge, nil
	}
	if extism.Detect(m) {
		return ABIExtism, nil
	}
	for _, ex := range m.Exports() {
		if ex.Name == Start {
			return ABIWASI, nil
		}
	}
	return ABICore, nil
}

// code is a compiled module with what it is linked to.
type code struct {
	engine  engines.WasmEngine
	module  engines.Module
	abi     ABI
	binding *forge.Binding  // forge/1 only
	extism  *extism.Binding // Extism only
	imports engines.Imports // of all but Extism's
	timeout time.Duration   // of a call; 0 for none

	wasi      bool // it imports preview 1
	snapshots bool // the engine can capture instances

	memories []string // exported
}

// compile compiles a module under limits. A timeout that the engine cannot hold
// is refused if it was asked for, and else not in force. Of the options that are
// wished for, Interruptible and Snapshots, it gets what the engine can do: calls
// then end with their context, timeout or not, and instances can be captured.
// want says how it is to be spoken to.
func (k *kernel) compile(ctx context.Context, e engines.WasmEngine, wasm []byte, l Limits, want speech, wish engines.CompileOptions) (*code, error) {
	c := &code{engine: e, timeout: DefaultExecutionTimeout, imports: coreImports}
	asked := true
	switch {
	case l.Timeout != 0:
		c.timeout = l.Timeout
	case k.timeout != 0:
		c.timeout = k.timeout
	default:
		asked = false
	}
	info := e.Info()
	if c.timeout == NoTimeout || (!asked && !info.Interrupt) {
		c.timeout = 0
	}
	if c.timeout != 0 && !info.Interrupt {
		return nil, &engines.UnsupportedError{Engine: info.Name, Feature: "a timeout", Reason: "it cannot interrupt a guest; wrap it with meter.Wrap, or leave the timeout out"}
	}
	if l.Fuel != 0 && !info.Metering {
		return nil, &engines.UnsupportedError{Engine: info.Name, Feature: "a fuel limit", Reason: "it does not count instructions; wrap it with meter.Wrap, or limit the time"}
	}
	if l.CallDepth != 0 && !info.Metering {
		return nil, &engines.UnsupportedError{Engine: info.Name, Feature: "a call depth", Reason: "it does not count calls; wrap it with meter.Wrap, or leave it to its stack"}
	}
	memory := l.Memory
	if memory != 0 && memory < engines.PageSize {
		return nil, fmt.Errorf("a memory limit of %d bytes is less than a page of %d", memory, engines.PageSize)
	}
	if memory == 0 && info.MemoryLimit {
		memory = k.memory
	}
	c.snapshots = wish.Snapshots && info.Snapshots
	opts := engines.CompileOptions{
		MemoryLimitPages: uint32(min(memory/engines.PageSize, 65535)), //nolint:gosec // bounded
		Interruptible:    c.timeout != 0 || (wish.Interruptible && info.Interrupt),
		Snapshots:        c.snapshots,
		Fuel:             l.Fuel,
		CallDepth:        l.CallDepth,
	}
	m, err := e.Compile(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	c.module, c.wasi = m, usesWASI(m)
	for _, ex := range m.Exports() {
		if ex.Type.Kind == engines.KindMemory {
			c.memories = append(c.memories, ex.Name)
		}
	}
	if err := c.bind(ctx, opts, want); err != nil {
		_ = m.Close()
		return nil, err
	}
	return c, nil
}

// speech is how a module is to be spoken to.
type speech struct {
	abi    ABI // empty for what the module shows
	extism extism.Config
}

// bind finds how the module is spoken to.
func (c *code) bind(ctx context.Context, opts engines.CompileOptions, want speech) (err error) {
	if c.abi = want.abi; c.abi != ABIExtism { // of whose plugins some import nothing that shows it
		if c.abi, err = detectABI(c.module); err != nil {
			return err
		}
	}
	switch {
	case want.abi != "" && want.abi != c.abi:
		return fmt.Errorf("the ABI is to be %s, and this module's is %s", want.abi, c.abi)
	case len(want.extism.Values) > 0 && c.abi != ABIExtism:
		return fmt.Errorf("config is for Extism plugins, which read it by config_get, and this is %s", c.abi)
	}
	switch c.abi {
	case ABIForge:
		if c.binding, err = forge.New(c.module); err == nil {
			c.imports = engines.Imports{Host: c.binding.HostModules()}
		}
	case ABIExtism:
		c.extism, err = extism.New(ctx, c.engine, opts, c.module, want.extism)
	}
	return err
}

// close frees the code once there are no instances of it.
func (c *code) close() error {
	err := c.module.Close()
	if c.extism != nil {
		err = errors.Join(err, c.extism.Close())
	}
	return err
}

// coreImports is what a module without an ABI is linked to: the WASI that
// language runtimes need, each call of it a syscall like any other.
var coreImports = engines.Imports{Host: map[string]*engines.HostModule{wasi.ModuleName: wasi.HostModule()}}

// instantiate makes an instance within a call: what its start function and
// its initialisation ask for is asked on behalf of the call.
func (c *code) instantiate(call *abi.Call) (*instance, error) {
	switch c.abi {
	case ABIForge:
		inst, err := c.binding.Instantiate(call, c.module)
		if err != nil {
			return nil, err
		}
		return remembering(inst), nil
	case ABIExtism:
		inst, err := c.extism.Instantiate(call)
		if err != nil {
			return nil, err
		}
		return remembering(inst), nil
	}
	ctx := abi.WithCall(call.Context(), call)
	inst, err := c.module.Instantiate(ctx, c.imports)
	if err != nil {
		return nil, err
	}
	if f, err := inst.Func("_initialize"); err == nil {
		if err := f.Call(ctx, make([]uint64, f.Type().Slots())); err != nil {
			return nil, errors.Join(err, inst.Close())
		}
	}
	return remembering(inst), nil
}

// reseed gives an instance that began as a copy of another its own entropy.
func (c *code) reseed(call *abi.Call, inst *instance) error {
	if c.abi != ABIForge {
		return nil
	}
	return c.binding.Reseed(call, inst)
}

// alive reports whether an instance is there to be called, and not lost with the
// process that its engine runs in. One that exports no memory is supposed to be.
func (c *code) alive(inst *instance) bool {
	return len(c.memories) == 0 || inst.Memory(c.memories[0]) != nil
}

// exports reports whether the guest has a function for a lifecycle event.
func (c *code) exports(event forge.Event) bool { return c.abi == ABIForge && c.binding.Exports(event) }

// instance remembers what was looked up in it: an engine may make at each
// look-up what a call needs, and that can cost more than the call.
type instance struct {
	engines.Instance
	funcs map[string]engines.Func
}

func remembering(inst engines.Instance) *instance {
	return &instance{Instance: inst, funcs: map[string]engines.Func{}}
}

// plain is the instance as the ABI's binding made it.
func plain(inst engines.Instance) engines.Instance {
	if i, ok := inst.(*instance); ok {
		return i.Instance
	}
	return inst
}

// Func implements engines.Instance.
func (i *instance) Func(name string) (engines.Func, error) {
	if f, ok := i.funcs[name]; ok {
		return f, nil
	}
	f, err := i.Instance.Func(name)
	if err == nil {
		i.funcs[name] = f
	}
	return f, err
}

// functions lists what can be called.
func (c *code) functions() []string {
	switch c.abi {
	case ABIForge:
		return c.binding.Functions()
	case ABIExtism:
		return c.extism.Functions()
	}
	if c.abi == ABIWASI {
		return []string{Start}
	}
	var names []string
	for _, ex := range c.module.Exports() {
		if ex.Type.Kind == engines.KindFunc && !strings.HasPrefix(ex.Name, "_") {
			names = append(names, ex.Name)
		}
	}
	return names
}

// call calls a function of an instance with bytes. A plain export takes its
// arguments as decimal numbers separated by white space, and answers likewise.
func (c *code) call(call *abi.Call, inst engines.Instance, function string, input []byte) ([]byte, error) {
	switch c.abi {
	case ABIForge:
		return c.binding.Call(call, inst, function, input)
	case ABIExtism:
		return c.extism.Call(call, plain(inst).(*extism.Instance), function, input)
	}
	if c.abi == ABIWASI {
		if function != Start || len(input) > 0 {
			return nil, fmt.Errorf("a WASI command has the one function %s, without input: its arguments are configured, and it reads standard input", Start)
		}
		f, err := inst.Func(function)
		if err != nil {
			return nil, err
		}
		return nil, f.Call(abi.WithCall(call.Context(), call), nil)
	}
	f, err := inst.Func(function)
	if err != nil {
		return nil, fmt.Errorf("%w; the module exports %v", err, c.functions())
	}
	args, err := ParseArgs(f.Type(), strings.Fields(string(input)))
	if err != nil {
		return nil, fmt.Errorf("function %q: %w", function, err)
	}
	results, err := callValues(abi.WithCall(call.Context(), call), f, args)
	if err != nil {
		return nil, err
	}
	words := make([]string, len(results))
	for i, v := range results {
		words[i] = v.String()
	}
	return []byte(strings.Join(words, " ")), nil
}

// callValues calls a function with typed values.
func callValues(ctx context.Context, f engines.Func, args []engines.Value) ([]engines.Value, error) {
	t := f.Type()
	if len(args) != len(t.Params) {
		return nil, fmt.Errorf("takes %d arguments %s, got %d", len(t.Params), t, len(args))
	}
	stack := make([]uint64, t.Slots())
	for i, a := range args {
		if a.Type != t.Params[i] {
			return nil, fmt.Errorf("argument %d is %s, want %s", i, a.Type, t.Params[i])
		}
		stack[i] = a.Bits
	}
	for _, ts := range [][]engines.ValueType{t.Params, t.Results} {
		for _, vt := range ts {
			if vt == engines.V128 || vt == engines.FuncRef || vt == engines.ExternRef {
				return nil, fmt.Errorf("its type %s has %s, which cannot be passed as a number", t, vt)
			}
		}
	}
	if err := f.Call(ctx, stack); err != nil {
		return nil, err
	}
	results := make([]engines.Value, len(t.Results))
	for i, vt := range t.Results {
		results[i] = engines.Value{Type: vt, Bits: stack[i]}
	}
	return results, nil
}

// ParseArgs reads decimal (or 0x…) numbers as the parameters of a type. An
// integer may be given signed or unsigned.
func ParseArgs(t engines.FuncType, args []string) ([]engines.Value, error) {
	if len(args) != len(t.Params) {
		return nil, fmt.Errorf("takes %d arguments %s, got %d", len(t.Params), t, len(args))
	}
	out := make([]engines.Value, len(args))
	for i, s := range args {
		v, err := parseValue(t.Params[i], s)
		if err != nil {
			return nil, fmt.Errorf("argument %d: %w", i, err)
		}
		out[i] = v
	}
	return out, nil
}

func parseValue(t engines.ValueType, s string) (engines.Value, error) {
	bits := 64
	switch t {
	case engines.I32:
		bits = 32
		fallthrough
	case engines.I64:
		if n, err := strconv.ParseInt(s, 0, bits); err == nil {
			if bits == 32 {
				return engines.ValueI32(int32(n)), nil
			}
			return engines.ValueI64(n), nil
		}
		n, err := strconv.ParseUint(s, 0, bits)
		if err != nil {
			return engines.Value{}, fmt.Errorf("%q is not an %s", s, t)
		}
		return engines.Value{Type: t, Bits: n}, nil
	case engines.F32:
		f, err := strconv.ParseFloat(s, 32)
		if err != nil {
			return engines.Value{}, fmt.Errorf("%q is not an f32", s)
		}
		return engines.ValueF32(float32(f)), nil
	case engines.F64:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return engines.Value{}, fmt.Errorf("%q is not an f64", s)
		}
		return engines.ValueF64(f), nil
	}
	return engines.Value{}, fmt.Errorf("a %s cannot be given as a number", t)
}

// wasmUnit runs a WASM plugin.
type wasmUnit struct {
	plugin    string
	code      *code
	instances instances
}

// instances gives each call the instance that it is to have.
type instances interface {
	// with runs f on an instance that is f's alone meanwhile.
	with(call *abi.Call, f func(engines.Instance) error) error
	// stop frees all instances, after what runs on them.
	stop() error
}

// startWasm brings a WASM plugin up, through its initialisation.
func startWasm(call *abi.Call, r *running) (*wasmUnit, error) {
	u := &wasmUnit{plugin: r.plugin.name, code: r.art.code}
	var err error
	if r.art.cfg.State == StateKeep {
		u.instances, err = newKept(call, u.code)
	} else {
		u.instances, err = newPool(call, r)
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (u *wasmUnit) call(call *abi.Call, function string, input []byte) (out []byte, err error) {
	err = u.instances.with(call, func(inst engines.Instance) (err error) {
		out, err = u.code.call(call, inst, function, input)
		return err
	})
	return out, u.code.exited(u.plugin, function, err)
}

func (u *wasmUnit) event(call *abi.Call, name forge.Event) error {
	if name == forge.Init || !u.code.exports(name) { // init is part of bringing an instance up
		return nil
	}
	return u.instances.with(call, func(inst engines.Instance) error { return u.code.binding.Lifecycle(call, inst, name) })
}

func (u *wasmUnit) functions() []string { return u.code.functions() }

func (u *wasmUnit) stop(context.Context) error { return u.instances.stop() }

// kill leaves the guest to its cancelled calls: a WASM instance ends with them.
func (u *wasmUnit) kill() error { return nil }

func (u *wasmUnit) exited() <-chan struct{} { return nil }

// kept is the one instance of a plugin that keeps its state.
type kept struct {
	inst   *instance
	turn   semaphore // it serves one call at a time, whose is broken
	broken error     // why it serves no more
}

func newKept(call *abi.Call, c *code) (*kept, error) {
	inst, err := c.instantiate(call)
	if err != nil {
		return nil, err
	}
	return &kept{inst: inst, turn: newSemaphore(1)}, nil
}

func (k *kept) with(call *abi.Call, f func(engines.Instance) error) error {
	if err := k.turn.acquire(call.Context()); err != nil {
		return &unreachedError{fmt.Errorf("waiting for the call before to end: %w", err)}
	}
	defer k.turn.release()
	if k.broken != nil {
		return k.broken
	}
	err := f(k.inst)
	if trapped(err) {
		k.broken = fmt.Errorf("the plugin's kept instance ended with an earlier call (%w); stop and start the plugin", err)
	}
	return err
}

func (k *kept) stop() error {
	_ = k.turn.acquire(context.Background())
	defer k.turn.release()
	k.broken = ErrClosed
	return k.inst.Close()
}

// trapped reports whether the guest ended abnormally, so that its memory
// cannot be trusted.
func trapped(err error) bool {
	var t *engines.Trap
	var h *engines.HostError
	return errors.As(err, &t) || errors.As(err, &h)
}
