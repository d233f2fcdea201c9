package cache_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
)

// roles are what the test binary is when it is run again, as a kernel's is.
var roles = map[string]func() error{
	"compile": func() error { return cache.RunCompiler(newEngine, os.Stdin, os.Stdout) },
	"crash": func() error {
		return fmt.Errorf("%s\nthe register allocator is at its end", strings.Repeat("noise\n", 10_000))
	},
	"lie": func() error { _, err := os.Stdout.WriteString("\xff\xff\xff\xff"); return err },
	"flood": func() error {
		_, err := io.Copy(os.Stdout, io.MultiReader(strings.NewReader("\x02\x00\x00\x00{}"), zeros{}))
		return err
	},
	"again": func() error { // a command line that leads back to where it came from
		e, err := wrapped(newEngine, cache.Config{}, "again")
		if err != nil {
			return err
		}
		_, err = e.Compile(context.Background(), plain(1), engines.CompileOptions{})
		return err
	},
	"orphan": func() error { // tells who compiles for it, and waits to be killed
		e, err := wrapped(newEngine, cache.Config{}, "compile")
		if err != nil {
			return err
		}
		go func() {
			for {
				tasks, _ := filepath.Glob("/proc/self/task/*/children")
				if len(tasks) == 0 {
					os.Exit(1)
				}
				for _, path := range tasks {
					if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
						fmt.Println(string(b))
						return
					}
				}
				time.Sleep(time.Millisecond)
			}
		}()
		_, err = e.Compile(context.Background(), slow(1000), engines.CompileOptions{})
		return err
	},
	"fill": func() error { // keeps code until it is killed
		cfg := cache.Config{Dir: os.Getenv("FILL_DIR"), KeyFile: os.Getenv("FILL_KEY")}
		for n := int32(0); ; n++ {
			e, err := wrapped(newEngine, cfg, "")
			if err != nil {
				return err
			}
			if _, err := e.Compile(context.Background(), plain(n%8), engines.CompileOptions{}); err != nil {
				return err
			}
			_ = os.RemoveAll(cfg.Dir)
			fmt.Println("kept")
		}
	},
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// wrapped is an engine that compiles in a process of that role, in place for "".
func wrapped(newEngine func() (engines.WasmEngine, error), cfg cache.Config, role string) (engines.WasmEngine, error) {
	inner, err := newEngine()
	if err != nil {
		return nil, err
	}
	o := cache.Options{Config: cfg}
	if role != "" {
		o.Compiler = cache.NewCompiler(cfg, role)
	}
	return cache.Wrap(inner, o)
}
