package extism

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// Config is what a plugin finds. It is not to be changed while a binding has it.
type Config struct {
	Values        map[string]string // by config_get
	WASI          *wasi.Config      // by WASI; nil for nothing
	HostFunctions []HostFunction    // of the embedder's own
}

// Binding joins a module to this ABI. It is made once for a module, not changed
// after that, and safe for concurrent use by different instances.
type Binding struct {
	module    engines.Module
	memory    engines.Module
	config    Config
	hosts     map[string]*engines.HostModule
	exports   map[string]engines.FuncType // that can be called, or are initialisers
	functions []string                    // in name order
}

// New makes the binding of a module that the engine compiled with the given
// options, by which the memory that goes with each instance is compiled too: it
// is under the same limits, each by itself. The binding is to be closed before
// the engine; it does not close the module.
//
// Errors: those of [Check], and of [engines.WasmEngine.Compile].
func New(ctx context.Context, e engines.WasmEngine, opts engines.CompileOptions, m engines.Module, config Config) (*Binding, error) {
	if err := Check(m, config.HostFunctions...); err != nil {
		return nil, err
	}
	b := &Binding{
		module: m, config: config, hosts: hostModules(m, config.HostFunctions),
		exports: map[string]engines.FuncType{}, functions: Functions(m),
	}
	for _, ex := range m.Exports() {
		_, init := initialisers[ex.Name]
		if init || callable(ex.Type) {
			b.exports[ex.Name] = ex.Type.Func
		}
	}
	var err error
	if b.memory, err = e.Compile(ctx, memoryWasm, opts); err != nil {
		return nil, fmt.Errorf("the memory of an Extism plugin: %w", err)
	}
	return b, nil
}

// Close frees what the binding compiled. Instances are to be closed before.
func (b *Binding) Close() error { return b.memory.Close() }

// Functions are the functions that can be called, in name order.
func (b *Binding) Functions() []string { return slices.Clone(b.functions) }

// Instance is one running copy of a plugin with its memory and its variables. As
// an [engines.Instance] it shows what the plugin exports.
type Instance struct {
	plugin    engines.Instance // nil if it ended with its function
	functions map[string]engines.Func
	config    *wasi.Config
	process   *wasi.Process // of the plugin

	hosts map[string]*engines.HostModule
	x     execution
}

// Func implements [engines.Instance].
func (i *Instance) Func(name string) (engines.Func, error) {
	if i.plugin == nil {
		return nil, engines.ErrClosed
	}
	if f, ok := i.functions[name]; ok {
		return f, nil
	}
	f, err := i.plugin.Func(name)
	if err == nil {
		i.functions[name] = f
	}
	return f, err
}

// Memory implements [engines.Instance].
func (i *Instance) Memory(name string) engines.Memory {
	if i.plugin == nil {
		return nil
	}
	return i.plugin.Memory(name)
}

// Global implements [engines.Instance].
func (i *Instance) Global(name string) engines.Global {
	if i.plugin == nil {
		return nil
	}
	return i.plugin.Global(name)
}

// Close implements [engines.Instance].
func (i *Instance) Close() error {
	return errors.Join(i.retire(), i.x.memory.inst.Close())
}

// retire closes the plugin of an instance, which can be renewed.
func (i *Instance) retire() error {
	plugin := i.plugin
	if plugin == nil {
		return nil
	}
	i.plugin, i.process = nil, wasi.NewProcess(i.config)
	clear(i.functions)
	return plugin.Close()
}

// Instantiate makes an instance and initialises its language's runtime, on
// behalf of the call: it runs hs_init, after _initialize if there is one, else
// _initialize, else __wasm_call_ctors. On an error nothing is left behind.
// Errors: *[engines.LinkError], and how else a guest ends, as [Binding.Call] has
// it.
func (b *Binding) Instantiate(call *abi.Call) (*Instance, error) {
	var inst *Instance
	err := guest.Run(call, "instantiation", func(ctx context.Context) (err error) {
		if inst, err = b.newInstance(ctx); err != nil {
			return err
		}
		if err = b.renew(inst.in(ctx), inst); err != nil {
			return errors.Join(inst.x.failure("instantiation", err), inst.x.memory.inst.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return inst, nil
}

// newInstance makes an instance that has a memory, and no plugin yet.
func (b *Binding) newInstance(ctx context.Context) (*Instance, error) {
	memory, err := newMemory(ctx, b.memory)
	if err != nil {
		return nil, err
	}
	return &Instance{
		functions: map[string]engines.Func{}, config: b.config.WASI, process: wasi.NewProcess(b.config.WASI), hosts: b.hosts,
		x: execution{memory: memory, config: b.config.Values, vars: map[string][]byte{}},
	}, nil
}

// in is the context that the imports of an instance need.
func (i *Instance) in(ctx context.Context) context.Context {
	return wasi.WithProcess(context.WithValue(ctx, executionKey{}, &i.x), i.process)
}

// imports are what the plugin of an instance is linked to.
func (i *Instance) imports() engines.Imports {
	return engines.Imports{Host: i.hosts, Instances: map[string]engines.Instance{ModuleName: i.x.memory.inst}}
}

// renew gives an instance a plugin that has not run yet, and initialises it.
func (b *Binding) renew(ctx context.Context, inst *Instance) error {
	plugin, err := b.module.Instantiate(ctx, inst.imports())
	if err != nil {
		return err
	}
	inst.plugin = plugin
	for _, name := range b.initialisers() {
		f, err := inst.Func(name)
		if err == nil {
			err = f.Call(ctx, make([]uint64, f.Type().Slots()))
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", name, err), inst.retire())
		}
	}
	return nil
}

// initialisers are what is to be called before anything else, in that order.
func (b *Binding) initialisers() []string {
	has := func(name string) bool { _, ok := b.exports[name]; return ok }
	switch {
	case has(haskellInit) && has(initialize):
		return []string{initialize, haskellInit}
	case has(haskellInit):
		return []string{haskellInit}
	case has(initialize):
		return []string{initialize}
	case has(constructors):
		return []string{constructors}
	}
	return nil
}

// Call runs a function of an instance and returns its output, which is the
// caller's own. A plugin that exited, that ran _start, or that was denied what
// it could not go on without, is made anew for the next call; the variables
// stay.
//
// Errors: *[ABIError] when there is no such function, *[LimitError] when the
// input or output is too large, *[FunctionError] when the function reported a
// failure: the instance can be called again. After any other it must be closed:
// one that unwraps to *[abi.DeniedError] when its container was quarantined or
// stopped, to *[engines.Trap] or *[engines.HostError] when the guest ended
// otherwise, with what it had been denied in the message.
func (b *Binding) Call(call *abi.Call, inst *Instance, function string, input []byte) ([]byte, error) {
	if t, ok := b.exports[function]; !ok || len(t.Params) > 0 {
		return nil, b.noFunction(function)
	}
	if len(input) > MaxInput {
		return nil, &LimitError{What: "input", Limit: MaxInput, Got: uint64(len(input))}
	}
	var output []byte
	err := guest.Run(call, function, func(ctx context.Context) (err error) {
		output, err = b.serve(inst.in(ctx), inst, function, input)
		return err
	})
	if err != nil {
		return nil, inst.x.failure(function, err)
	}
	return output, nil
}

// serve runs a function from its input to its output.
func (b *Binding) serve(ctx context.Context, inst *Instance, function string, input []byte) ([]byte, error) {
	x := &inst.x
	x.begin()
	if inst.plugin == nil {
		if err := b.renew(ctx, inst); err != nil {
			return nil, err
		}
	}
	f, err := inst.Func(function)
	if err != nil {
		return nil, err
	}
	if err := x.memory.input(ctx, input); err != nil {
		return nil, err
	}

	x.stack[0] = 0 // the status of a function that returns none
	err = f.Call(ctx, x.stack[:])
	status := int32(uint32(x.stack[0]))
	exit, exited := errors.AsType[*wasi.ExitError](err)
	if exited {
		status, err = int32(exit.Code), nil
	}
	if exited || x.failed != nil || function == start {
		// What is left of it is not to be run again.
		err = errors.Join(err, inst.retire())
	}
	if err != nil {
		return nil, err
	}
	output, message, failed, err := x.memory.outcome(ctx)
	if err == nil && (failed || status != 0) {
		return nil, &FunctionError{Function: function, Code: status, Message: message}
	}
	return output, err
}

// noFunction says why a function cannot be called, and what can.
func (b *Binding) noFunction(name string) error {
	have := "none"
	if len(b.functions) > 0 {
		have = strings.Join(b.functions, ", ")
	}
	return abiErrorf("function %q is not exported as a func without parameters and with one result at most; functions: %s", name, have)
}
