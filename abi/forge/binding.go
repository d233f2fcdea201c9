package forge

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/engines"
)

// Binding joins a module to this ABI. It is made once for a module, not changed
// after that, and safe for concurrent use by different instances.
type Binding struct {
	exports   map[string]engines.ExternType
	functions []string // in name order
}

// New makes the binding of a module. Errors: those of [Check].
func New(m engines.Module) (*Binding, error) {
	if err := Check(m); err != nil {
		return nil, err
	}
	return &Binding{exports: exportsOf(m), functions: Functions(m)}, nil
}

// HostModules are what instances of the module are linked to, the same for each
// of them. They are not to be changed.
func (b *Binding) HostModules() map[string]*engines.HostModule { return maps.Clone(hostModules) }

// Functions are the functions that can be called, in name order.
func (b *Binding) Functions() []string { return slices.Clone(b.functions) }

// Instantiate makes an instance of m, the module that the binding was made for,
// and starts it. What a start function of the module does is done on behalf of
// the call. On an error nothing is left behind. Errors: *[engines.LinkError],
// and those of [Binding.Start].
func (b *Binding) Instantiate(call *abi.Call, m engines.Module) (engines.Instance, error) {
	var inst engines.Instance
	err := execute(call, "instantiation", &execution{}, func(ctx context.Context) (err error) {
		inst, err = m.Instantiate(ctx, engines.Imports{Host: hostModules})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := b.Start(call, inst); err != nil {
		return nil, errors.Join(err, inst.Close())
	}
	return inst, nil
}

// Start makes a new instance ready for calls: it runs _initialize if there is
// one, agrees on a version and runs forge_init if there is one. An instance
// that could not be started is not to be used.
//
// Errors: *[ABIError] that names both versions when they do not agree,
// *[FunctionError] when forge_init failed, and how else a guest ends, as
// [Binding.Call] has it.
func (b *Binding) Start(call *abi.Call, inst engines.Instance) error {
	if _, ok := b.exports[initialize]; ok {
		if err := run(call, inst, initialize, &execution{}, nil); err != nil {
			return err
		}
	}
	stack := []uint64{uint64(Version)}
	if err := run(call, inst, negotiate, &execution{}, stack); err != nil {
		return err
	}
	switch v := uint32(stack[0]); {
	case v == 0:
		return abiErrorf("the host speaks %s, the guest refused it (it answered 0): build it with an SDK of that major version", version(Version))
	case v>>16 != Version>>16 || v > Version:
		return abiErrorf("the host speaks %s, the guest answered %s: it must be of the same major version and not above the host's", version(Version), version(v))
	}
	return b.Lifecycle(call, inst, Init)
}

// Call runs a function of a started instance and returns its output, which is
// the caller's own.
//
// Errors: *[ABIError] when there is no such function, *[LimitError] when the
// input is too large, *[FunctionError] when the function reported a failure:
// the instance can be called again. After any other it must be closed: one that
// unwraps to *[abi.DeniedError] when its container was quarantined or stopped,
// to *[engines.Trap] or *[engines.HostError] when the guest ended otherwise,
// with what it had been denied in the message.
func (b *Binding) Call(call *abi.Call, inst engines.Instance, function string, input []byte) ([]byte, error) {
	if _, ok := slices.BinarySearch(b.functions, function); !ok {
		return nil, b.noFunction(function)
	}
	if len(input) > MaxInput {
		return nil, &LimitError{What: "input", Limit: MaxInput, Got: uint64(len(input))}
	}
	x := &execution{input: input}
	if err := runStatus(call, inst, function, x, []uint64{uint64(len(input))}); err != nil {
		return nil, err
	}
	return x.output, nil
}

// Lifecycle tells an instance of an event. It does nothing if the guest has no
// function for it. Errors: as [Binding.Call].
func (b *Binding) Lifecycle(call *abi.Call, inst engines.Instance, event Event) error {
	name := event.export()
	if t, ok := reserved[name]; !ok || !t.Equal(typeEvent) {
		return abiErrorf("%q is not a lifecycle event", string(event))
	}
	if !b.Exports(event) {
		return nil
	}
	return runStatus(call, inst, name, &execution{}, make([]uint64, 1))
}

// Reseed tells an instance that began as a copy of another, and so with the same
// numbers to come from every generator of its own, of fresh entropy. It comes
// before whatever the instance is to do, and does nothing if the guest has no
// function for it. Errors: as [Binding.Call].
func (b *Binding) Reseed(call *abi.Call, inst engines.Instance) error {
	if _, ok := b.exports[reseed]; !ok {
		return nil
	}
	var seed [SeedSize]byte
	_, _ = rand.Read(seed[:]) // crypto/rand.Read never fails since Go 1.24
	return runStatus(call, inst, reseed, &execution{input: seed[:]}, []uint64{SeedSize})
}

// Exports reports whether the guest has a function for an event.
func (b *Binding) Exports(event Event) bool {
	_, ok := b.exports[event.export()]
	return ok
}

// noFunction says why a function cannot be called, and what can.
func (b *Binding) noFunction(name string) error {
	why := "is not exported"
	if e, ok := b.exports[name]; ok {
		why = "is a " + describe(e) + " and not a function of this ABI, which is a func " + typeFunction.String()
		if isFunc(e, typeFunction) {
			why = "is reserved for the host"
		}
	}
	have := "none"
	if len(b.functions) > 0 {
		have = strings.Join(b.functions, ", ")
	}
	return abiErrorf("function %q %s; functions: %s", name, why, have)
}

// runStatus runs a function that returns a status, and makes an error of one
// that is not 0 or comes with a failure.
func runStatus(call *abi.Call, inst engines.Instance, name string, x *execution, stack []uint64) error {
	if err := run(call, inst, name, x, stack); err != nil {
		return err
	}
	status := int32(uint32(stack[0]))
	if x.failed == nil && status == 0 {
		return nil
	}
	if x.failed == nil {
		x.failed = &FunctionError{Code: status}
	}
	x.failed.Function = name
	return x.failed
}

// run runs an exported function on behalf of a call.
func run(call *abi.Call, inst engines.Instance, name string, x *execution, stack []uint64) error {
	f, err := inst.Func(name)
	if err != nil {
		return err
	}
	return execute(call, name, x, func(ctx context.Context) error { return f.Call(ctx, stack) })
}

// execute lets a guest run with the context that its imports need.
func execute(call *abi.Call, what string, x *execution, guestRuns func(context.Context) error) error {
	return guest.Run(call, what, func(ctx context.Context) error {
		return guestRuns(context.WithValue(ctx, executionKey{}, x))
	})
}
