//go:build !linux

package main

import (
	"context"
	"runtime"
)

func osRelease() string { return runtime.GOOS }

// tryJail says that there is none to be had.
func tryJail(context.Context) []finding {
	return []finding{{"jail", "native plugins", warning, runtime.GOOS + " has none of what a jail is made of: namespaces, seccomp, Landlock, cgroups", "run untrusted native plugins on Linux"}}
}
