package wazero

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"

	"github.com/tetratelabs/wazero/experimental"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/mapping"
)

var _ engines.MemoryMapper = (*instance)(nil)

// allocator gives wazero the memory of the one instance that is being made.
type allocator struct{ memory linearMemory }

func (a allocator) Allocate(_, _ uint64) experimental.LinearMemory { return a.memory }

// withoutAllocator is a context that may come from a start function, whose
// instance's allocator it hides: host functions make instances too.
type withoutAllocator struct{ context.Context }

func (c withoutAllocator) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(allocator); ok {
		return nil
	}
	return v
}

// linearMemory is a memory that can be mapped, as wazero sees it.
type linearMemory struct{ reserved *mapping.Reservation }

func (l linearMemory) Reallocate(size uint64) []byte { return l.reserved.Commit(size) }

// Free does nothing: wazero frees a memory with each instance that has it, be it
// as an import, and does not look whether functions of a closed one are in the
// table of another. It is freed with its company. What wazero makes of it when
// it grows the memory of an instance that still has it is a copy.
func (linearMemory) Free() {}

// mappedMemory is what an instance has besides when its module was compiled with
// MappedMemory.
type mappedMemory struct {
	reserved *mapping.Reservation // nil if it exports no memory of its own
	overlay  mapping.Overlay
	company  *company
}

// prepare makes what an instance of m has besides, nil without MappedMemory, and
// the context in which wazero uses it. The caller gives it up with leave.
func (m *module) prepare(ctx context.Context, imports engines.Imports) (context.Context, *mappedMemory, error) {
	if !m.rt.opts.MappedMemory {
		return withoutAllocator{ctx}, nil, nil
	}
	reserved, err := m.reserve()
	if err != nil {
		return ctx, nil, err
	}
	c, err := m.rt.companies.join(m.company(imports), reserved)
	if err != nil {
		return ctx, nil, err
	}
	mapped := &mappedMemory{reserved: reserved, company: c}
	if reserved == nil {
		return withoutAllocator{ctx}, mapped, nil
	}
	return experimental.WithMemoryAllocator(ctx, allocator{linearMemory{reserved}}), mapped, nil
}

// reserve reserves the addresses of the memory that m exports, and commits what
// it begins with: wazero cannot be told that there is none. It returns nil if m
// exports no memory of its own.
func (m *module) reserve() (*mapping.Reservation, error) {
	for _, memory := range m.compiled.ExportedMemories() {
		if _, _, imported := memory.Import(); imported {
			return nil, nil
		}
		pages := m.rt.opts.MemoryLimitPages
		if declared, ok := memory.Max(); ok {
			pages = min(pages, declared)
		}
		return mapping.Reserve(uint64(memory.Min())*engines.PageSize, uint64(pages)*engines.PageSize)
	}
	return nil, nil
}

// company is the instances that m can exchange references to functions with,
// among those that it is linked to.
func (m *module) company(imports engines.Imports) []*instance {
	var insts []*instance
	for _, im := range m.iface.Imports {
		if lender, ok := imports.Instances[im.Module]; ok && carriesReferences(im.Type) {
			insts = append(insts, lender.(*instance))
		}
	}
	return insts
}

func carriesReferences(t engines.ExternType) bool {
	reference := func(v engines.ValueType) bool { return v == engines.FuncRef || v == engines.ExternRef }
	switch t.Kind {
	case engines.KindTable:
		return true
	case engines.KindGlobal:
		return reference(t.Global.Value)
	case engines.KindFunc:
		return slices.ContainsFunc(t.Func.Params, reference) || slices.ContainsFunc(t.Func.Results, reference)
	}
	return false
}

// leave gives up the memory of an instance that is closed, or was not made.
func (rt *runtime) leave(m *mappedMemory) error {
	if m == nil {
		return nil
	}
	m.overlay.Close()
	return rt.companies.leave(m.company)
}

// MapMemory implements [engines.MemoryMapper].
func (i *instance) MapMemory(name string, file *os.File, size uint64) error {
	memory, err := i.mappable(name)
	if err != nil {
		return err
	}
	return i.mapped.overlay.Map(memory, file, size)
}

// ResetMemory implements [engines.MemoryMapper].
func (i *instance) ResetMemory(name string) error {
	memory, err := i.mappable(name)
	if err != nil {
		return err
	}
	return i.mapped.overlay.Reset(memory)
}

// mappable is all of the exported memory of that name, which is good until it
// grows or i is closed.
func (i *instance) mappable(name string) ([]byte, error) {
	if i.mod.IsClosed() {
		return nil, engines.ErrClosed
	}
	if err := mapping.Check(i.mapped != nil, i.module.iface.Imports, i.module.exports, name); err != nil {
		return nil, err
	}
	mem := i.mod.ExportedMemory(name)
	memory, _ := mem.Read(0, mem.Size())
	if len(memory) > 0 && !i.mapped.reserved.Holds(memory) {
		return nil, errors.New("map memory: it grew after an instance that imports it was closed, and has moved; make a new instance")
	}
	return memory, nil
}

// company is instances that can call each other's functions by reference, of
// themselves or through others. What one has put into a table of another can be
// called when it is closed, so their memories are freed with the last of them.
type company struct {
	into     *company // what it has become part of, nil if nothing
	open     int
	memories []*mapping.Reservation
}

func (c *company) head() *company {
	for c.into != nil {
		c = c.into
	}
	return c
}

func (c *company) free() error {
	var errs []error
	for _, reserved := range c.memories {
		errs = append(errs, reserved.Free())
	}
	c.memories = nil
	return errors.Join(errs...)
}

// companies are those of a runtime.
type companies struct {
	mu     sync.Mutex
	closed bool
	all    map[*company]struct{}
}

// join counts one more in the company of those instances, and reserved among its
// memories unless it is nil. Errors: [engines.ErrClosed].
func (cs *companies) join(insts []*instance, reserved *mapping.Reservation) (*company, error) {
	joined := new(company)
	if reserved != nil {
		joined.memories = append(joined.memories, reserved)
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return nil, errors.Join(engines.ErrClosed, joined.free())
	}
	c := joined
	if len(insts) > 0 {
		c = insts[0].mapped.company.head()
		c.memories = append(c.memories, joined.memories...)
	}
	for _, inst := range insts {
		if other := inst.mapped.company.head(); other != c {
			c.open += other.open
			c.memories = append(c.memories, other.memories...)
			*other = company{into: c}
			delete(cs.all, other)
		}
	}
	c.open++
	if cs.all == nil {
		cs.all = make(map[*company]struct{})
	}
	cs.all[c] = struct{}{}
	return c, nil
}

// leave counts one less in c, and frees its memories with the last.
func (cs *companies) leave(c *company) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c = c.head()
	c.open--
	if c.open > 0 {
		return nil
	}
	delete(cs.all, c)
	return c.free()
}

// close frees all memories.
func (cs *companies) close() error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	var errs []error
	for c := range cs.all {
		errs = append(errs, c.free())
	}
	cs.all = nil
	return errors.Join(errs...)
}
