package enginetest

import (
	"fmt"
	"os"
)

// residentMemory reads the resident set size in bytes from /proc/self/statm
// (proc_pid_statm(5)).
func residentMemory() (uint64, bool) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		return 0, false
	}
	return resident * uint64(os.Getpagesize()), true
}
