package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/config"
)

// A configuration with two mistakes, and the same without them.
func ExampleLoad() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	write := func(level, syscall string) string {
		src := fmt.Sprintf(`
kernel {
  name      = "edge-1"
  state_dir = "state"
}
audit {
  dir          = "audit"
  generate_key = true
}
policy "clock" {
  syscalls = [%q]
}
plugin "clock" {
  wasm        = "clock.wasm"
  trust_level = %q
}
`, syscall, level)
		_ = os.WriteFile(filepath.Join(dir, "config.hcl"), []byte(src), 0o600)
		_ = os.WriteFile(filepath.Join(dir, "clock.wasm"), nil, 0o600)
		return filepath.Join(dir, "config.hcl")
	}
	opts := config.Options{
		Syscalls: map[string]capability.TrustLevel{"time_get": capability.Limited},
		Engines:  []string{"wazero"},
	}

	_, err = config.Load(write("limitted", "get_time"), opts)
	var wrong *config.DiagnosticsError
	if errors.As(err, &wrong) {
		for _, d := range wrong.Diagnostics() {
			fmt.Printf("%d,%d: %s; %s\n", d.Line, d.Column, d.Summary, d.Detail)
		}
	}

	c, err := config.Load(write("limited", "time_get"), opts)
	if err != nil {
		fmt.Println(err)
		return
	}
	p := c.Plugins[0]
	fmt.Println(p.Name, p.TrustLevel, p.Identity.ID)
	// Output:
	// 11,15: there is no syscall "get_time"; the syscalls are: time_get
	// 15,17: "limitted" is not known here; did you mean "limited"? want one of "quarantined", "limited", "standard", "trusted", "core"
	// clock limited plugin:clock
}
