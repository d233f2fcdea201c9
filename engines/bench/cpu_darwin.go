package bench

import "syscall"

// cpuModel is the processor's name, "" if it is not known.
func cpuModel() string {
	name, err := syscall.Sysctl("machdep.cpu.brand_string")
	if err != nil {
		return ""
	}
	return name
}
