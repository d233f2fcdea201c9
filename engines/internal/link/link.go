// Package link is what every engine adapter does alike with imports: it checks
// them before the engine sees them, so that each engine refuses the same with
// the same words, and calls host functions so that a panic becomes an error.
package link

import (
	"context"
	"fmt"

	"forgeone.dev/forgeone/engines"
)

// Lender says what an instance exports, by name, or in refusal why it cannot
// lend its exports.
type Lender func(engines.Instance) (exports map[string]engines.ExternType, refusal string)

// Check verifies that given holds something of the right type for each import
// in wanted. The limits of tables and memories are left to the engine: they may
// have grown.
//
// Errors: *[engines.LinkError].
func Check(wanted []engines.ImportType, given engines.Imports, lender Lender) error {
	for i := range wanted {
		im := &wanted[i]
		if reason := check(im, given, lender); reason != "" {
			return &engines.LinkError{Module: im.Module, Name: im.Name, Reason: reason}
		}
	}
	return nil
}

func check(im *engines.ImportType, given engines.Imports, lender Lender) (reason string) {
	host, isHost := given.Host[im.Module]
	inst, isLent := given.Instances[im.Module]
	var t engines.ExternType
	switch {
	case isHost && isLent:
		return "the module is given both as host functions and as an instance"
	case isHost:
		fn := Function(host, im.Name)
		if fn == nil {
			return "the host offers no such function"
		}
		t = engines.ExternType{Kind: engines.KindFunc, Func: fn.Type}
	case isLent:
		exports, refusal := lender(inst)
		if refusal != "" {
			return refusal
		}
		var ok bool
		if t, ok = exports[im.Name]; !ok {
			return "the lending instance has no such export"
		}
	default:
		return "nothing is given for the module"
	}
	switch {
	case t.Kind != im.Type.Kind:
		return fmt.Sprintf("the guest wants a %s and is given a %s", im.Type.Kind, t.Kind)
	case t.Kind == engines.KindFunc && !t.Func.Equal(im.Type.Func):
		return fmt.Sprintf("the guest wants %s and is given %s", im.Type.Func, t.Func)
	case t.Kind == engines.KindGlobal && t.Global != im.Type.Global:
		return fmt.Sprintf("the guest wants %+v and is given %+v", im.Type.Global, t.Global)
	}
	return ""
}

// Function is the function of that name in hm, nil if there is none or no hm.
func Function(hm *engines.HostModule, name string) *engines.HostFunction {
	if hm == nil {
		return nil
	}
	for i := range hm.Functions {
		if hm.Functions[i].Name == name {
			return &hm.Functions[i]
		}
	}
	return nil
}

// Call calls fn and returns a panic of it as an error.
func Call(ctx context.Context, fn *engines.HostFunction, caller engines.Caller, stack []uint64) (err error) {
	returned := false
	defer func() {
		if returned {
			return // recover is not free, and this is the way of every call
		}
		if r := recover(); r != nil {
			err = engines.Panicked(r)
		}
	}()
	err = fn.Call(ctx, caller, stack)
	returned = true
	return err
}

// Exports indexes a module's exports by name.
func Exports(list []engines.ExportType) map[string]engines.ExternType {
	exports := make(map[string]engines.ExternType, len(list))
	for _, ex := range list {
		exports[ex.Name] = ex.Type
	}
	return exports
}
