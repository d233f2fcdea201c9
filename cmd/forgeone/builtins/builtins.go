// Package builtins says which engines the forgeone binary can run: those linked
// into it (wazero always, wasmer with the build tag wasmer or wasmtime with the
// build tag wasmtime, which need cgo; at most one of them) and those that run in
// a process of their own, by the binaries that lie beside it.
//
// All of them are metered, so that deadline, fuel and memory limit hold alike.
package builtins

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/engines/worker"
	"forgeone.dev/forgeone/host"
)

// Known are the engines that there are adapters for, the default first.
var Known = []string{"wazero", "wasmer", "wasmtime"}

// Engine is an engine that this binary can run.
type Engine struct {
	Name   string // as written in HCL
	Worker string // path of the binary that it runs in; empty for in process
	New    host.NewEngine
}

// Engines are the engines that are linked in, wazero first.
func Engines() []Engine {
	linked := append([]Engine{{Name: "wazero", New: wazero.New}}, tagged()...)
	for i := range linked {
		linked[i].New = metered(linked[i].New)
	}
	return linked
}

// Workers are the engines whose binaries, forgeone-engine-NAME, lie beside this
// one; each runs in a process of its own. What workers write goes to the logger.
func Workers(logger hclog.Logger) []Engine {
	self, err := os.Executable()
	if err != nil {
		return nil // an engine that is asked for is then said to be missing
	}
	var found []Engine
	for _, name := range Known {
		path := WorkerPath(filepath.Dir(self), name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			found = append(found, Engine{Name: name, Worker: path, New: metered(inWorker(name, path, logger))})
		}
	}
	return found
}

// WorkerPath is where the binary of an engine is looked for.
func WorkerPath(dir, name string) string {
	path := filepath.Join(dir, "forgeone-engine-"+name)
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	return path
}

func metered(n host.NewEngine) host.NewEngine {
	return func() (engines.WasmEngine, error) {
		e, err := n()
		if err != nil {
			return nil, err
		}
		return meter.Wrap(e, meter.Limits{}), nil
	}
}

// inWorker starts the engine's binary. It is as trusted as the kernel's own,
// beside which it lies: its checksum keeps it the same for as long as the kernel
// runs.
func inWorker(name, path string, logger hclog.Logger) host.NewEngine {
	return func() (engines.WasmEngine, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("engine %s: %w", name, err)
		}
		sum := sha256.Sum256(b)
		e, err := worker.New(worker.Config{
			Binary: path, SHA256: hex.EncodeToString(sum[:]), Engine: name, Env: libraries(filepath.Dir(path)), Logger: logger,
		})
		if err != nil {
			return nil, fmt.Errorf("engine %s: %w", name, err)
		}
		return e, nil
	}
}

// libraries tells a worker, which runs from a copy of its binary, where the
// libraries lie that came with it.
func libraries(dir string) map[string]string {
	switch runtime.GOOS {
	case "linux":
		return map[string]string{"LD_LIBRARY_PATH": dir}
	case "darwin":
		return map[string]string{"DYLD_LIBRARY_PATH": dir}
	}
	return nil
}
