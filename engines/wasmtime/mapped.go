//go:build wasmtime

package wasmtime

// #include "shim.h"
import "C"

import (
	"os"
	"unsafe"

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
	return i.overlay.Map(memory, file, size)
}

// ResetMemory implements [engines.MemoryMapper].
func (i *instance) ResetMemory(name string) error {
	memory, err := i.mappable(name)
	if err != nil {
		return err
	}
	return i.overlay.Reset(memory)
}

// mappable is all of the exported memory of that name, which is good until i is
// closed. Wasmtime reserves 4 GiB for each memory, in which it grows, and gives
// them back as a whole, whatever lies there.
func (i *instance) mappable(name string) ([]byte, error) {
	if i.closed.Load() {
		return nil, engines.ErrClosed
	}
	if err := mapping.Check(i.module.mapped, i.module.iface.Imports, i.module.exports, name); err != nil {
		return nil, err
	}
	mem := i.lookupMemory(name) // the check before found it
	data := C.wasmtime_memory_data(i.store.context, &mem.upstream)
	return unsafe.Slice((*byte)(data), mem.Size()), nil
}
