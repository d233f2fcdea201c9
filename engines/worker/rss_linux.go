package worker

import (
	"fmt"
	"os"
)

// residentMemory is the resident set of a process in bytes, as the system
// counts it (proc_pid_statm(5)); 0 if that cannot be had.
func residentMemory(pid int) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		return 0
	}
	return resident * uint64(os.Getpagesize())
}
