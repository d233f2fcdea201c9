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

// sacrifice has the system end that process rather than this one when memory
// runs out (proc_pid_oom_score_adj(5)).
func sacrifice(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("500"), 0)
}
