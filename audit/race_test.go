//go:build race

package audit

// raceEnabled is set where the race detector makes sync.Pool forget at random.
const raceEnabled = true
