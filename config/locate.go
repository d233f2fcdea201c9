package config

import (
	"fmt"
	"path/filepath"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Places are where a kernel is reached and its evidence lies, as absolute paths.
type Places struct {
	StateDir string
	Socket   string // of the control API
	AuditDir string
}

// Locate reads of the configuration at path where its kernel is, and nothing
// else: the rest may be wrong, or need secrets that are not at hand, and the
// kernel that runs by an earlier state of the file can still be reached. Errors:
// a [*DiagnosticsError] that holds everything that is wrong, if the places
// cannot be told; or why the file cannot be read.
func Locate(path string) (Places, error) {
	d, src, err := open(path, Options{})
	if err != nil {
		return Places{}, err
	}
	syntax, ok := d.parse(src)
	if !ok {
		return Places{}, newError(d.diags, syntax, d.name)
	}
	f := new(file)
	body := syntax.Body.(*hclsyntax.Body) // what hclsyntax makes
	d.body(language(), f, body, body.MissingItemRange())
	k, a := first(f.kernels), first(f.audits)
	if !k.stateDir.ok || k.socket.given && !k.socket.ok || !a.dir.ok {
		return Places{}, newError(d.diags, syntax, d.name)
	}
	return Places{StateDir: k.stateDir.value, Socket: k.socketPath(), AuditDir: a.dir.value}, nil
}

// socketPath is where the control API listens.
func (k *kernelBlock) socketPath() string {
	if k.socket.given {
		return k.socket.value
	}
	return filepath.Join(k.stateDir.value, "control.sock")
}

// open reads the configuration at path.
func open(path string, opts Options) (*decoder, []byte, error) {
	d, err := newDecoder(path, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("config: %w", err)
	}
	src, err := d.readFile(d.resolve(filepath.Base(path)))
	if err != nil {
		return nil, nil, fmt.Errorf("config: %w", err)
	}
	return d, src, nil
}
