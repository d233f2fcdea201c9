// Package extism is the host's side of Extism's ABI, so that plugins which were
// built with any of Extism's PDKs run unchanged, under policy
// (https://extism.org/docs/concepts/pdk).
//
// A plugin exports functions without parameters. It reads its input and writes
// its output by functions of the import module "extism:host/env": most of them
// move bytes into and out of a memory that plugin and host share, a few ask for
// effects. The memory is a module of ForgeOne's own, memory.wasm, of which each
// instance of a plugin is linked to one: what is not an effect stays within the
// sandbox, under the same limits as the plugin. An effect goes through the gate
// of the call that the plugin serves:
//
//	log_trace … log_error   log_write; what is denied is not logged
//	get_log_level           off for a plugin that is not granted log_write
//	http_request            http_request; a denial ends the call
//	config_get              the plugin's own configuration, which is no effect
//	var_get, var_set        variables of the instance, at most [MaxVars] bytes; no effect either
//
// WASI is that of package wasi. Functions of the module "extism:host/user" are
// the embedder's own: each is a syscall that it registers ([HostFunction]).
//
// Loads from the shared memory outside of what is allocated yield 0 and stores
// there do nothing, as in Extism's own. Blocks of one call are gone at the next.
package extism

import (
	"fmt"
	"slices"
	"strings"

	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// Import modules of the ABI.
const (
	ModuleName = "extism:host/env"
	UserModule = "extism:host/user"
)

// Limits of the ABI, in bytes.
const (
	MaxInput   = 64 << 20 // of a call
	MaxOutput  = 64 << 20 // of a call
	MaxMessage = 64 << 10 // of a function's error; longer ones are cut
	MaxVars    = 1 << 20  // names and values of an instance's variables, as Extism has it
	MaxBody    = 16 << 20 // of an HTTP request
)

// Errors that the ABIs of guests share.
type (
	// ABIError is a module that does not keep to the ABI, or a request to one
	// that does not.
	ABIError = guest.ABIError
	// FunctionError is a failure that a guest reported of its own accord, by
	// error_set, by the status it returned or by the code it exited with, or an
	// effect that it was denied and cannot go on without. It can be called again.
	FunctionError = guest.FunctionError
	// LimitError is something larger than the ABI lets pass.
	LimitError = guest.LimitError
)

func abiErrorf(format string, args ...any) *ABIError {
	return &ABIError{ABI: "extism", Problems: []string{fmt.Sprintf(format, args...)}}
}

// Names of exports.
const (
	start          = "_start" // of a command
	initialize     = "_initialize"
	constructors   = "__wasm_call_ctors"
	haskellInit    = "hs_init"
	asyncifyPrefix = "asyncify_" // of what TinyGo exports beside
)

var (
	typeProc        = engines.FuncType{}
	typeHaskellInit = engines.FuncType{Params: guest.Types("ii")}
)

// env are the functions of [ModuleName]: parameters and results, where an "i" is
// an i32 and an "I" an i64.
var env = map[string][2]string{
	"alloc":            {"I", "I"},
	"config_get":       {"I", "I"},
	"error_get":        {"", "I"},
	"error_set":        {"I", ""},
	"free":             {"I", ""},
	"get_log_level":    {"", "i"},
	"http_headers":     {"", "I"},
	"http_request":     {"II", "I"},
	"http_status_code": {"", "i"},
	"input_length":     {"", "I"},
	"input_load_u64":   {"I", "I"},
	"input_load_u8":    {"I", "i"},
	"input_offset":     {"", "I"},
	"input_set":        {"II", ""},
	"length":           {"I", "I"},
	"length_unsafe":    {"I", "I"},
	"load_u64":         {"I", "I"},
	"load_u8":          {"I", "i"},
	"log_debug":        {"I", ""},
	"log_error":        {"I", ""},
	"log_info":         {"I", ""},
	"log_trace":        {"I", ""},
	"log_warn":         {"I", ""},
	"memory_bytes":     {"", "I"},
	"output_length":    {"", "I"},
	"output_offset":    {"", "I"},
	"output_set":       {"II", ""},
	"reset":            {"", ""},
	"store_u64":        {"II", ""},
	"store_u8":         {"Ii", ""},
	"var_get":          {"I", "I"},
	"var_set":          {"II", ""},
}

// syscalls are those that the effects of [ModuleName] lead to.
var syscalls = map[string]string{
	"log_trace":    "log_write",
	"log_debug":    "log_write",
	"log_info":     "log_write",
	"log_warn":     "log_write",
	"log_error":    "log_write",
	"http_request": "http_request",
}

// Syscall is the syscall that a function of [ModuleName] leads to, empty for one
// that has no effect.
func Syscall(function string) string { return syscalls[function] }

// Detect reports whether a module is meant for this ABI: it imports from one of
// its modules. [Check] says whether it keeps to it.
func Detect(m engines.Module) bool {
	return slices.ContainsFunc(m.Imports(), func(i engines.ImportType) bool { return i.Module == ModuleName || i.Module == UserModule })
}

// Check is nil, or an *[ABIError] with all that keeps the module from being a
// plugin of this ABI, on a host with functions of its own.
func Check(m engines.Module, own ...HostFunction) error {
	var problems []string
	report := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, im := range m.Imports() {
		name := im.Module + "." + im.Name
		if h := find(own, im); h != nil {
			if err := h.checkImport(im.Type); err != nil {
				report("it imports %s %v", name, err)
			}
			continue
		}
		var want engines.FuncType
		switch im.Module {
		case ModuleName:
			sig, ok := env[im.Name]
			if !ok {
				report("it imports %s, which does not exist", name)
				continue
			}
			want = engines.FuncType{Params: guest.Types(sig[0]), Results: guest.Types(sig[1])}
		case wasi.ModuleName:
			functions := wasi.HostModule().Functions
			i := slices.IndexFunc(functions, func(f engines.HostFunction) bool { return f.Name == im.Name })
			if i < 0 {
				report("it imports %s, which does not exist", name)
				continue
			}
			want = functions[i].Type
		case UserModule:
			report("it imports %s, a host function of an embedder's own, and this host has none of that name", name)
			continue
		default:
			report("it imports %s, but a plugin may import from %q and %q alone", name, ModuleName, wasi.ModuleName)
			continue
		}
		if !isFunc(im.Type, want) {
			report("it imports %s as a %s, it is a func %s", name, describe(im.Type), want)
		}
	}
	for _, e := range m.Exports() {
		if want, ok := initialisers[e.Name]; ok && (e.Type.Kind != engines.KindFunc || !slices.Equal(e.Type.Func.Params, want.Params)) {
			report("export %q is a %s, it must be a func %s", e.Name, describe(e.Type), want)
		}
	}
	if problems != nil {
		return &ABIError{ABI: "extism", Problems: problems}
	}
	return nil
}

// initialisers are the exports that the host calls by name. Their results are of
// no account.
var initialisers = map[string]engines.FuncType{
	initialize:   typeProc,
	constructors: typeProc,
	haskellInit:  typeHaskellInit,
}

// Functions lists what a user may call, in name order: the exports that take no
// parameters and have one result at most, but for those whose name begins with
// "_", of which _start alone is listed, and those that a compiler adds.
func Functions(m engines.Module) []string {
	var names []string
	for _, e := range m.Exports() {
		if callable(e.Type) && (e.Name == start || !strings.HasPrefix(e.Name, "_") && !strings.HasPrefix(e.Name, asyncifyPrefix)) {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names
}

// callable reports whether an export is a function as the ABI has them.
func callable(t engines.ExternType) bool {
	return t.Kind == engines.KindFunc && len(t.Func.Params) == 0 && len(t.Func.Results) <= 1
}

func isFunc(t engines.ExternType, f engines.FuncType) bool {
	return t.Kind == engines.KindFunc && t.Func.Equal(f)
}

func describe(t engines.ExternType) string {
	if t.Kind == engines.KindFunc {
		return "func " + t.Func.String()
	}
	return t.Kind.String()
}
