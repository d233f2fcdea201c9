package syscalls_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/syscalls"
)

func TestClock(t *testing.T) {
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Limited, capability.Grant{})
	before := time.Now()
	wall, err := strconv.ParseInt(string(p.ok("time_get", nil, "wall")), 10, 64)
	if err != nil || wall < before.UnixNano() || wall > time.Now().UnixNano() {
		t.Errorf("wall %d (%v) is not between %d and now", wall, err, before.UnixNano())
	}
	var last int64
	for range 100 {
		m, err := strconv.ParseInt(string(p.ok("time_get", nil, "monotonic")), 10, 64)
		if err != nil || m < last {
			t.Fatalf("monotonic went from %d to %d (%v)", last, m, err)
		}
		last = m
	}
	p.blocked("time_get", nil, "cpu")

	begun := time.Now()
	p.ok("time_sleep", nil, strconv.Itoa(int(20*time.Millisecond)))
	if d := time.Since(begun); d < 20*time.Millisecond {
		t.Errorf("slept %v, want 20ms", d)
	}
	p.code(abi.CodeTooLarge, "time_sleep", nil, strconv.Itoa(int(syscalls.MaxSleep)+1))
	p.code(abi.CodeInvalid, "time_sleep", nil, "-1")
	p.code(abi.CodeInvalid, "time_sleep", nil, strconv.FormatUint(math.MaxUint64, 10))
}

func TestSleepEnds(t *testing.T) {
	hour := strconv.Itoa(int(time.Hour))
	t.Run("with its context", func(t *testing.T) {
		p := newKernel(t, syscalls.Options{}).plugin("p", capability.Limited, capability.Grant{})
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		res := p.gate.SecureSyscall(ctx, &abi.SyscallContext{Subject: p.s, Syscall: "time_sleep", Args: []string{hour}})
		if res.Status != abi.Failure {
			t.Errorf("%v (%v), want a failure", res.Status, res.Error())
		}
	})
	t.Run("with its container", func(t *testing.T) {
		p := newKernel(t, syscalls.Options{}).plugin("p", capability.Limited, capability.Grant{})
		done := make(chan abi.SyscallResult)
		go func() { done <- p.do("time_sleep", 0, nil, hour) }()
		time.Sleep(10 * time.Millisecond)
		p.s.Container.Quarantine("test")
		res := <-done
		if res.Status == abi.Success {
			t.Errorf("slept on: %v", res.Status)
		}
		if err := p.s.Container.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestRandom(t *testing.T) {
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Limited, capability.Grant{})
	a, b := p.ok("random_get", nil, "32"), p.ok("random_get", nil, "32")
	if len(a) != 32 || bytes.Equal(a, b) {
		t.Errorf("%x and %x", a, b)
	}
	if n := len(p.ok("random_get", nil, strconv.Itoa(syscalls.MaxRandom))); n != syscalls.MaxRandom {
		t.Errorf("%d bytes, want %d", n, syscalls.MaxRandom)
	}
	p.code(abi.CodeTooLarge, "random_get", nil, strconv.Itoa(syscalls.MaxRandom+1))
	p.code(abi.CodeInvalid, "random_get", nil, "many")
}

func TestEnv(t *testing.T) {
	vars := map[string]string{"LANG": "en", "EMPTY": "", "SECRET": "s3cret", "BIG": strings.Repeat("x", syscalls.MaxEnvValue+1)}
	k := newKernel(t, syscalls.Options{Environ: func(n string) (string, bool) { v, ok := vars[n]; return v, ok }})
	p := k.plugin("p", capability.Limited, capability.Grant{Resources: []string{"env://LANG", "env://EMPTY", "env://BIG", "env://GONE"}})
	if v := string(p.ok("env_get", nil, "LANG")); v != "en" {
		t.Errorf("LANG is %q", v)
	}
	if v := p.ok("env_get", nil, "EMPTY"); len(v) != 0 {
		t.Errorf("EMPTY is %q", v)
	}
	p.code(abi.CodeNotFound, "env_get", nil, "GONE")
	p.code(abi.CodeTooLarge, "env_get", nil, "BIG")
	for _, name := range []string{"SECRET", "NOT_THERE", "", "A=B", "LANG\x00", "LANG\n", "\xff", strings.Repeat("A", syscalls.MaxEnvName+1)} {
		p.blocked("env_get", nil, name)
	}
	if runtime.GOOS == "windows" {
		p.ok("env_get", nil, "lang")
	}
}

func TestHash(t *testing.T) {
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Limited, capability.Grant{})
	for _, data := range [][]byte{nil, []byte("abc"), make([]byte, 1<<20)} {
		s256, s384, s512 := sha256.Sum256(data), sha512.Sum384(data), sha512.Sum512(data)
		for alg, want := range map[string][]byte{"sha256": s256[:], "sha384": s384[:], "sha512": s512[:]} {
			if got := p.ok("crypto_hash", data, alg); !bytes.Equal(got, want) {
				t.Errorf("%s of %d bytes: %x, want %x", alg, len(data), got, want)
			}
		}
	}
	p.blocked("crypto_hash", nil, "md5")
	p.code(abi.CodeTooLarge, "crypto_hash", make([]byte, syscalls.MaxHash+1), "sha256")
}

// lines collects what a logger writes.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) records(t *testing.T) (out []map[string]any) {
	t.Helper()
	for line := range strings.Lines(l.b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, m)
	}
	l.b.Reset()
	return out
}

func TestLog(t *testing.T) {
	var out lines
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &out, JSONFormat: true})
	p := newKernel(t, syscalls.Options{Logger: logger}).plugin("p", capability.Limited, capability.Grant{})

	p.ok("log_write", nil, "info", "hello", "file", "a\x1b[31m", "n", "1")
	p.ok("log_write", nil, "error", "line\nforged", "k", strings.Repeat("é", syscalls.MaxFieldValue))
	p.ok("log_write", nil, "trace", strings.Repeat("m", syscalls.MaxMessage+5))
	recs := out.records(t)
	if len(recs) != 3 {
		t.Fatalf("%d records: %v", len(recs), recs)
	}
	for i, want := range []map[string]any{
		{"@level": "info", "@message": "hello", "plugin": "p", "container": "p-1", "file": `a\x1b[31m`, "n": "1"},
		{"@level": "warn", "said": "error", "@message": `line\nforged`, "k": strings.Repeat("é", syscalls.MaxFieldValue/2) + fmt.Sprintf("… (%d bytes more)", syscalls.MaxFieldValue)},
		{"@level": "trace", "@message": strings.Repeat("m", syscalls.MaxMessage) + "… (5 bytes more)"},
	} {
		for k, v := range want {
			if recs[i][k] != v {
				t.Errorf("record %d: %s is %q, want %q", i, k, recs[i][k], v)
			}
		}
	}
	for _, args := range [][]string{
		{"fatal", "m"}, {"off", "m"}, {"", "m"}, {"info", "m", "odd"},
		{"info", "m", "plugin", "other"}, {"info", "m", "@level", "x"}, {"info", "m", "a b", "x"}, {"info", "m", "", "x"},
		append([]string{"info", "m"}, strings.Split(strings.Repeat("k,v,", syscalls.MaxFields+1), ",")[:2*syscalls.MaxFields+2]...),
	} {
		p.blocked("log_write", nil, args...)
	}
	if recs := out.records(t); len(recs) != 0 {
		t.Errorf("malformed requests were logged: %v", recs)
	}
}

// A plugin that floods the log is cut off, and the log says so; others are not.
func TestLogRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lines
		logger := hclog.New(&hclog.LoggerOptions{Output: &out, JSONFormat: true})
		var write abi.Registration
		for _, r := range syscalls.Registrations(syscalls.Options{Logger: logger}) {
			if r.Name == "log_write" {
				write = r
			}
		}
		log := func(plugin string) error {
			_, err := write.Handler(t.Context(), &abi.SyscallContext{
				Subject: &abi.Subject{Plugin: plugin, Container: abi.NewContainer("c")}, Args: []string{"info", "m"},
			}, &abi.Resolution{})
			return err
		}
		const flood = syscalls.MaxLogBurst + 50
		failed := 0
		for range flood {
			if log("p") != nil {
				failed++
			}
		}
		if failed != 50 || log("q") != nil {
			t.Errorf("%d of %d lines were dropped, want 50", failed, flood)
		}
		out.records(t)
		time.Sleep(time.Second)
		for range syscalls.MaxLogRate {
			if err := log("p"); err != nil {
				t.Fatal(err)
			}
		}
		var se *abi.SyscallError
		if err := log("p"); !errors.As(err, &se) || se.Code != 11 {
			t.Errorf("over the rate: %v", err)
		}
		recs := out.records(t)
		if len(recs) != syscalls.MaxLogRate || recs[0]["dropped"] != 50.0 || recs[1]["dropped"] != nil {
			t.Errorf("%d records, the first %v", len(recs), recs[0])
		}
	})
}

func TestStdio(t *testing.T) {
	var got []string
	p := newKernel(t, syscalls.Options{Stdio: func(plugin, stream string, b []byte) {
		got = append(got, plugin+" "+stream+" "+string(b))
	}}).plugin("p", capability.Limited, capability.Grant{})
	p.ok("stdio_write", []byte("one"), "stdout")
	p.ok("stdio_write", []byte("two"), "stderr")
	p.blocked("stdio_write", nil, "stdin")
	p.code(abi.CodeTooLarge, "stdio_write", make([]byte, syscalls.MaxStdio+1), "stdout")
	if want := []string{"p stdout one", "p stderr two"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", got, want)
	}

	var out lines
	logger := hclog.New(&hclog.LoggerOptions{Output: &out, JSONFormat: true})
	p = newKernel(t, syscalls.Options{Logger: logger}).plugin("q", capability.Limited, capability.Grant{})
	p.ok("stdio_write", []byte("a\nb\x07\n"), "stderr")
	recs := out.records(t)
	if len(recs) != 2 || recs[0]["@message"] != "a" || recs[1]["@message"] != `b\a` || recs[0]["plugin"] != "q" || recs[0]["stream"] != "stderr" {
		t.Errorf("logged %v", recs)
	}
}

func TestSysInfo(t *testing.T) {
	p := newKernel(t, syscalls.Options{Version: "1.2.3"}).plugin("p", capability.Limited, capability.Grant{})
	var got syscalls.SysInfo
	if err := json.Unmarshal(p.ok("sys_info", nil), &got); err != nil {
		t.Fatal(err)
	}
	if want := (syscalls.SysInfo{runtime.GOOS, runtime.GOARCH, "1.2.3", runtime.NumCPU()}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestKV(t *testing.T) {
	k := newKernel(t, syscalls.Options{State: openState(t)})
	p := k.plugin("p", capability.Limited, capability.Grant{})
	q := k.plugin("q", capability.Limited, capability.Grant{})

	p.code(abi.CodeNotFound, "kv_get", nil, "a")
	p.code(abi.CodeNotFound, "kv_delete", nil, "a")
	p.ok("kv_put", []byte("1"), "a")
	p.ok("kv_put", nil, "empty")
	p.ok("kv_put", []byte("2"), "dir/b c%")
	if v := string(p.ok("kv_get", nil, "a")); v != "1" {
		t.Errorf("a is %q", v)
	}
	if v := p.ok("kv_get", nil, "empty"); len(v) != 0 {
		t.Errorf("empty is %q", v)
	}
	q.code(abi.CodeNotFound, "kv_get", nil, "a")
	if l := string(q.ok("kv_list", nil, "")); l != "[]" {
		t.Errorf("another plugin's keys: %s", l)
	}
	for prefix, want := range map[string]string{"": `["a","dir/b c%","empty"]`, "dir/": `["dir/b c%"]`, "z": `[]`} {
		if l := string(p.ok("kv_list", nil, prefix)); l != want {
			t.Errorf("keys with %q: %s, want %s", prefix, l, want)
		}
	}
	p.ok("kv_delete", nil, "a")
	p.code(abi.CodeNotFound, "kv_get", nil, "a")

	for _, key := range []string{"", "\x00", "a\n", "\xff", strings.Repeat("k", syscalls.MaxKVKey+1)} {
		p.blocked("kv_put", nil, key)
	}
	p.code(abi.CodeTooLarge, "kv_put", make([]byte, syscalls.MaxKVValue+1), "big")
}

func TestKVWithoutState(t *testing.T) {
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Limited, capability.Grant{})
	for _, name := range []string{"kv_get", "kv_put", "kv_delete", "kv_list"} {
		p.code(abi.CodeUnsupported, name, nil, "a")
	}
}

// The quota holds by what is there: overwriting and deleting give room back.
func TestKVQuota(t *testing.T) {
	k := newKernel(t, syscalls.Options{State: openState(t)})
	p := k.plugin("p", capability.Limited, capability.Grant{})
	value := make([]byte, syscalls.MaxKVValue)
	n := syscalls.MaxKVBytes / syscalls.MaxKVValue
	for i := range n - 1 {
		p.ok("kv_put", value, fmt.Sprintf("%02d", i))
	}
	p.code(abi.CodeNoSpace, "kv_put", value, "xx")
	rest := syscalls.MaxKVValue - 2*n
	p.ok("kv_put", value[:rest], "xx") // to the last byte
	p.code(abi.CodeNoSpace, "kv_put", nil, "y")
	p.code(abi.CodeNoSpace, "kv_put", value[:rest+1], "xx")
	p.ok("kv_put", value[:rest], "xx")
	p.ok("kv_delete", nil, "00")
	p.ok("kv_put", value, "00")
	k.plugin("q", capability.Limited, capability.Grant{}).ok("kv_put", value, "xx")
}

// What a plugin is charged for is what it has.
func TestKVUsage(t *testing.T) {
	db := openState(t)
	p := newKernel(t, syscalls.Options{State: db}).plugin("p", capability.Limited, capability.Grant{})
	key := rapid.StringMatching(`[ab]{1,2}`)
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			k := key.Draw(t, "key")
			if rapid.Bool().Draw(t, "put") {
				p.do("kv_put", 0, make([]byte, rapid.IntRange(0, 50).Draw(t, "len")), k)
			} else {
				p.do("kv_delete", 0, nil, k) // or not found
			}
		}
		entries, err := db.Bucket("kv/p").List("", 0)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"keys": len(entries), "bytes": 0}
		for _, e := range entries {
			want["bytes"] += len(e.Key) + len(e.Value)
		}
		text, err := db.Bucket("kv_usage").Get("p")
		if errors.Is(err, state.ErrNotFound) {
			text, err = []byte(`{"keys":0,"bytes":0}`), nil
		}
		var got map[string]int
		if err := errors.Join(err, json.Unmarshal(text, &got)); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("charged for %v, has %v", got, want)
		}
	})
}

func TestKVListLimit(t *testing.T) {
	db := openState(t)
	p := newKernel(t, syscalls.Options{State: db}).plugin("p", capability.Limited, capability.Grant{})
	err := db.Update(func(tx *state.Tx) error {
		for i := range syscalls.MaxKVList {
			if err := tx.Bucket("kv/p").Put(fmt.Sprintf("k%05d", i), nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	if err := json.Unmarshal(p.ok("kv_list", nil, ""), &keys); err != nil || len(keys) != syscalls.MaxKVList {
		t.Errorf("%d keys (%v)", len(keys), err)
	}
	p.ok("kv_put", nil, "one more")
	p.code(abi.CodeTooLarge, "kv_list", nil, "")
	p.ok("kv_list", nil, "k")
}

// What a trust level may hold is DESIGN.md's ceiling.
func TestLowestTrust(t *testing.T) {
	for _, r := range syscalls.Registrations(syscalls.Options{}) {
		want := capability.Limited
		switch r.Name {
		case "file_write", "file_truncate", "file_sync", "file_mkdir", "file_remove", "file_rename", "file_link", "file_symlink", "file_times",
			"net_connect", "net_send", "net_recv", "net_close", "http_request", "secret_get", "crypto_sign", "plugin_call",
			"ipc_send", "ipc_recv", "mem_alloc", "mem_free", "mem_read", "mem_write":
			want = capability.Standard
		case "net_listen", "net_accept":
			want = capability.Trusted
		}
		if r.MinTrust != want {
			t.Errorf("%s needs %s, want %s", r.Name, r.MinTrust, want)
		}
		if r.Doc == "" || strings.Contains(r.Doc, "\n") {
			t.Errorf("%s: Doc %q is not one line", r.Name, r.Doc)
		}
	}
}

func TestErrorsAreSyscallErrors(t *testing.T) {
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Limited, capability.Grant{})
	var se *abi.SyscallError
	if err := p.do("random_get", 0, nil, "x").Error(); !errors.As(err, &se) {
		t.Errorf("%T", err)
	}
}

// A reason is for a person, a log line and a record: what it quotes of an
// argument is bounded, whatever the argument.
func TestReasonsAreBounded(t *testing.T) {
	p := newKernel(t, syscalls.Options{State: openState(t)}).plugin("p", capability.Limited, capability.Grant{})
	for name, args := range map[string][]string{
		"file_open": {strings.Repeat("\xff", syscalls.MaxPath), "r"},
		"kv_get":    {strings.Repeat("\xff", syscalls.MaxKVKey)},
		"env_get":   {strings.Repeat("\xff", syscalls.MaxEnvName)},
	} {
		if reason := p.blocked(name, nil, args...); len(reason) > 2048 {
			t.Errorf("%s: a reason of %d bytes", name, len(reason))
		}
	}
	p.s.Container = abi.NewContainer("p-2") // each denial has its price
	if reason := p.blocked("file_open", nil, "/"+strings.Repeat("\xff", syscalls.MaxPath-1), "r"); len(reason) > 2048 {
		t.Errorf("a reason of %d bytes", len(reason))
	}
	p.code(abi.CodeNotFound, "kv_get", nil, strings.Repeat("k", syscalls.MaxKVKey))
}
