//go:build wasmer

package wasmer

import (
	"os"
	"runtime"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/mapping"
)

var _ engines.MemoryMapper = (*instance)(nil)

// MapMemory implements [engines.MemoryMapper].
func (i *instance) MapMemory(name string, file *os.File, size uint64) error {
	memory, err := i.mappable(name)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(i)
	return i.overlay.Map(memory, file, size)
}

// ResetMemory implements [engines.MemoryMapper].
func (i *instance) ResetMemory(name string) error {
	memory, err := i.mappable(name)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(i)
	return i.overlay.Reset(memory)
}

// mappable is all of the exported memory of that name, which is good while i is
// open. Wasmer reserves 4 GiB for each memory on a 64-bit system, in which it
// grows (wasmer-compiler's BaseTunables), and gives them back as a whole, whatever
// lies there. On another it would be seen to have moved when it is reset.
func (i *instance) mappable(name string) ([]byte, error) {
	if i.closed.Load() {
		return nil, engines.ErrClosed
	}
	if err := mapping.Check(i.module.mapped, i.module.iface.Imports, i.module.exports, name); err != nil {
		return nil, err
	}
	mem, err := i.upstream.Exports.GetMemory(name)
	if err != nil {
		return nil, &engines.ExportError{Name: name, Reason: err.Error()}
	}
	return mem.Data(), nil
}
