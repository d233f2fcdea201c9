//go:build !linux && !darwin

package bench

import "os"

// cpuModel is the processor's name as Windows gives it, "" if it is not known.
func cpuModel() string { return os.Getenv("PROCESSOR_IDENTIFIER") }
