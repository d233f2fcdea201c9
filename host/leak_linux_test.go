package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forgeone.dev/forgeone/host"
)

// holdings are what a process holds that a plugin's life may leave behind.
type holdings struct{ goroutines, descriptors, children, temp int }

func held(t *testing.T) holdings {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	h := holdings{goroutines: runtime.NumGoroutine(), descriptors: len(fds)}
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		h.children += len(strings.Fields(string(b)))
	}
	temp, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h.temp = len(temp)
	return h
}

// TestNothingIsLeft: whatever way a plugin's life goes, what it took is given
// back when it is unloaded.
func TestNothingIsLeft(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	both(t, artifacts.rogueWasm, artifacts.rogue, func(t *testing.T, artifact string) {
		var hours atomic.Int64
		k := newKernel(t, host.WithClock(func() time.Time { return time.Now().Add(time.Duration(hours.Load()) * time.Hour) }))
		cfg := k.config("p", artifact)
		noMount := cfg
		noMount.Mounts = append(noMount.Mounts[:1:1], host.Mount{Guest: "/none", Host: filepath.Join(k.dir, "none")})
		life := func() {
			hours.Add(24) // and all is forgiven
			id := k.load(cfg)
			if err := k.StartPlugin(ctx, id); err != nil {
				t.Fatal(err)
			}
			_, _ = k.Call(ctx, id, "write", nil)
			if err := k.ReloadPlugin(ctx, id, &cfg); err != nil {
				t.Fatal(err)
			}
			if err := k.ReloadPlugin(ctx, id, &noMount); err == nil {
				t.Fatal("reloaded without a mount")
			}
			_, _ = k.Call(ctx, id, "crash", nil)
			if cfg.NativeLibrary != "" {
				eventually(t, "it failed", func() bool { return k.status(id).Phase == host.PluginFailed })
			} else if err := k.StopPlugin(ctx, id); err != nil {
				t.Fatal(err)
			}
			if err := k.StartPlugin(ctx, id); err != nil {
				t.Fatal(err)
			}
			_, _ = k.Call(ctx, id, "escape", nil)
			c := k.expect(id, host.PluginQuarantined).Case
			if _, err := k.ReleaseCase(ctx, c, "tester", "again"); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(k.StartPlugin(ctx, id), k.StopPlugin(ctx, id), k.UnloadPlugin(ctx, id)); err != nil {
				t.Fatal(err)
			}
			runtime.GC()
		}
		life() // what is made once stays: the engine's runtimes, the log's segments
		before := held(t)
		for range 2 {
			life()
		}
		var after holdings
		for range 200 {
			if after = held(t); after.descriptors <= before.descriptors && after.goroutines <= before.goroutines && after.children == before.children && after.temp == before.temp {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		buf := make([]byte, 1<<20)
		t.Errorf("before %+v, after %+v\n%s", before, after, buf[:runtime.Stack(buf, true)])
	})
}

// TestFailedHostLeavesNothing: a host that could not be made has no private log.
func TestFailedHostLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	before := held(t)
	if _, err := host.NewPluginHost(host.WithEngine(sharedEngine), host.WithEngine(sharedEngine)); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Fatalf("got %v", err)
	}
	if after := held(t); after.temp != before.temp || after.descriptors > before.descriptors {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
