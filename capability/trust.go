package capability

import "fmt"

// TrustLevel is how far a plugin is trusted. Levels are ordered: a higher
// value may hold more. The zero value is Quarantined, which may hold nothing.
type TrustLevel uint8

// The five trust levels, lowest first.
const (
	Quarantined TrustLevel = iota
	Limited
	Standard
	Trusted
	Core
)

var levelNames = [...]string{"quarantined", "limited", "standard", "trusted", "core"}

// String is the level as written in HCL.
func (l TrustLevel) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("trustlevel(%d)", uint8(l))
}

// LevelNames are the names [ParseTrustLevel] takes, lowest first.
func LevelNames() []string { return append([]string(nil), levelNames[:]...) }

// ParseTrustLevel is the level of that name, as written in HCL.
func ParseTrustLevel(s string) (TrustLevel, error) {
	for i, n := range levelNames {
		if n == s {
			return TrustLevel(i), nil
		}
	}
	return Quarantined, fmt.Errorf("unknown trust level %q: want one of %v", s, levelNames)
}

// MarshalText implements encoding.TextMarshaler.
func (l TrustLevel) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *TrustLevel) UnmarshalText(b []byte) error {
	v, err := ParseTrustLevel(string(b))
	if err == nil {
		*l = v
	}
	return err
}
