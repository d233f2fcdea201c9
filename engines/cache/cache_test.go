package cache_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/cache"
	"forgeone.dev/forgeone/engines/enginetest"
)

// The wrapped engine is as good as the engine, whether it compiles or loads.
func TestConformance(t *testing.T) {
	cfg := config(t.TempDir())
	for _, round := range []string{"compiled", "kept"} {
		t.Run(round, func(t *testing.T) {
			enginetest.Test(t, func(t testing.TB) engines.WasmEngine {
				e, err := wrapped(newEngine, cfg, "")
				if err != nil {
					t.Fatal(err)
				}
				cache.KeepAll(e)
				return e
			})
		})
	}
	if n := len(entries(t, cfg)); n < 50 {
		t.Errorf("%d entries: the suite did not go through the cache", n)
	}
}

func config(dir string) cache.Config {
	return cache.Config{Dir: filepath.Join(dir, "cache"), KeyFile: filepath.Join(dir, "state", "key")}
}

// counted is an engine that counts what is compiled by it, and remembers what
// code it was given to run.
type counted struct {
	engines.WasmEngine
	mu           sync.Mutex
	compiled     int
	made, loaded []string // hashes of code
}

func (c *counted) Serialize(ctx context.Context, wasm []byte, opts engines.CompileOptions) ([]byte, error) {
	code, err := c.WasmEngine.(engines.Serializer).Serialize(ctx, wasm, opts)
	sum := sha256.Sum256(code)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compiled++
	c.made = append(c.made, hex.EncodeToString(sum[:]))
	return code, err
}

func (c *counted) Deserialize(ctx context.Context, wasm, code []byte, opts engines.CompileOptions) (engines.Module, error) {
	sum := sha256.Sum256(code)
	c.mu.Lock()
	c.loaded = append(c.loaded, hex.EncodeToString(sum[:]))
	c.mu.Unlock()
	return c.WasmEngine.(engines.Serializer).Deserialize(ctx, wasm, code, opts)
}

// kernel is a wrapped engine, as each start of a kernel makes one.
type kernel struct {
	engines.WasmEngine
	counted *counted
	log     bytes.Buffer
}

func start(t *testing.T, cfg cache.Config) *kernel {
	t.Helper()
	inner, err := newEngine()
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{counted: &counted{WasmEngine: inner}}
	logger := hclog.New(&hclog.LoggerOptions{Output: &k.log})
	if k.WasmEngine, err = cache.Wrap(k.counted, cache.Options{Config: cfg, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

// answer compiles plain(n) and returns what it answers, which is n.
func (k *kernel) answer(t *testing.T, n int32, opts engines.CompileOptions) int32 {
	t.Helper()
	m, err := k.Compile(t.Context(), plain(n), opts)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := m.Instantiate(t.Context(), engines.Imports{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := inst.Func("answer")
	if err != nil {
		t.Fatal(err)
	}
	stack := make([]uint64, 1)
	if err := f.Call(t.Context(), stack); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(inst.Close(), m.Close()); err != nil {
		t.Fatal(err)
	}
	return int32(uint32(stack[0]))
}

func (k *kernel) expect(t *testing.T, n int32, compiled int) {
	t.Helper()
	if got := k.answer(t, n, engines.CompileOptions{}); got != n {
		t.Errorf("the module of %d answers %d", n, got)
	}
	if k.counted.compiled != compiled {
		t.Errorf("%d compilations, want %d\n%s", k.counted.compiled, compiled, &k.log)
	}
}

func entries(t *testing.T, cfg cache.Config) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(cfg.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestKept(t *testing.T) {
	cfg := config(t.TempDir())
	start(t, cfg).expect(t, 7, 1)
	second := start(t, cfg)
	second.expect(t, 7, 0)
	second.expect(t, 8, 1) // another module
	second.answer(t, 7, engines.CompileOptions{MemoryLimitPages: 1})
	if second.counted.compiled != 2 {
		t.Error("code was taken that was compiled with other options")
	}
	if s := second.log.String(); s != "" {
		t.Errorf("there is nothing to say: %s", s)
	}
	for path, mode := range map[string]fs.FileMode{cfg.Dir: 0o700, cfg.KeyFile: 0o600, entries(t, cfg)[0]: 0o600} {
		if fi, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", path, fi.Mode(), err, mode)
		}
	}
}

// What an attacker leaves in the directory is not run, but replaced.
func TestNotAuthentic(t *testing.T) {
	for name, attack := range map[string]func(t *testing.T, cfg cache.Config, entry string){
		"code of the attacker's own": func(t *testing.T, _ cache.Config, entry string) {
			edit(t, entry, func(b []byte) []byte { return append(b[:16:16], bytes.Repeat([]byte{0x90}, 4096)...) })
		},
		"a flipped bit": func(t *testing.T, _ cache.Config, entry string) {
			edit(t, entry, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		},
		"cut short": func(t *testing.T, _ cache.Config, entry string) {
			edit(t, entry, func(b []byte) []byte { return b[:len(b)-1] })
		},
		"empty": func(t *testing.T, _ cache.Config, entry string) {
			edit(t, entry, func([]byte) []byte { return nil })
		},
		"longer": func(t *testing.T, _ cache.Config, entry string) {
			edit(t, entry, func(b []byte) []byte { return append(b, 0) })
		},
		"another format": func(t *testing.T, _ cache.Config, entry string) {
			edit(t, entry, func(b []byte) []byte { return bytes.Replace(b, []byte("code 1"), []byte("code 0"), 1) })
		},
		"the entry of another module": func(t *testing.T, cfg cache.Config, entry string) {
			start(t, cfg).expect(t, 8, 1)
			for _, other := range entries(t, cfg) {
				if other != entry {
					if err := os.Rename(other, entry); err != nil {
						t.Fatal(err)
					}
				}
			}
		},
		"an entry made with another key": func(t *testing.T, cfg cache.Config, entry string) {
			foreign := config(t.TempDir())
			start(t, foreign).expect(t, 7, 1)
			if err := os.Rename(entries(t, foreign)[0], entry); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t.TempDir())
			start(t, cfg).expect(t, 7, 1)
			entry := entries(t, cfg)[0]
			attack(t, cfg, entry)

			k := start(t, cfg)
			k.expect(t, 7, 1)
			if !slices.Equal(k.counted.loaded, k.counted.made) {
				t.Errorf("the engine was given other code than was compiled: %q", k.counted.loaded)
			}
			if !strings.Contains(k.log.String(), filepath.Base(entry)) {
				t.Errorf("the entry is not told of: %q", &k.log)
			}
			start(t, cfg).expect(t, 7, 0) // it was replaced
		})
	}
}

func edit(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A cache that cannot be used, or not safely, costs the cache and nothing else.
func TestUnusable(t *testing.T) {
	write := func(t *testing.T, path, content string, mode fs.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, cfg *cache.Config)
		says  string
		unix  bool
	}{
		"a file in its place":      {spoil: func(t *testing.T, cfg *cache.Config) { write(t, cfg.Dir, "", 0o600) }, says: "directory"},
		"no key file":              {spoil: func(_ *testing.T, cfg *cache.Config) { cfg.KeyFile = "" }, says: "needs a key file"},
		"a short key":              {spoil: func(t *testing.T, cfg *cache.Config) { write(t, cfg.KeyFile, "secret", 0o600) }, says: "it is no key"},
		"a key that others read":   {spoil: func(t *testing.T, cfg *cache.Config) { write(t, cfg.KeyFile, strings.Repeat("k", 32), 0o644) }, says: "0044", unix: true},
		"a directory others write": {spoil: func(t *testing.T, cfg *cache.Config) { open(t, cfg.Dir) }, says: "0022", unix: true},
		"a key where others write": {spoil: func(t *testing.T, cfg *cache.Config) { open(t, filepath.Dir(cfg.KeyFile)) }, says: "0022", unix: true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.unix && runtime.GOOS == "windows" {
				t.Skip("modes say nothing of who may write on windows")
			}
			cfg := config(t.TempDir())
			tc.spoil(t, &cfg)
			k := start(t, cfg)
			k.expect(t, 7, 1)
			k.expect(t, 7, 2)
			if got := k.log.String(); strings.Count(got, "[WARN]") != 1 || !strings.Contains(got, tc.says) {
				t.Errorf("want one warning with %q: %s", tc.says, got)
			}
		})
	}
}

func open(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // what is tested
		t.Fatal(err)
	}
}

// A directory that fails while it is used is warned of once.
func TestLostDirectory(t *testing.T) {
	cfg := config(t.TempDir())
	k := start(t, cfg)
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Skip(err) // a directory that is open cannot be removed here
	}
	k.expect(t, 7, 1)
	k.expect(t, 7, 2)
	if got := k.log.String(); strings.Count(got, "[WARN]") != 1 {
		t.Errorf("want one warning: %s", got)
	}
}

// What was used longest ago goes first.
func TestSizeLimit(t *testing.T) {
	cfg := config(t.TempDir())
	start(t, cfg).expect(t, 0, 1)
	fi, err := os.Stat(entries(t, cfg)[0])
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxBytes = 3*fi.Size() + fi.Size()/2 // three entries
	stale := filepath.Join(cfg.Dir, "tmp-left-behind")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k := start(t, cfg)
	k.expect(t, 1, 1)
	k.expect(t, 2, 2)
	age := time.Now().Add(-2 * time.Hour)
	for _, path := range entries(t, cfg) {
		if path == stale {
			continue
		}
		if err := os.Chtimes(path, age, age); err != nil {
			t.Fatal(err)
		}
	}
	k.expect(t, 0, 2) // is used
	k.expect(t, 3, 3) // one of 1 and 2 goes
	if got := entries(t, cfg); len(got) != 3+1 {
		t.Errorf("%d files, want 3 entries and one unfinished: %q", len(got), got)
	}
	k.expect(t, 0, 3)
	k.expect(t, 3, 3)
	before := k.counted.compiled
	k.answer(t, 1, engines.CompileOptions{})
	k.answer(t, 2, engines.CompileOptions{})
	if k.counted.compiled == before {
		t.Error("nothing has gone that was used longest ago")
	}
	if err := os.Chtimes(stale, age, age); err != nil {
		t.Fatal(err)
	}
	k.expect(t, 4, k.counted.compiled+1)
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a dead process left behind is still there: %v", err)
	}
}

// Kernels that share a directory do not disturb each other.
func TestShared(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 64 << 10 // a few entries: they go while others read them
	var wg sync.WaitGroup
	for range 4 {
		k := start(t, cfg)
		wg.Go(func() {
			for n := range int32(20) {
				if got := k.answer(t, n%10, engines.CompileOptions{}); got != n%10 {
					t.Errorf("the module of %d answers %d", n%10, got)
				}
			}
			if s := k.log.String(); s != "" {
				t.Errorf("there is nothing to say: %s", s)
			}
		})
	}
	wg.Wait()
}

// Kernels whose keys are their own find each their own code in a directory.
func TestSharedByStrangers(t *testing.T) {
	one, other := config(t.TempDir()), config(t.TempDir())
	other.Dir = one.Dir
	for compiled := 1; compiled >= 0; compiled-- {
		for _, cfg := range []cache.Config{one, other} {
			k := start(t, cfg)
			k.expect(t, 7, compiled)
			if s := k.log.String(); s != "" {
				t.Errorf("there is nothing to say: %s", s)
			}
		}
	}
}

// A kernel that is killed while it writes leaves nothing that is not whole.
func TestKilled(t *testing.T) {
	cfg := config(t.TempDir())
	for i := range 5 {
		cmd := exec.Command(os.Args[0], "fill")
		cmd.Env = append(os.Environ(), "FILL_DIR="+cfg.Dir, "FILL_KEY="+cfg.KeyFile)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 3 + i {
			if !lines.Scan() {
				t.Fatal("it keeps nothing")
			}
		}
		time.Sleep(time.Duration(i) * 700 * time.Microsecond) // to another moment of the next
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		k := start(t, cfg)
		for n := range int32(8) {
			if got := k.answer(t, n, engines.CompileOptions{}); got != n {
				t.Errorf("the module of %d answers %d", n, got)
			}
		}
		if s := k.log.String(); s != "" {
			t.Errorf("it left an entry that is not whole: %s", s)
		}
	}
}

func TestNoSerializer(t *testing.T) {
	e, err := newEngine()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	_, err = cache.Wrap(struct{ engines.WasmEngine }{e}, cache.Options{})
	if _, ok := errors.AsType[*engines.UnsupportedError](err); !ok {
		t.Errorf("an engine whose code cannot be kept: %v", err)
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cfg := cache.Config{Dir: filepath.Join(dir, "cache"), KeyFile: filepath.Join(dir, "key")}
	inner, err := newEngine()
	if err != nil {
		panic(err)
	}
	// The arguments lead this program to cache.RunCompiler when it is run again.
	e, err := cache.Wrap(inner, cache.Options{Config: cfg, Compiler: cache.NewCompiler(cfg, "compile")})
	if err != nil {
		panic(err)
	}
	defer func() { _ = e.Close() }()
	m, err := e.Compile(context.Background(), plain(42), engines.CompileOptions{})
	if err != nil {
		panic(err)
	}
	kept, err := filepath.Glob(filepath.Join(cfg.Dir, "*"))
	fmt.Println(len(m.Exports()), "export,", len(kept), "entry,", err)
	// Output: 1 export, 1 entry, <nil>
}
