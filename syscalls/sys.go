package syscalls

import (
	"context"
	"encoding/json"
	"runtime"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// SysInfo is what sys_info tells, as JSON: nothing that tells one machine from
// another of its kind.
type SysInfo struct {
	OS     string `json:"os"`     // GOOS
	Arch   string `json:"arch"`   // GOARCH
	Kernel string `json:"kernel"` // version of ForgeOne
	CPUs   int    `json:"cpus"`   // that the kernel may use
}

func sys(version string) []abi.Registration {
	return []abi.Registration{{
		Name: "sys_info", MinTrust: capability.Limited,
		Doc:     "Get `os`, `arch`, `kernel` (the version of ForgeOne) and `cpus`, as a JSON object.",
		Resolve: fixed("sys://info"),
		Handler: func(context.Context, *abi.SyscallContext, *abi.Resolution) ([]byte, error) {
			return json.Marshal(SysInfo{runtime.GOOS, runtime.GOARCH, version, runtime.NumCPU()})
		},
	}}
}
