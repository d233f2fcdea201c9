package binfmt

import (
	"encoding/binary"
	"fmt"

	"forgeone.dev/forgeone/engines"
)

// Edit is a change to a module. The zero Edit changes nothing.
type Edit struct {
	// MemoryLimit lowers the maximum of each memory that the module defines to
	// so many pages, unless it is 0 or no memory can be larger. Imported
	// memories are left alone: their limit is the lender's.
	MemoryLimit uint32
	// Exports are added after the module's own.
	Exports []Export
	// DropStart removes the start function, so that instantiation runs no code.
	DropStart bool
}

// Export is an export to add: what the index of a kind stands for.
type Export struct {
	Name  string
	Kind  engines.ExternKind
	Index uint32
}

// Rewrite returns a copy of a module with an edit made. An error means that
// the module is malformed, or that a memory of it begins above the limit.
func Rewrite(data []byte, edit Edit) ([]byte, error) {
	w := writer{edit: edit, out: make([]byte, 0, len(data)+64)}
	if err := Check(data); err != nil {
		return nil, err
	}
	w.out = append(w.out, data[:headerSize]...)
	if err := eachSection(data, w.section); err != nil {
		return nil, err
	}
	w.exports(0, nil)
	return w.out, nil
}

type writer struct {
	edit     Edit
	out      []byte
	exported bool // the export section is written
}

func (w *writer) section(id byte, r *reader, whole []byte) {
	if sectionRank(id) > sectionExport {
		w.exports(0, nil)
	}
	switch {
	case id == sectionMemory && w.edit.MemoryLimit > 0 && w.edit.MemoryLimit < maxPages:
		w.memories(r)
	case id == sectionExport:
		n := r.count()
		w.exports(n, r.rest())
	case id == sectionStart && w.edit.DropStart:
	default:
		w.out = append(w.out, whole...)
	}
}

func (w *writer) memories(r *reader) {
	n := r.count()
	body := binary.AppendUvarint(nil, uint64(n))
	for ; n > 0 && r.err == nil; n-- {
		m := r.memoryType()
		if m.Min > w.edit.MemoryLimit && r.err == nil {
			r.err = fmt.Errorf("the module's memory begins with %d pages of 64 KiB, above its limit of %d", m.Min, w.edit.MemoryLimit)
		}
		if !m.HasMax || m.Max > w.edit.MemoryLimit {
			m.Max = w.edit.MemoryLimit
		}
		body = append(body, limitsWithMax)
		body = binary.AppendUvarint(body, uint64(m.Min))
		body = binary.AppendUvarint(body, uint64(m.Max))
	}
	w.append(sectionMemory, body)
}

// exports writes the export section, of n items that the module has and those
// to add, unless it is written or would be empty.
func (w *writer) exports(n uint32, items []byte) {
	if w.exported {
		return
	}
	w.exported = true
	total := uint64(n) + uint64(len(w.edit.Exports))
	if total == 0 {
		return
	}
	body := append(binary.AppendUvarint(nil, total), items...)
	for _, ex := range w.edit.Exports {
		body = binary.AppendUvarint(body, uint64(len(ex.Name)))
		body = append(append(body, ex.Name...), byte(ex.Kind))
		body = binary.AppendUvarint(body, uint64(ex.Index))
	}
	w.append(sectionExport, body)
}

func (w *writer) append(id byte, body []byte) {
	w.out = binary.AppendUvarint(append(w.out, id), uint64(len(body)))
	w.out = append(w.out, body...)
}
