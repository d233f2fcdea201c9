package host

import (
	"encoding/json"
	"errors"
	"fmt"
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

	mu   sync.Mutex
	dnas map[string]*zta.ExecutionDNA
}

const historyBucket = "dna"

// of is the DNA of an artifact.
func (h *histories) of(artifact string, id zta.Identity) (*zta.ExecutionDNA, error) {
	key := artifact + "/" + id.Publisher
	h.mu.Lock()
	defer h.mu.Unlock()
	if dna := h.dnas[key]; dna != nil {
		return dna, nil
	}
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

// release gives an artifact the integrity that a released case leaves it.
func (h *histories) release(artifact string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, dna := range h.dnas {
		if strings.HasPrefix(key, artifact+"/") {
			dna.SetIntegrity(now, zta.ReleasedIntegrity)
		}
	}
}

// store keeps what the histories hold now.
func (h *histories) store() error {
	if h.db == nil {
		return nil
	}
	h.mu.Lock()
	dnas := make(map[string]*zta.ExecutionDNA, len(h.dnas))
	for k, v := range h.dnas {
		dnas[k] = v
	}
	h.mu.Unlock()
	var errs []error
	for key, dna := range dnas {
		b, err := json.Marshal(dna.Snapshot(h.clock()))
		if err == nil {
			err = h.db.Bucket(historyBucket).Put(key, b)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("history %s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}
