package state_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/state"
)

// TestMain makes the test binary a second process, too.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STATE_TEST_WRITER"); dir != "" {
		writer(dir)
	}
	// Each step of a check waits for the disk.
	if err := flag.Set("rapid.checks", "10"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// writer puts pairs of keys that belong together, and tells of each once it is
// kept, until it is killed.
func writer(dir string) {
	db, err := state.Open(dir)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		err := db.Update(func(tx *state.Tx) error {
			value := []byte(strings.Repeat(fmt.Sprint(i, " "), 100))
			if err := tx.Bucket("a").Put(fmt.Sprintf("%06d", i), value); err != nil {
				return err
			}
			return tx.Bucket("b").Put(fmt.Sprintf("%06d", i), value)
		})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(i)
	}
}

func startWriter(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "STATE_TEST_WRITER="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func open(t *testing.T, dir string) *state.DB {
	t.Helper()
	db, err := state.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	db := open(t, dir)
	if info, err := os.Stat(dir); err != nil || (os.PathSeparator == '/' && info.Mode().Perm() != 0o700) {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	if err := db.Bucket("b").Put("k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Bucket("b").Put("k", nil); !errors.Is(err, state.ErrClosed) {
		t.Errorf("put after close: %v", err)
	}
	db = open(t, dir)
	if v, err := db.Bucket("b").Get("k"); err != nil || string(v) != "v" {
		t.Errorf("%q, %v", v, err)
	}
}

func TestBucket(t *testing.T) {
	db := open(t, t.TempDir())
	b := db.Bucket("b")
	if _, err := b.Get("k"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("get from no bucket: %v", err)
	}
	if l, err := b.List("", 0); err != nil || len(l) != 0 {
		t.Errorf("list of no bucket: %v, %v", l, err)
	}
	if err := b.Delete("k"); err != nil {
		t.Errorf("delete from no bucket: %v", err)
	}
	value := []byte("v")
	if err := b.Put("k", value); err != nil {
		t.Fatal(err)
	}
	value[0] = 'x'
	got, err := b.Get("k")
	if err != nil || string(got) != "v" {
		t.Fatalf("%q, %v", got, err)
	}
	got[0] = 'y'
	if again, _ := b.Get("k"); string(again) != "v" {
		t.Errorf("a value that was returned is shared: %q", again)
	}
	if err := b.Put("empty", nil); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Get("empty"); err != nil || len(v) != 0 {
		t.Errorf("empty value: %q, %v", v, err)
	}
	for _, key := range []string{"", strings.Repeat("k", state.MaxKey+1)} {
		if err := b.Put(key, nil); err == nil {
			t.Errorf("a key of %d bytes was taken", len(key))
		}
	}
	if err := b.Put("big", make([]byte, state.MaxValue+1)); err == nil {
		t.Error("a value over the limit was taken")
	}
}

// A bucket is an ordered map, and a transaction is all or nothing.
func TestBucketIsAMap(t *testing.T) {
	db := open(t, t.TempDir())
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		b := db.Bucket(fmt.Sprint("map", n))
		want := map[string]string{}
		key := rapid.StringMatching(`[ab]{1,3}`)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				k, v := key.Draw(t, "k"), rapid.String().Draw(t, "v")
				if err := b.Put(k, []byte(v)); err != nil {
					t.Fatal(err)
				}
				want[k] = v
			},
			"delete": func(t *rapid.T) {
				k := key.Draw(t, "k")
				if err := b.Delete(k); err != nil {
					t.Fatal(err)
				}
				delete(want, k)
			},
			"abort": func(t *rapid.T) {
				k, stop := key.Draw(t, "k"), errors.New("stop")
				err := db.Update(func(tx *state.Tx) error {
					in := tx.Bucket(fmt.Sprint("map", n))
					if err := in.Put(k, []byte("aborted")); err != nil {
						return err
					}
					if v, err := in.Get(k); err != nil || string(v) != "aborted" {
						t.Fatalf("within the transaction: %q, %v", v, err)
					}
					return stop
				})
				if !errors.Is(err, stop) {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				for _, prefix := range []string{"", "a", "ab", "b"} {
					entries, err := b.List(prefix, 0)
					if err != nil {
						t.Fatal(err)
					}
					keys, err := b.Keys(prefix, 2)
					if err != nil || len(keys) != min(2, len(entries)) {
						t.Fatalf("%d keys of %d, limit 2 (%v)", len(keys), len(entries), err)
					}
					count := 0
					for k := range want {
						if strings.HasPrefix(k, prefix) {
							count++
						}
					}
					if count != len(entries) {
						t.Fatalf("%d entries with %q, want %d", len(entries), prefix, count)
					}
					for i, e := range entries {
						if v, ok := want[e.Key]; !ok || v != string(e.Value) || (i > 0 && entries[i-1].Key >= e.Key) {
							t.Fatalf("entry %d is %q: %q, want %q", i, e.Key, e.Value, v)
						}
						if i < len(keys) && keys[i] != e.Key {
							t.Fatalf("key %d is %q, want %q", i, keys[i], e.Key)
						}
					}
				}
			},
		})
	})
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	var locked *state.LockedError
	_, err := state.Open(dir)
	if !errors.As(err, &locked) || !errors.Is(err, state.ErrLocked) || locked.PID != os.Getpid() || locked.Dir != dir {
		t.Fatalf("second open in this process: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	cmd, out := startWriter(t, dir)
	if !out.Scan() || out.Text() != "0" {
		t.Fatalf("writer said %q", out.Text())
	}
	_, err = state.Open(dir)
	if !errors.As(err, &locked) || locked.PID != cmd.Process.Pid {
		t.Errorf("open beside process %d: %v", cmd.Process.Pid, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	open(t, dir)
}

// What the writer said is kept is there, and nothing is there by half, whenever
// it is killed.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	said := -1
	for round := range 8 {
		cmd, out := startWriter(t, dir)
		for range 3 + 5*round {
			if !out.Scan() {
				t.Fatal("writer ended early")
			}
			n := -1
			if _, err := fmt.Sscan(out.Text(), &n); err != nil {
				t.Fatalf("writer said %q", out.Text())
			}
			said = max(said, n)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		db := open(t, dir)
		a, err := db.Bucket("a").List("", 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := db.Bucket("b").List("", 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(a) <= said || len(a) != len(b) {
			t.Fatalf("round %d: %d and %d keys, writer said up to %d", round, len(a), len(b), said)
		}
		for i := range a {
			if want := strings.Repeat(fmt.Sprint(i, " "), 100); string(a[i].Value) != want || string(b[i].Value) != want {
				t.Fatalf("round %d: pair %d is %q and %q", round, i, a[i].Value, b[i].Value)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	for i := range 50 {
		if err := db.Bucket("b").Put(fmt.Sprint(i), make([]byte, 4000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "state.db")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{
		"not a database": []byte(strings.Repeat("hello ", 5000)),
		"empty":          {},
		"a few bytes":    good[:100],
		"cut in half":    good[:len(good)/2],
		"cut to metas":   good[:2*os.Getpagesize()],
		"zeroed tail":    append(good[:2*os.Getpagesize():2*os.Getpagesize()], make([]byte, len(good)-2*os.Getpagesize())...),
		"ones for pages": append(good[:2*os.Getpagesize():2*os.Getpagesize()], []byte(strings.Repeat("\xff", len(good)-2*os.Getpagesize()))...),
	} {
		t.Run(what, func(t *testing.T) {
			if err := os.WriteFile(name, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := state.Open(dir)
			if err == nil {
				_ = db.Close()
			}
			if !errors.Is(err, state.ErrCorrupt) || !strings.Contains(err.Error(), name) {
				t.Fatalf("got %v", err)
			}
		})
	}
	if err := os.WriteFile(name, good, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir) // the lock was let go of each time
}

func TestOtherVersion(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	if err := db.Bucket("forgeone").Put("version", []byte("99")); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Open(dir); !errors.Is(err, state.ErrVersion) {
		t.Errorf("got %v", err)
	}
}

// A database that was being made when its maker died is made anew.
func TestHalfMade(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "state.db.new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func Example() {
	dir, err := os.MkdirTemp("", "state")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	db, err := state.Open(dir)
	if err != nil {
		panic(err)
	}
	defer db.Close()

	cases := db.Bucket("cases")
	if err := cases.Put("Q-1", []byte("open")); err != nil {
		panic(err)
	}
	_, err = state.Open(dir)
	fmt.Println(errors.Is(err, state.ErrLocked))
	value, err := cases.Get("Q-1")
	fmt.Println(string(value), err)
	// Output:
	// true
	// open <nil>
}
