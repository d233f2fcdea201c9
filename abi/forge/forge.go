// Package forge is the host's side of forge/1, ForgeOne's own ABI for WASM
// guests: bytes in, bytes out, and one import by which a guest asks for
// effects. Every one of them goes through the gate of the call that the guest
// serves. docs/abi.md is the ABI itself, for who writes a guest library.
//
// A [Binding] is made once for a module that was loaded and serves all its
// instances. An instance is started ([Binding.Start]) and then called, any
// number of times, each time on behalf of an [abi.Call] that the gate began.
package forge

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// ModuleName is the import module of the ABI.
const ModuleName = "forge"

// Version is the highest version the host speaks, major<<16 | minor.
const Version uint32 = 1 << 16

// Limits of the ABI, in bytes. What a guest hands over beyond them ends it.
const (
	MaxInput   = 64 << 20 // of a call
	MaxOutput  = 64 << 20 // of a call
	MaxRequest = 64 << 10 // of an encoded syscall request
	MaxName    = 256      // of a syscall's name
	MaxPayload = 16 << 20 // of a syscall
	MaxResult  = 16 << 20 // of a syscall; an effect that yields more has failed
	MaxMessage = 64 << 10 // of a function's error; longer ones are cut
)

// SeedSize is how many bytes of entropy a guest is given by [Binding.Reseed].
const SeedSize = 32

// Event is a moment in a plugin's life that a guest may export a function for.
type Event string

// The lifecycle events. [Binding.Start] runs Init.
const (
	Init   Event = "init"
	Begin  Event = "start"
	Pause  Event = "pause"
	Resume Event = "resume"
	Stop   Event = "stop"
	Unload Event = "unload"
)

// export is the name of the event's function.
func (e Event) export() string { return prefix + string(e) }

// Names of exports.
const (
	prefix     = "forge_" // of what the ABI reserves
	negotiate  = prefix + "abi"
	reseed     = prefix + "reseed"
	memory     = "memory"
	initialize = "_initialize"
	start      = "_start"
)

var (
	typeProc     = engines.FuncType{}
	typeEvent    = engines.FuncType{Results: []engines.ValueType{engines.I32}}
	typeFunction = engines.FuncType{Params: []engines.ValueType{engines.I32}, Results: []engines.ValueType{engines.I32}}
)

// reserved are the functions that the host calls by name, with their types.
// The rest of what begins with the prefix is for later minor versions, which a
// guest may already export.
var reserved = map[string]engines.FuncType{
	negotiate:       typeFunction,
	reseed:          typeFunction,
	initialize:      typeProc,
	Init.export():   typeEvent,
	Begin.export():  typeEvent,
	Pause.export():  typeEvent,
	Resume.export(): typeEvent,
	Stop.export():   typeEvent,
	Unload.export(): typeEvent,
}

// Detect reports whether a module is meant for this ABI: it exports forge_abi
// or imports from the module "forge". [Check] says whether it keeps to it.
func Detect(m engines.Module) bool {
	return slices.ContainsFunc(m.Exports(), func(e engines.ExportType) bool { return e.Name == negotiate }) ||
		slices.ContainsFunc(m.Imports(), func(i engines.ImportType) bool { return i.Module == ModuleName })
}

// Check is nil, or an *[ABIError] with all that keeps the module from being a
// guest of this ABI.
func Check(m engines.Module) error {
	var problems []string
	report := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	exports := exportsOf(m)
	if e, ok := exports[memory]; !ok {
		report("it must export its memory as %q", memory)
	} else if e.Kind != engines.KindMemory {
		report("export %q is a %s, it must be the memory", memory, e.Kind)
	}
	if _, ok := exports[negotiate]; !ok {
		report("it must export %q, a func %s", negotiate, typeFunction)
	}
	for _, name := range slices.Sorted(maps.Keys(reserved)) {
		if e, ok := exports[name]; ok && !isFunc(e, reserved[name]) {
			report("export %q is a %s, it must be a func %s", name, describe(e), reserved[name])
		}
	}
	_, command := exports[start]
	if _, reactor := exports[initialize]; command && !reactor {
		report("it exports %q without %q: it is a command; build a reactor (Go: -buildmode=c-shared)", start, initialize)
	}

	for _, im := range m.Imports() {
		name := im.Module + "." + im.Name
		host, ok := hostModules[im.Module]
		if !ok {
			report("it imports %s, but a guest may import from %q and %q alone", name, ModuleName, wasi.ModuleName)
			continue
		}
		i := slices.IndexFunc(host.Functions, func(f engines.HostFunction) bool { return f.Name == im.Name })
		switch {
		case i < 0:
			report("it imports %s, which does not exist", name)
		case !isFunc(im.Type, host.Functions[i].Type):
			report("it imports %s as a %s, it is a func %s", name, describe(im.Type), host.Functions[i].Type)
		}
	}
	if problems != nil {
		return &ABIError{ABI: "forge/1", Problems: problems}
	}
	return nil
}

// Functions lists what a user may call, in name order: the exports of type
// (i32) -> (i32) whose name begins with neither "forge_" nor "_".
func Functions(m engines.Module) []string {
	var names []string
	for _, e := range m.Exports() {
		if isFunc(e.Type, typeFunction) && !strings.HasPrefix(e.Name, prefix) && !strings.HasPrefix(e.Name, "_") {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names
}

func exportsOf(m engines.Module) map[string]engines.ExternType {
	exports := make(map[string]engines.ExternType)
	for _, e := range m.Exports() {
		exports[e.Name] = e.Type
	}
	return exports
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
