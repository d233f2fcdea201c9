package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/cmd/forgeone/builtins"
	"forgeone.dev/forgeone/engines"
)

// engineInfo is what is known of an engine on this machine.
type engineInfo struct {
	Name      string          `json:"name"`
	Available bool            `json:"available"`
	Version   string          `json:"version,omitempty"`
	Where     string          `json:"where,omitempty"` // "in-process", or the worker's binary
	Features  *engineFeatures `json:"features,omitempty"`
	Reason    string          `json:"reason,omitempty"` // why it is not available
	// Advisories are what is known against this version; forgeone doctor tells more.
	Advisories []builtins.Advisory `json:"advisories,omitempty"`
}

type engineFeatures struct {
	Interrupt    bool `json:"interrupt"`
	MemoryLimit  bool `json:"memory_limit"`
	Metering     bool `json:"metering"` // fuel and call depth
	V128Values   bool `json:"v128_values"`
	RefValues    bool `json:"ref_values"`
	MappedMemory bool `json:"mapped_memory"`
	Snapshots    bool `json:"snapshots"`
}

func (c *cli) engines() *cobra.Command {
	return &cobra.Command{
		Use:     "engines",
		Short:   "List the WASM engines: version, features, open advisories, and why one is missing",
		Example: "  forgeone engines\n  forgeone engines --format json",
		Args:    noArgs,
		RunE: c.do(func(*cobra.Command, []string) error {
			var infos []engineInfo
			for _, name := range builtins.Known {
				infos = append(infos, findEngine(name))
			}
			return c.print(infos, func(p *printer) { printEngines(p, infos) })
		}),
	}
}

// findEngine brings an engine up as a kernel would, and asks it.
func findEngine(name string) engineInfo {
	found, err := builtins.Find(name, "", nil)
	if err != nil {
		return engineInfo{Name: name, Reason: err.Error()}
	}
	info := engineInfo{Name: name, Where: cmp.Or(found.Worker, "in-process")}
	e, err := found.New()
	if err != nil {
		info.Reason = err.Error()
		return info
	}
	i := e.Info()
	info.Version, info.Features = i.Version, featuresOf(i.Features)
	if err := e.Close(); err != nil {
		info.Reason = err.Error()
		return info
	}
	info.Available = true
	info.Advisories, _ = builtins.Advisories(name, info.Version)
	return info
}

func featuresOf(f engines.Features) *engineFeatures {
	x := engineFeatures(f)
	return &x
}

func printEngines(p *printer, infos []engineInfo) {
	p.row("ENGINE", "AVAILABLE", "VERSION", "WHERE", "FEATURES", "OPEN ADVISORIES", "WHY NOT")
	for _, e := range infos {
		var features []string
		if e.Features != nil {
			for _, f := range []struct {
				name string
				has  bool
			}{
				{"interrupt", e.Features.Interrupt}, {"memory limit", e.Features.MemoryLimit}, {"metering", e.Features.Metering},
				{"v128 values", e.Features.V128Values}, {"reference values", e.Features.RefValues},
				{"mapped memory", e.Features.MappedMemory}, {"snapshots", e.Features.Snapshots},
			} {
				if f.has {
					features = append(features, f.name)
				}
			}
		}
		var open []string
		for _, a := range e.Advisories {
			if a.Reach == builtins.Open {
				open = append(open, a.ID)
			}
		}
		available := map[bool]string{true: "yes", false: "no"}[e.Available]
		p.row(e.Name, available, dash(e.Version), dash(e.Where), list(features), list(open), dash(e.Reason))
	}
}
