package zta

import "forgeone.dev/forgeone/capability"

// The trust table: every number by which trust is computed stands in this file.

// Integrity thresholds, in points of [0, FullIntegrity].
const (
	FullIntegrity     = 100.0 // of a container without red flags
	FreezeBelow       = 70.0  // below: frozen for review
	QuarantineBelow   = 50.0  // below: quarantined
	ReleasedIntegrity = 70.0  // given by a release from quarantine: the least that is not frozen
)

// vectorScores are the base scores, by trust vector.
var vectorScores = [...]float64{
	Compromised: 0,
	Unverified:  0.5,
	EdgeGateway: 0.7,
	Signed:      0.8,
	Enclave:     0.9,
	Root:        1,
}

// levelScores are the least scores of the levels, highest first. What lies
// above 0 and below all of them is Limited; 0 is Quarantined.
var levelScores = [...]struct {
	least float64
	level capability.TrustLevel
}{
	{0.95, capability.Core},
	{0.75, capability.Trusted},
	{0.45, capability.Standard},
}

// Score is the trust score, 0 to 1: the vector's base score times
// integrity/[FullIntegrity]. Integrity outside its range is clamped; a vector
// that does not exist, or an integrity that is no number, scores 0.
func Score(v TrustVector, integrity float64) float64 {
	if int(v) >= len(vectorScores) || !(integrity > 0) {
		return 0
	}
	return vectorScores[v] * min(integrity, FullIntegrity) / FullIntegrity
}

// LevelOf is the trust level of a score.
func LevelOf(score float64) capability.TrustLevel {
	for _, l := range levelScores {
		if score >= l.least {
			return l.level
		}
	}
	if score > 0 {
		return capability.Limited
	}
	return capability.Quarantined
}

// Trust is the score of an identity that is known by v and has behaved with the
// given integrity, and the level it holds: that of the score, or the configured
// ceiling if that is lower.
func Trust(v TrustVector, integrity float64, ceiling capability.TrustLevel) (score float64, level capability.TrustLevel) {
	score = Score(v, integrity)
	return score, min(LevelOf(score), ceiling)
}

// Verdict is what an integrity means for its container: Allow (it goes on),
// Freeze or Quarantine. An integrity that is no number quarantines.
func Verdict(integrity float64) Outcome {
	switch {
	case integrity >= FreezeBelow:
		return Allow
	case integrity >= QuarantineBelow:
		return Freeze
	}
	return Quarantine
}
