// Package mapping gives linear memories addresses that do not move, and lays
// files over them: a page is the file's until it is written to, and again after
// a reset, which costs what was written and not what is there.
//
// Both work on address space that the garbage collector knows nothing of. Who
// reserves a range frees it; who holds a slice of one does not use it after.
package mapping

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"forgeone.dev/forgeone/engines"
)

// Refuse is the error of an engine for options that need what this system lacks,
// nil for others.
func Refuse(engine string, opts engines.CompileOptions) error {
	if Supported || !opts.MappedMemory {
		return nil
	}
	return &engines.UnsupportedError{Engine: engine, Feature: "MappedMemory", Reason: "it needs Linux or macOS, and this is " + runtime.GOOS}
}

// Check is the error for a memory of that name that cannot be mapped whatever the
// engine, nil if it can: asked says whether the module's options have
// MappedMemory, and its imports and exports are given.
func Check(asked bool, imports []engines.ImportType, exports map[string]engines.ExternType, name string) error {
	if !asked {
		return errors.New("map memory: the module was compiled without the option MappedMemory")
	}
	t, ok := exports[name]
	switch {
	case !ok:
		return &engines.ExportError{Name: name, Reason: "the module exports nothing of that name"}
	case t.Kind != engines.KindMemory:
		return &engines.ExportError{Name: name, Reason: fmt.Sprintf("it is a %s, not a memory", t.Kind)}
	}
	for _, im := range imports {
		if im.Type.Kind == engines.KindMemory { // a module has one memory at most
			return &engines.ExportError{Name: name, Reason: "it is imported; map it with the instance that lends it"}
		}
	}
	return nil
}

// Overlay is a file that lies over the first bytes of a memory. The zero value
// is none. It is used by one goroutine at a time.
type Overlay struct {
	base    *byte // of the memory, to tell when it has moved
	size    uint64
	backing backing
}

// Map makes the first size bytes of memory those of the file, privately: what is
// written to them is not written to the file, which must not change while it is
// mapped. It takes the place of what was mapped before. memory is all of the
// memory, and begins with a page of the system's. The caller calls Close.
//
// Errors say which condition of [engines.MemoryMapper] is not met; memory is
// then as it was.
func (o *Overlay) Map(memory []byte, file *os.File, size uint64) error {
	if err := check(memory, file, size); err != nil {
		return fmt.Errorf("map memory: %w", err)
	}
	if size == 0 {
		return nil
	}
	backing, err := lay(memory[:size], file)
	if err != nil {
		return fmt.Errorf("map memory: %s: %w", file.Name(), err)
	}
	o.backing.close()
	*o = Overlay{base: unsafe.SliceData(memory), size: size, backing: backing}
	return nil
}

func check(memory []byte, file *os.File, size uint64) error {
	switch {
	case size%engines.PageSize != 0:
		return fmt.Errorf("%d bytes are not a multiple of a page, which has %d", size, engines.PageSize)
	case size > uint64(len(memory)):
		return fmt.Errorf("%d bytes are asked for, and the memory has %d; grow it first", size, len(memory))
	}
	info, err := file.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", file.Name())
	case uint64(info.Size()) < size:
		return fmt.Errorf("%s has %d bytes, and %d are asked for", file.Name(), info.Size(), size)
	}
	return nil
}

// errMoved is an engine's memory that has grown to another place, where it is a
// copy and no mapping.
var errMoved = errors.New("reset memory: the memory has moved since it was mapped; make a new instance")

// Reset gives up what was written to the mapped bytes; without any it does
// nothing. memory is as for [Overlay.Map].
func (o *Overlay) Reset(memory []byte) error {
	if o.size == 0 {
		return nil
	}
	if unsafe.SliceData(memory) != o.base || uint64(len(memory)) < o.size {
		return errMoved
	}
	if err := o.backing.reset(memory[:o.size]); err != nil {
		return fmt.Errorf("reset memory: %w", err)
	}
	return nil
}

// Close forgets what was mapped. It does not touch the memory, which may be gone.
func (o *Overlay) Close() {
	o.backing.close()
	*o = Overlay{}
}
