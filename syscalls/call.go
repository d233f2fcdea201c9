package syscalls

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of plugin_call.
const (
	MaxCallDepth   = 8        // calls of plugins inside one another, by plugin_call
	MaxCallPayload = 16 << 20 // bytes of the input of one
)

// codeDeadlock is Linux's EDEADLK.
const codeDeadlock = 35

// CallPlugin calls a function of a loaded plugin, by the plugin's name alone,
// as that plugin: what the function does is decided about it and not about the
// caller. Errors: *[abi.SyscallError] for what the caller may know of.
type CallPlugin func(ctx context.Context, plugin, function string, input []byte) ([]byte, error)

func calls(call CallPlugin) []abi.Registration {
	return []abi.Registration{{
		Name: "plugin_call", Args: []string{"plugin", "function"}, MinTrust: capability.Standard, World: true,
		Doc: fmt.Sprintf("Call a function of another plugin with the payload, at most %d bytes, and return what it returns. It runs as the other plugin, and no longer than the call that asked for it. "+
			"Calls are nested at most %d deep; a plugin that is not pristine cannot be called again from a call of its own.", MaxCallPayload, MaxCallDepth),
		Resolve: func(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
			for _, name := range sc.Args {
				if name == "" || len(name) > MaxObjectName || strings.ContainsAny(name, "/:*") {
					return abi.Resolution{}, fmt.Errorf("name %.64q: want 1 to %d bytes without / : and *", name, MaxObjectName)
				}
				if err := plain(name); err != nil {
					return abi.Resolution{}, fmt.Errorf("name %.64q: %w", name, err)
				}
			}
			return resource("api://" + sc.Args[0] + "/" + sc.Args[1]), nil
		},
		Handler: func(ctx context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			if call == nil {
				return nil, abi.Fail(abi.CodeUnsupported, "there are no other plugins here")
			}
			if err := tooLarge("payload", len(sc.Payload), MaxCallPayload); err != nil {
				return nil, err
			}
			callers, err := callersOf(sc)
			if err != nil {
				return nil, err
			}
			// The other guest's context has nothing of the caller's but its end,
			// which is not the other guest's fault.
			inner, cancel := context.WithCancelCause(context.WithValue(context.Background(), callersKey{}, callers))
			defer cancel(nil)
			defer context.AfterFunc(ctx, func() { cancel(errCallerEnded) })()
			out, err := call(inner, sc.Args[0], sc.Args[1], sc.Payload)
			if err != nil && ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return out, err
		},
	}}
}

var errCallerEnded = errors.New("the call that asked for it ended")

// caller is a plugin that waits for another.
type caller struct {
	plugin   string
	pristine bool // a further call of it has an instance of its own
}

// callersKey is the key of the callers in a context: of who waits for the call
// that the context is of, the first first.
type callersKey struct{}

// callersOf are who will wait for a call that is asked for.
func callersOf(sc *abi.SyscallContext) ([]caller, error) {
	if sc.Call == nil {
		return nil, abi.Fail(abi.CodeInvalid, "a plugin calls another from a call of its own, so that the depth of calls is known")
	}
	before, _ := sc.Call.Context().Value(callersKey{}).([]caller)
	callers := append(slices.Clip(before), caller{sc.Plugin, sc.CallHandles})
	if len(callers) > MaxCallDepth {
		return nil, abi.Fail(codeLoop, "plugins call one another more than %d deep", MaxCallDepth)
	}
	if slices.Contains(callers, caller{plugin: sc.Args[0]}) {
		return nil, abi.Fail(codeDeadlock, "plugin %s waits for this call, and its state is one: it cannot be called again before it ends", sc.Args[0])
	}
	return callers, nil
}
