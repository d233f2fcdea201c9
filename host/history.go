package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/zta"
)

// histories keeps one DNA for each artifact and publisher, so that neither a
// restart nor another name sheds it.
type histories struct {
	db    *state.DB // nil keeps them in memory only
	clock func() time.Time

	mu     sync.Mutex
	dnas   map[string]*zta.ExecutionDNA
	stored map[string]mark // what the store has
}

// mark tells whether a history has changed: every change of it is an observed
// call, a flag or a release, and these move one of the two. Recovery moves
// integrity too, so a history is stored until it is whole again.
type mark struct {
	calls     uint64
	integrity float64
}

const historyBucket = "dna"

// of is the DNA of an artifact.
func (h *histories) of(artifact string, id zta.Identity) (*zta.ExecutionDNA, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.load(artifact+"/"+id.Publisher, id)
}

// load is the DNA under a key: the one in use, else the stored one, else a new
// one. It is called with mu held.
func (h *histories) load(key string, id zta.Identity) (*zta.ExecutionDNA, error) {
	if dna := h.dnas[key]; dna != nil {
		return dna, nil
	}
	artifact, _, _ := strings.Cut(key, "/")
	dna := zta.NewExecutionDNA("artifact:"+artifact, id)
	if h.db != nil {
		b, err := h.db.Bucket(historyBucket).Get(key)
		switch {
		case errors.Is(err, state.ErrNotFound):
		case err != nil:
			return nil, fmt.Errorf("history of artifact %s: %w", artifact, err)
		default:
			var past zta.History
			if err := json.Unmarshal(b, &past); err != nil {
				return nil, fmt.Errorf("history of artifact %s is damaged, and is not started anew: %w", artifact, err)
			}
			dna.Restore(h.clock(), past)
		}
	}
	h.dnas[key] = dna
	return dna, nil
}

// release gives an artifact the integrity that a released case leaves it, in
// each of its histories: of plugins that are loaded, and stored ones.
func (h *histories) release(artifact string) error {
	h.mu.Lock()
	keys := slices.Collect(maps.Keys(h.dnas))
	var errs []error
	if h.db != nil {
		stored, err := h.db.Bucket(historyBucket).List(artifact+"/", 0)
		errs = append(errs, err)
		for _, e := range stored {
			keys = append(keys, e.Key)
		}
	}
	for _, key := range keys {
		if strings.HasPrefix(key, artifact+"/") {
			dna, err := h.load(key, zta.Identity{})
			errs = append(errs, err)
			if err == nil {
				dna.SetIntegrity(h.clock(), zta.ReleasedIntegrity)
			}
		}
	}
	h.mu.Unlock()
	return errors.Join(append(errs, h.store())...)
}

// store keeps what the histories hold now, where it has changed.
func (h *histories) store() error {
	if h.db == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	now := h.clock()
	for key, dna := range h.dnas {
		m := mark{dna.Calls(), dna.Integrity(now)}
		if h.stored[key] == m {
			continue
		}
		b, err := json.Marshal(dna.Snapshot(now))
		if err == nil {
			err = h.db.Bucket(historyBucket).Put(key, b)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("history %s: %w", key, err))
			continue
		}
		h.stored[key] = m
	}
	return errors.Join(errs...)
}
