package extism

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// HostFunction is a function of the embedder's own that plugins import: a
// syscall, which the embedder registers, and which is granted, decided and
// recorded like any other. What keeps it from being done ends the call, with the
// reason as its error.
type HostFunction struct {
	Module  string // that plugins import it from; empty means [UserModule]
	Name    string // that plugins import it by
	Syscall string
	Params  []Kind
	Result  Kind // None if there is none
}

// Kind is what a parameter or result of a host function stands for. In the
// module it is an i64, or an i32 for a number.
type Kind uint8

// Kinds.
const (
	None   Kind = iota
	Number      // a signed number: an argument of the syscall, or its result, in decimal
	Text        // a block: an argument of the syscall, as it is
	Bytes       // a block: the payload of the syscall, or its result
)

// fits reports whether a value of a module may be of the kind.
func (k Kind) fits(t engines.ValueType) bool {
	return k != None && (t == engines.I64 || k == Number && t == engines.I32)
}

// find is the host function that an import asks for, nil if there is none. The
// modules of the ABI itself have none.
func find(own []HostFunction, im engines.ImportType) *HostFunction {
	if im.Module == ModuleName || im.Module == wasi.ModuleName {
		return nil
	}
	i := slices.IndexFunc(own, func(h HostFunction) bool {
		return h.Name == im.Name && cmp.Or(h.Module, UserModule) == im.Module
	})
	if i < 0 {
		return nil
	}
	return &own[i]
}

// checkImport is what is wrong with how a module imports the function.
func (h *HostFunction) checkImport(t engines.ExternType) error {
	if t.Kind != engines.KindFunc || !slices.EqualFunc(h.Params, t.Func.Params, Kind.fits) {
		return fmt.Errorf("as a %s, and its parameters are not those", describe(t))
	}
	if h.Result == None && len(t.Func.Results) == 0 {
		return nil
	}
	if h.Result == Text || len(t.Func.Results) != 1 || !h.Result.fits(t.Func.Results[0]) {
		return fmt.Errorf("as a %s, and its result is not that", describe(t))
	}
	return nil
}

// link makes a host function of the type that a module imports.
func (h *HostFunction) link(t engines.FuncType) engines.HostFunction {
	return engines.HostFunction{
		Name: h.Name, Type: t,
		Call: func(ctx context.Context, _ engines.Caller, stack []uint64) error {
			x, ok := ctx.Value(executionKey{}).(*execution)
			if !ok {
				return guest.ErrNoCall
			}
			return x.carryOut(ctx, h, t, stack)
		},
	}
}

// carryOut does what a host function is for.
func (x *execution) carryOut(ctx context.Context, h *HostFunction, t engines.FuncType, stack []uint64) error {
	var args []string
	var payload []byte
	for i, k := range h.Params {
		if k == Number {
			args = append(args, strconv.FormatInt(signed(t.Params[i], stack[i]), 10))
			continue
		}
		block, err := x.memory.block(ctx, stack[i])
		if err != nil {
			return err
		}
		if k == Text {
			args = append(args, string(block))
		} else {
			payload = block
		}
	}
	res, err := guest.Syscall(ctx, h.Syscall, args, 0, payload)
	if err != nil {
		return err
	}
	if err := res.Error(); err != nil {
		return x.end("%s: %v", h.Name, err)
	}
	switch h.Result {
	case Number:
		n, err := strconv.ParseInt(string(res.Data), 10, 64)
		if err != nil {
			return fmt.Errorf("the result of %s is %.64q, and no number: %w", h.Syscall, res.Data, err)
		}
		stack[0] = uint64(n)
		if t.Results[0] == engines.I32 {
			stack[0] = uint64(uint32(n))
		}
	case Bytes:
		if stack[0], err = x.memory.give(ctx, res.Data); err == nil && stack[0] == 0 && len(res.Data) > 0 {
			return x.end("%s: there is no room in the plugin's memory for a result of %d bytes; raise its memory limit", h.Name, len(res.Data))
		}
	}
	return err
}

func signed(t engines.ValueType, word uint64) int64 {
	if t == engines.I32 {
		return int64(int32(uint32(word)))
	}
	return int64(word)
}
