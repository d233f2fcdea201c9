package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// versionInfo is what this binary was made of.
type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	System   string `json:"system"`
}

// String is the version on one line.
func (v versionInfo) String() string {
	return strings.TrimSpace(fmt.Sprintf("forgeone %s (%s, %s) %s", v.Version, v.Go, v.System, v.Revision))
}

func versionOf() versionInfo {
	v := versionInfo{Version: "devel", Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	return v
}

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which version this is",
		Example: "  forgeone version --format json",
		Args:    noArgs,
		RunE: c.do(func(*cobra.Command, []string) error {
			v := versionOf()
			return c.print(v, func(p *printer) { p.line("%s", v) })
		}),
	}
}
