//go:build wasmer

package wasmer_test

import (
	"testing"

	"forgeone.dev/forgeone/engines/enginetest/spec"
)

// The vectors of the core specification hold, plain and metered.
func TestSpec(t *testing.T) { spec.Test(t, newEngine) }
