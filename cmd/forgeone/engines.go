package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

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
}

type engineFeatures struct {
	Interrupt   bool `json:"interrupt"`
	MemoryLimit bool `json:"memory_limit"`
	Metering    bool `json:"metering"` // fuel and call depth
	V128Values  bool `json:"v128_values"`
	RefValues   bool `json:"ref_values"`
}

func (c *cli) engines() *cobra.Command {
	return &cobra.Command{
		Use:     "engines",
		Short:   "List the WASM engines: version, features, and why one is missing",
		Example: "  forgeone engines\n  forgeone engines --format json",
		Args:    noArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			var infos []engineInfo
			for _, name := range []string{"wazero", "wasmer", "wasmtime"} {
				info, err := findEngine(cmd.Context(), name)
				if err != nil {
					return err
				}
				infos = append(infos, info)
			}
			return c.print(infos, func(p *printer) { printEngines(p, infos) })
		}),
	}
}

func findEngine(ctx context.Context, name string) (engineInfo, error) {
	linked := builtins.Engines()
	if i := slices.IndexFunc(linked, func(e builtins.Engine) bool { return e.Name == name }); i >= 0 {
		e, err := linked[i].New()
		if err != nil {
			return engineInfo{Name: name, Reason: err.Error()}, nil
		}
		info := e.Info()
		return engineInfo{
			Name: name, Available: true, Version: info.Version, Where: "in-process", Features: featuresOf(info.Features),
		}, e.Close()
	}
	self, err := os.Executable()
	if err != nil {
		return engineInfo{}, fmt.Errorf("this binary's own place: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "forgeone-engine-"+name)
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	if _, err := os.Stat(path); err != nil {
		reason := fmt.Sprintf("it is not linked into this binary, and there is no %s: make build makes those that this version has, where there is a C compiler", path)
		return engineInfo{Name: name, Reason: reason}, nil
	}
	return askWorker(ctx, name, path), nil
}

// workerTimeout bounds how long an engine's binary may take to describe itself.
const workerTimeout = 10 * time.Second

// askWorker has an engine's own binary describe it.
func askWorker(ctx context.Context, name, path string) engineInfo {
	ctx, cancel := context.WithTimeout(ctx, workerTimeout)
	defer cancel()
	info := engineInfo{Name: name, Where: path}
	cmd := exec.CommandContext(ctx, path, "info", "--format", "json")
	cmd.Env = []string{} // it needs none of ours
	out, err := cmd.Output()
	var answer struct {
		Name, Version string
		Features      engineFeatures
	}
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	if err == nil && answer.Name != name {
		err = fmt.Errorf("it says it is %q", answer.Name)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && len(exit.Stderr) > 0:
		info.Reason = fmt.Sprintf("its binary does not work: %v: %s", err, exit.Stderr)
	case err != nil:
		info.Reason = fmt.Sprintf("its binary does not work: %v", err)
	default:
		info.Version, info.Features = answer.Version, &answer.Features
		info.Reason = fmt.Sprintf("its binary works, but running an engine in a process of its own is not built yet: go build -tags %s links it in", name)
	}
	return info
}

func featuresOf(f engines.Features) *engineFeatures {
	x := engineFeatures(f)
	return &x
}

func printEngines(p *printer, infos []engineInfo) {
	p.row("ENGINE", "AVAILABLE", "VERSION", "WHERE", "FEATURES", "WHY NOT")
	for _, e := range infos {
		var features []string
		if e.Features != nil {
			for _, f := range []struct {
				name string
				has  bool
			}{
				{"interrupt", e.Features.Interrupt}, {"memory limit", e.Features.MemoryLimit}, {"metering", e.Features.Metering},
				{"v128 values", e.Features.V128Values}, {"reference values", e.Features.RefValues},
			} {
				if f.has {
					features = append(features, f.name)
				}
			}
		}
		available := map[bool]string{true: "yes", false: "no"}[e.Available]
		p.row(e.Name, available, dash(e.Version), dash(e.Where), list(features), dash(e.Reason))
	}
}
