package wasi_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/worker"
)

// inWorker is an engine in a process of its own.
func inWorker(name, binary string) constructor {
	return func(t testing.TB) engines.WasmEngine {
		t.Helper()
		b, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		e, err := worker.New(worker.Config{
			Binary: binary, SHA256: hex.EncodeToString(sum[:]), Engine: name, Env: map[string]string{"LD_LIBRARY_PATH": filepath.Dir(binary)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return owned(t, e)
	}
}
