package extism

import (
	"context"
	"errors"
	"maps"

	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

// snapshot is an instance as it stood before its first call: the state of the
// plugin and its variables. Its memory begins anew at each call.
type snapshot struct {
	engines.Snapshot // of the plugin
	binding          *Binding
	vars             map[string][]byte
	used             int
}

// Snapshot takes the state of an instance that has served no call. The instances
// made of it are *[Instance]s with a memory of their own; the imports that they
// are given are the binding's, whatever is asked for. Errors: those of
// [engines.Snapshotter], and *[engines.SnapshotError] for a module that was not
// compiled for it.
func (b *Binding) Snapshot(inst *Instance) (engines.Snapshot, error) {
	m, ok := b.module.(engines.Snapshotter)
	if !ok {
		return nil, &engines.SnapshotError{Reason: "it was compiled to a module that cannot be captured"}
	}
	if inst.plugin == nil {
		return nil, &engines.SnapshotError{Reason: "it has ended"}
	}
	if inst.process.Open() {
		return nil, &engines.SnapshotError{Reason: "it has descriptors open, which an image cannot hold"}
	}
	s, err := m.Snapshot(inst.plugin)
	if err != nil {
		return nil, err
	}
	return &snapshot{Snapshot: s, binding: b, vars: maps.Clone(inst.x.vars), used: inst.x.used}, nil
}

// Instantiate implements [engines.Snapshot].
func (s *snapshot) Instantiate(ctx context.Context, _ engines.Imports) (engines.Instance, error) {
	inst, err := s.binding.remember(ctx)
	if err != nil {
		return nil, err
	}
	plugin, err := s.Snapshot.Instantiate(ctx, inst.imports())
	if err != nil {
		return nil, errors.Join(err, inst.memory.Close())
	}
	inst.plugin = plugin
	s.restore(inst)
	return inst, nil
}

// Restore implements [engines.Snapshot].
func (s *snapshot) Restore(inst engines.Instance) bool {
	i, ok := inst.(*Instance)
	if !ok || i.plugin == nil || i.bytes.Size() != i.size || !s.Snapshot.Restore(i.plugin) {
		return false
	}
	s.restore(i)
	return true
}

// restore sets what the host keeps of an instance.
func (s *snapshot) restore(inst *Instance) {
	inst.x.begin()
	inst.process = wasi.NewProcess(inst.config)
	inst.x.vars, inst.x.used = maps.Clone(s.vars), s.used
}
