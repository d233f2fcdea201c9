package enginetest

import (
	"fmt"
	"os"
)

// residentMemory is the resident set size in bytes.
func residentMemory() (uint64, bool) {
	_, resident, ok := statm()
	return resident, ok
}

// addressSpace is the size in bytes of what the process has mapped or reserved.
func addressSpace() (uint64, bool) {
	size, _, ok := statm()
	return size, ok
}

// statm reads /proc/self/statm (proc_pid_statm(5)).
func statm() (size, resident uint64, ok bool) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, false
	}
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		return 0, 0, false
	}
	page := uint64(os.Getpagesize())
	return size * page, resident * page, true
}
