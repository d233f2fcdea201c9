//go:build wasmer

package diff_test

import (
	"testing"

	"forgeone.dev/forgeone/engines/enginetest/diff"
	"forgeone.dev/forgeone/engines/wasmer"
)

// others is the one that this binary is linked with.
func others(t testing.TB) []diff.Subject {
	return []diff.Subject{subject(t, "wasmer", wasmer.New)}
}
