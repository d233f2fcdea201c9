package builtins

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/host"
)

// CompileCommand is the command of this program, with the name of an engine after
// it, that calls [Compile]: compilers are this program, run again.
const CompileCommand = "compile"

// Guarded is the engine as a kernel has it: metered, with modules compiled in
// processes of their own, and the code kept, as the configuration says.
func (e Engine) Guarded(c cache.Config, logger hclog.Logger) host.NewEngine {
	if e.Worker != "" {
		return inWorker(e.Name, e.Worker, c, logger)
	}
	return func() (engines.WasmEngine, error) {
		inner, err := e.Bare()
		if err != nil {
			return nil, err
		}
		guarded, err := cache.Wrap(inner, cache.Options{Config: c, Compiler: cache.NewCompiler(c, CompileCommand, e.Name), Logger: logger})
		if err != nil {
			return nil, errors.Join(err, inner.Close())
		}
		return meter.Wrap(guarded, meter.Limits{}), nil
	}
}

// Compile makes this process the compiler of an engine that is linked in.
func Compile(name string, in io.Reader, out io.Writer) error {
	linked := Engines()
	i := slices.IndexFunc(linked, func(e Engine) bool { return e.Name == name })
	if i < 0 {
		return fmt.Errorf("engine %q is not linked into this binary", name)
	}
	return cache.RunCompiler(linked[i].Bare, in, out)
}
