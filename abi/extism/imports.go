package extism

import (
	"context"
	"errors"
	"fmt"
	"math"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// execution is what the imports of an instance read and write. Only the
// goroutine that runs the guest touches it.
type execution struct {
	memory *memory
	config map[string]string
	vars   map[string][]byte
	used   int // bytes of vars

	// Of the call.
	failed  *FunctionError // why the plugin was ended, if the host did
	status  int            // of the latest HTTP response; 0 for none
	headers []byte         // of the latest HTTP response, as JSON
	result  []byte         // of the latest effect

	stack [1]uint64 // of the function, reused from one call to the next
}

type executionKey struct{}

// begin forgets the call before.
func (x *execution) begin() {
	x.failed, x.status, x.headers, x.result = nil, 0, nil, nil
}

// errEnded ends a guest. Why stands in execution.failed.
var errEnded = errors.New("the host ended the plugin")

// end ends the guest, as a failure of its function.
func (x *execution) end(format string, args ...any) error {
	x.failed = &FunctionError{Code: 1, Message: fmt.Sprintf(format, args...)}
	return errEnded
}

// failure is how a function failed.
func (x *execution) failure(function string, err error) error {
	if failed, ok := errors.AsType[*FunctionError](err); ok {
		return failed
	}
	if x.failed != nil && errors.Is(err, errEnded) {
		x.failed.Function = function
		return x.failed
	}
	return err
}

// hostModules are what the plugins of a module are linked to beside their
// memories.
func hostModules(m engines.Module, own []HostFunction) map[string]*engines.HostModule {
	modules := map[string]*engines.HostModule{wasi.ModuleName: wasi.HostModule()}
	linked := map[string]bool{}
	for _, im := range m.Imports() {
		h := find(own, im)
		if h == nil || linked[im.Module+"\x00"+im.Name] {
			continue
		}
		linked[im.Module+"\x00"+im.Name] = true
		if modules[im.Module] == nil {
			modules[im.Module] = &engines.HostModule{}
		}
		modules[im.Module].Functions = append(modules[im.Module].Functions, h.link(im.Type.Func))
	}
	return modules
}

// memoryImports are what memories are linked to. What they are given are ranges
// of the memory that calls; it has found them to be blocks. They hold no state
// of their own: all of it is in the context of the guest's call.
var memoryImports = engines.Imports{Host: map[string]*engines.HostModule{
	"host": {Functions: []engines.HostFunction{
		function("result", (*execution).importResult, "I", ""),
		function("config_get", (*execution).importConfigGet, "II", "I"),
		function("var_get", (*execution).importVarGet, "II", "I"),
		function("var_set", (*execution).importVarSet, "IIII", ""),
		function("http_request", (*execution).importHTTPRequest, "IIII", "I"),
		function("http_status_code", (*execution).importHTTPStatusCode, "", "i"),
		function("http_headers", (*execution).importHTTPHeaders, "", "I"),
		function("log", (*execution).importLog, "iII", ""),
		function("get_log_level", (*execution).importGetLogLevel, "", "i"),
	}},
}}

// function makes a host function of a method. In params and results an "i" is
// an i32 and an "I" an i64.
func function(name string, method func(*execution, context.Context, engines.Memory, []uint64) error, params, results string) engines.HostFunction {
	return engines.HostFunction{
		Name: name,
		Type: engines.FuncType{Params: guest.Types(params), Results: guest.Types(results)},
		Call: func(ctx context.Context, caller engines.Caller, stack []uint64) error {
			x, ok := ctx.Value(executionKey{}).(*execution)
			if !ok {
				return guest.ErrNoCall
			}
			return method(x, ctx, caller.Memory(), stack)
		},
	}
}

// read copies n bytes of a block. There is none where n is 0, whatever the address
// is; else they lie in the memory, which has less than 4 GiB.
func read(mem engines.Memory, at, n uint64) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	return guest.Read(mem, uint32(at), uint32(n), nil)
}

// give keeps a result and returns its length: the memory then asks for it.
func (x *execution) give(stack []uint64, result []byte) error {
	if len(result) > MaxOutput {
		return x.end("a result of %d bytes is above the limit of %d", len(result), MaxOutput)
	}
	x.result = result
	stack[0] = uint64(len(result))
	return nil
}

// importResult is result(at). There is no room where at is 0.
func (x *execution) importResult(_ context.Context, mem engines.Memory, stack []uint64) error {
	if stack[0] == 0 {
		return x.end("there is no room in the plugin's memory for a result of %d bytes; raise its memory limit", len(x.result))
	}
	return guest.Write(mem, uint32(stack[0]), x.result)
}

// importConfigGet is config_get(name, n) -> length.
func (x *execution) importConfigGet(_ context.Context, mem engines.Memory, stack []uint64) error {
	name, err := read(mem, stack[0], stack[1])
	if err != nil {
		return err
	}
	return x.give(stack, []byte(x.config[string(name)]))
}

// importVarGet is var_get(name, n) -> length.
func (x *execution) importVarGet(_ context.Context, mem engines.Memory, stack []uint64) error {
	name, err := read(mem, stack[0], stack[1])
	if err != nil {
		return err
	}
	return x.give(stack, x.vars[string(name)])
}

// importVarSet is var_set(name, n, value, n); a value at 0 removes the variable.
func (x *execution) importVarSet(_ context.Context, mem engines.Memory, stack []uint64) error {
	text, err := read(mem, stack[0], stack[1])
	if err != nil {
		return err
	}
	name, used := string(text), x.used
	if old, ok := x.vars[name]; ok {
		used -= varSize(name, len(old))
	}
	if stack[2] == 0 {
		delete(x.vars, name)
		x.used = used
		return nil
	}
	if used += varSize(name, int(stack[3])); used > MaxVars {
		return x.end("var_set: variables of %d bytes are above the limit of %d", used, MaxVars)
	}
	value, err := read(mem, stack[2], stack[3])
	if err != nil {
		return err
	}
	x.vars[name], x.used = value, used
	return nil
}

// varSize is what a variable counts for: its name, its value, and what it takes
// to keep them.
func varSize(name string, value int) int { return 40 + len(name) + value }

// levels are those of a log, by their number in the ABI.
var levels = []string{"trace", "debug", "info", "warn", "error"}

// importLog is log(level, message, n). A plugin cannot learn whether it was
// logged.
func (x *execution) importLog(ctx context.Context, mem engines.Memory, stack []uint64) error {
	message, err := read(mem, stack[1], min(stack[2], MaxMessage))
	if err != nil {
		return err
	}
	_, err = guest.Syscall(ctx, "log_write", []string{levels[stack[0]], string(message)}, 0, nil)
	return err
}

// importGetLogLevel is get_log_level() -> level. A plugin that may not log need
// not try.
func (x *execution) importGetLogLevel(ctx context.Context, _ engines.Memory, stack []uint64) error {
	call := abi.CallFrom(ctx)
	if call == nil {
		return guest.ErrNoCall
	}
	stack[0] = 0
	if !call.Subject().Capabilities.Syscall("log_write") {
		stack[0] = math.MaxInt32
	}
	return nil
}
