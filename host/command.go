package host

import (
	"context"
	"errors"
	"fmt"

	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// Start is the one function of a WASI command, which is called with no input
// and ends its instance.
const Start = "_start"

// usesWASI reports whether a module imports preview 1.
func usesWASI(m engines.Module) bool {
	for _, im := range m.Imports() {
		if im.Module == wasi.ModuleName {
			return true
		}
	}
	return false
}

// process is what the instance of a plugin finds when it starts.
func (c *PluginConfig) process() *wasi.Config {
	p := &wasi.Config{Args: c.Args, Env: c.Env, Terminals: c.Terminals}
	for _, m := range c.Mounts {
		p.Preopens = append(p.Preopens, m.Guest)
	}
	if len(p.Args) == 0 {
		p.Args = []string{c.Name}
	}
	return p
}

// serving is the context of a call, with what preview 1 keeps for the instance
// that serves it: as long as the instance lives, so for the call alone where
// each has its own.
func (r *running) serving(ctx context.Context) context.Context {
	switch {
	case r.art.code == nil || !r.art.code.wasi:
		return ctx
	case r.process != nil:
		return wasi.WithProcess(ctx, r.process)
	}
	return wasi.WithProcess(ctx, wasi.NewProcess(r.art.process))
}

// exited is what a plugin's exit is to who called it: nothing to speak of for
// that of a command with code 0, and else a failure of the function.
func (c *code) exited(plugin, function string, err error) error {
	exit, ok := errors.AsType[*wasi.ExitError](err)
	switch {
	case !ok:
		return err
	case exit.Code == 0 && c.abi == ABIWASI:
		return nil
	}
	return &FunctionError{Plugin: plugin, Function: function, Code: int32(exit.Code), Message: fmt.Sprintf("it exited with code %d", exit.Code)} //nolint:gosec // the bits are the code
}
