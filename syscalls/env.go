package syscalls

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of env_get.
const (
	MaxEnvName  = 256       // bytes
	MaxEnvValue = 128 << 10 // bytes
)

func env(lookup func(string) (string, bool)) []abi.Registration {
	return []abi.Registration{{
		Name: "env_get", Args: []string{"name"}, MinTrust: capability.Limited,
		Doc: "Get an environment variable of the kernel's process. One that is not set is not found.",
		Resolve: func(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
			name := sc.Args[0]
			if name == "" || len(name) > MaxEnvName || strings.Contains(name, "=") {
				return abi.Resolution{}, fmt.Errorf("name %.64q: want 1 to %d bytes without =", name, MaxEnvName)
			}
			if err := plain(name); err != nil {
				return abi.Resolution{}, fmt.Errorf("name %.64q: %w", name, err)
			}
			if runtime.GOOS == "windows" {
				name = strings.ToUpper(name) // Windows takes any case for one variable
			}
			res := resource("env://" + name)
			res.Object = name
			return res, nil
		},
		Handler: func(_ context.Context, _ *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
			name := r.Object.(string)
			value, ok := lookup(name)
			if !ok {
				return nil, abi.Fail(abi.CodeNotFound, "environment variable %s is not set", name)
			}
			if err := tooLarge("length of "+name, len(value), MaxEnvValue); err != nil {
				return nil, err
			}
			return []byte(value), nil
		},
	}}
}
