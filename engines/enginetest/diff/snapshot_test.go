package diff_test

import (
	"testing"

	"forgeone.dev/forgeone/engines/enginetest/diff"
)

// What is made from a snapshot does what the captured instance does.
func TestSnapshots(t *testing.T) {
	modules, first := number(t, modulesEnv, 60), number(t, seedEnv, 0)
	for _, s := range subjects(t) {
		if !s.Metered.Info().Snapshots {
			t.Logf("enginetest/diff: engine=%s has no snapshots", s.Name)
			continue
		}
		var tally diff.Captures
		for seed := first; seed < first+modules; seed++ {
			if err := diff.CheckSnapshots(t.Context(), s.Metered, s.Takes, seed, &tally); err != nil {
				t.Fatalf("%s: %v", s.Name, err)
			}
		}
		t.Logf("enginetest/diff: engine=%s: %+v", s.Name, tally)
		if tally.Captured*3 < tally.Modules || tally.Restored < tally.Captured {
			t.Errorf("%s: of %d modules, %d were captured and %d instances restored: this says little", s.Name, tally.Modules, tally.Captured, tally.Restored)
		}
	}
}
