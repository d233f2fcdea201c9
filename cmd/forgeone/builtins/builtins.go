// Package builtins says which engines the forgeone binary can run: those linked
// into it (wazero always, wasmer with the build tag wasmer or wasmtime with the
// build tag wasmtime, which need cgo; at most one of them) and those that run in
// a process of their own, by the binaries that lie beside it.
//
// All of them are metered, so that deadline, fuel and memory limit hold alike:
// those in a process of their own meter there, for themselves.
package builtins

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
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
	Bare   host.NewEngine // the same without a meter, to compare; nil where there is a worker
}

// Engines are the engines that are linked in, wazero first.
func Engines() []Engine {
	linked := append([]Engine{{Name: "wazero", New: wazero.New}}, tagged()...)
	for i := range linked {
		linked[i].Bare, linked[i].New = linked[i].New, metered(linked[i].New)
	}
	return linked
}

// Find is the engine of that name, wazero for "", where isolation says: in the
// kernel's process, in one of its own, or, for "", in a process of its own if it
// is not wazero and can be. What a worker writes goes to the logger. The error
// says why there is none.
func Find(name string, isolation config.Isolation, logger hclog.Logger) (Engine, error) {
	name = cmp.Or(name, Known[0])
	linked := Engines()
	i := slices.IndexFunc(linked, func(e Engine) bool { return e.Name == name })
	inProcess := i >= 0 && (isolation == config.InProcess || isolation == "" && name == Known[0])
	if inProcess {
		return linked[i], nil
	}
	if isolation == config.InProcess {
		return Engine{}, fmt.Errorf("engine %q is not linked into this binary: isolation = \"process\" runs it by forgeone-engine-%s, go build -tags %s links it in", name, name, name)
	}
	worker, err := findWorker(name, logger)
	if err != nil && i >= 0 && isolation == "" {
		return linked[i], nil
	}
	return worker, err
}

func findWorker(name string, logger hclog.Logger) (Engine, error) {
	self, err := os.Executable()
	if err != nil {
		return Engine{}, fmt.Errorf("engine %q: this binary's own place: %w", name, err)
	}
	path := WorkerPath(filepath.Dir(self), name)
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
		return Engine{}, fmt.Errorf("engine %q is not linked into this binary, and there is no %s to run it: make build makes those that this version has, where there is a C compiler; forgeone engines lists what there is", name, path)
	}
	return Engine{Name: name, Worker: path, New: inWorker(name, path, cache.Config{}, logger)}, nil
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
func inWorker(name, path string, compile cache.Config, logger hclog.Logger) host.NewEngine {
	return func() (engines.WasmEngine, error) {
		env := libraries(filepath.Dir(path))
		env[cache.EnvConfig] = compile.String()
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("engine %s: %w", name, err)
		}
		sum := sha256.Sum256(b)
		e, err := worker.New(worker.Config{
			Binary: path, SHA256: hex.EncodeToString(sum[:]), Engine: name, Env: env, Logger: logger,
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
	return map[string]string{}
}
