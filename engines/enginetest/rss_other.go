//go:build !linux

package enginetest

// residentMemory is not known here; Go's heap stands in.
func residentMemory() (uint64, bool) { return 0, false }

// addressSpace is not known here.
func addressSpace() (uint64, bool) { return 0, false }
