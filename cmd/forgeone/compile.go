package main

import (
	"math"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/cmd/forgeone/builtins"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/engines/cache"
)

// compile is what the kernel runs this program with, to compile a module.
func (c *cli) compile() *cobra.Command {
	return &cobra.Command{
		Use:     builtins.CompileCommand + " ENGINE",
		Short:   "Compile a module for the kernel that started this process",
		Example: "  forgeone compile wazero",
		Hidden:  true,
		Args:    exactArgs("ENGINE"),
		RunE:    c.do(func(_ *cobra.Command, args []string) error { return builtins.Compile(args[0], c.in, c.out) }),
	}
}

// compiling is how a kernel has an engine compile. Engines share nothing: one in
// a process of its own is not trusted with what runs in the kernel's.
func compiling(cfg *config.Config, engine string) cache.Config {
	c := cache.Config{
		Timeout: cfg.Compile.Timeout, Memory: int64(min(cfg.Compile.Memory, math.MaxInt64)),
		MaxBytes: int64(min(cfg.Compile.CacheSize, math.MaxInt64)),
	}
	if cfg.Compile.CacheDir != "" {
		c.Dir = filepath.Join(cfg.Compile.CacheDir, engine)
		c.KeyFile = filepath.Join(cfg.Kernel.StateDir, keyFile(engine))
	}
	return c
}

// compilingAlone is how a command without a configuration has an engine compile:
// what it keeps is the user's.
func compilingAlone(engine string, logger hclog.Logger) cache.Config {
	dir, err := os.UserCacheDir()
	if err != nil {
		logger.Debug("machine code is not kept", "error", err)
		return cache.Config{}
	}
	keys, err := os.UserConfigDir()
	if err != nil {
		logger.Debug("machine code is not kept", "error", err)
		return cache.Config{}
	}
	return cache.Config{
		Dir:     filepath.Join(dir, "forgeone", engine),
		KeyFile: filepath.Join(keys, "forgeone", keyFile(engine)),
	}
}

func keyFile(engine string) string { return "compile-" + engine + ".key" }
