package host_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/host"
)

// spinner is a plain module with a function that never ends.
func (k *kernel) spinner() host.PluginConfig {
	path := filepath.Join(k.dir, "spin.wasm")
	if err := os.WriteFile(path, loopModule, 0o600); err != nil {
		k.t.Fatal(err)
	}
	cfg := k.config("spinner", path)
	cfg.Limits.Timeout = host.NoTimeout
	return cfg
}

// spin calls what never ends, and reports how it ended.
func (k *kernel) spin(id uuid.UUID, function string) <-chan error {
	k.t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := k.Call(ctx, id, function, nil)
		ended <- err
	}()
	eventually(k.t, "it spins", func() bool { return k.Status().Phase == host.HostRunning })
	return ended
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestNothingWaitsForEver: a call without a timeout that never ends keeps no
// verb longer than its context, and a host can be closed under it.
func TestNothingWaitsForEver(t *testing.T) {
	kinds := map[string]func(k *kernel) (host.PluginConfig, string){
		"wasm": func(k *kernel) (host.PluginConfig, string) { return k.spinner(), "spin" },
		"native": func(k *kernel) (host.PluginConfig, string) {
			cfg := k.config("rogue", artifacts.rogue)
			cfg.Limits.Timeout = host.NoTimeout
			return cfg, "loop"
		},
	}
	for kind, of := range kinds {
		t.Run(kind, func(t *testing.T) {
			k := newKernel(t)
			cfg, function := of(k)
			id := k.start(cfg)
			t.Run("stop", func(t *testing.T) {
				ended := k.spin(id, function)
				if err := k.PausePlugin(soon(t), id); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("pause: %v", err)
				}
				if err := k.StopPlugin(soon(t), id); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("stop: %v", err)
				}
				if err := <-ended; err == nil || !strings.Contains(err.Error(), "stopped") {
					t.Errorf("the call: %v", err)
				}
				k.expect(id, host.PluginStopped)
			})
			t.Run("reload", func(t *testing.T) {
				if err := k.StartPlugin(ctx, id); err != nil {
					t.Fatal(err)
				}
				ended := k.spin(id, function)
				old := k.container(id)
				until, cancel := context.WithCancel(ctx)
				reloaded := make(chan error, 1)
				go func() { reloaded <- k.ReloadPlugin(until, id, &cfg) }()
				eventually(t, "the new one serves", func() bool { return k.container(id) != old })
				cancel() // it waits for the call on the old one
				if err := <-reloaded; err != nil {
					t.Errorf("reload: %v", err)
				}
				if err := <-ended; err == nil {
					t.Error("the call ended well")
				}
				k.expect(id, host.PluginActive)
			})
			t.Run("close", func(t *testing.T) {
				ended := k.spin(id, function)
				if err := k.Close(soon(t)); err != nil {
					t.Errorf("close: %v", err)
				}
				if err := <-ended; err == nil {
					t.Error("the call ended well")
				}
				if _, err := k.Call(ctx, id, function, nil); !errors.Is(err, host.ErrClosed) {
					t.Errorf("call: %v", err)
				}
				if err := k.StartPlugin(ctx, id); !errors.Is(err, host.ErrClosed) {
					t.Errorf("start: %v", err)
				}
			})
		})
	}
}

func (k *kernel) container(id uuid.UUID) string {
	p, _ := k.Plugin(id)
	return p.Container
}

// TestCloseDuringStart: a start that never ends, with no timeout, ends with the
// host, whose closing does not wait longer than its context.
func TestCloseDuringStart(t *testing.T) {
	k := newKernel(t)
	m := new(asm.Module)
	m.Func("_initialize", asm.Func(nil, nil), asm.Code{}.Loop().Br(0).End())
	path := filepath.Join(k.dir, "stuck.wasm")
	if err := os.WriteFile(path, m.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := k.config("stuck", path)
	cfg.Limits.Timeout = host.NoTimeout
	id := k.load(cfg)
	started := make(chan error, 1)
	go func() { started <- k.StartPlugin(ctx, id) }()
	if err := k.StopPlugin(soon(t), id); err == nil {
		t.Error("stopped what does not run")
	}
	if err := k.Close(soon(t)); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-started; err == nil {
		t.Error("started")
	}
}

// TestStubbornProcess: a native plugin that does not end when it is asked to is
// killed.
func TestStubbornProcess(t *testing.T) {
	k := newKernel(t)
	path := filepath.Join(k.dir, "stubborn")
	script := "#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do sleep 1; done\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	id := k.load(k.config("stubborn", path))
	if err := k.StartPlugin(soon(t), id); err == nil {
		t.Fatal("started")
	}
	k.expect(id, host.PluginFailed)
}
