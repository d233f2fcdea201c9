// Package sdktest tests plugins of package sdk, and compiled guests of forge/1,
// without a daemon. It is for tests alone.
//
// A [Kernel] grants what it is made with, in the words of a plugin's
// capabilities block, and blocks the rest: a test that passes shows that the
// grants suffice. It is the kernel's own gate and its own effects, on a file
// tree, keys and a record that live as long as the test. Beyond that a test
// says how a syscall is answered: by data, by a failure, by a refusal.
//
//	k := sdktest.New(t, "read_file", "kv_*", "file:///data/**").
//		File("/data/a.txt", "text").
//		Deny("kv_put", "the quota is used up")
//	out, err := sdktest.Call(t, k, summarise.Run, []byte("/data/a.txt"))
//
// [Load] and [Build] do the same with a WASM guest.
package sdktest

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/state"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// plugin is the name and identity of what is tested.
const plugin = "plugin"

// Kernel answers the syscalls of a plugin under test. It is made by [New], and
// told by its methods, before a call or between two, how it is to answer; they
// return the kernel itself. They are for one goroutine.
type Kernel struct {
	t       testing.TB
	dir     string // of the host that is the plugin's root
	subject *abi.Subject
	options syscalls.Options
	env     map[string]string
	answers map[string]abi.Registration
	refused map[string]zta.Policy
	log     log
	gate    *abi.Gate // nil until the next call
}

// New makes a kernel that grants what is named: syscalls as "file_open",
// "read_file" or "kv_*", and resources as "file:///data/**". It is gone when the
// test ends. A grant that a configuration would not take fails the test.
func New(t testing.TB, grants ...string) *Kernel {
	t.Helper()
	var grant capability.Grant
	for _, g := range grants {
		if strings.Contains(g, "://") {
			grant.Resources = append(grant.Resources, g)
		} else {
			grant.Syscalls = append(grant.Syscalls, g)
		}
	}
	set, err := capability.New(grant)
	if err != nil {
		t.Fatalf("sdktest: %v", err)
	}
	k := &Kernel{t: t, dir: t.TempDir(), env: map[string]string{}, answers: map[string]abi.Registration{}, refused: map[string]zta.Policy{}}
	root, err := os.OpenRoot(k.dir)
	if err != nil {
		t.Fatalf("sdktest: %v", err)
	}
	db, err := state.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatalf("sdktest: %v", errors.Join(err, root.Close()))
	}
	k.options = syscalls.Options{State: db, Version: "test", Environ: func(name string) (string, bool) {
		v, ok := k.env[name]
		return v, ok
	}}
	k.subject = &abi.Subject{
		Plugin: plugin, Identity: zta.Identity{ID: plugin, TrustVector: zta.Root}, TrustLevel: capability.Core, Capabilities: set,
		Container: abi.NewContainer(plugin), Mounts: []abi.Mount{{Guest: "/", Root: root}}, CallHandles: true,
	}
	t.Cleanup(func() {
		k.subject.Container.Close("the test has ended")
		if err := errors.Join(k.subject.Container.Drain(context.Background()), db.Close(), root.Close()); err != nil {
			t.Errorf("sdktest: %v", err)
		}
	})
	return k
}

// File puts a file where the plugin finds it by that absolute path.
func (k *Kernel) File(guest, content string) *Kernel {
	k.t.Helper()
	host := k.host(guest)
	if err := errors.Join(os.MkdirAll(filepath.Dir(host), 0o700), os.WriteFile(host, []byte(content), 0o600)); err != nil {
		k.t.Fatalf("sdktest: %v", err)
	}
	return k
}

// ReadFile is what the file at an absolute path of the plugin holds now.
func (k *Kernel) ReadFile(guest string) string {
	k.t.Helper()
	b, err := os.ReadFile(k.host(guest))
	if err != nil {
		k.t.Fatalf("sdktest: %v", err)
	}
	return string(b)
}

func (k *Kernel) host(guest string) string {
	k.t.Helper()
	if !path.IsAbs(guest) {
		k.t.Fatalf("sdktest: path %q is not absolute; a plugin's paths begin with /", guest)
	}
	return filepath.Join(k.dir, filepath.FromSlash(path.Clean(guest)))
}

// Env sets a variable of the kernel's environment, which is empty besides.
func (k *Kernel) Env(name, value string) *Kernel {
	k.env[name] = value
	return k
}

// Answer makes a syscall, if it is granted, yield data instead of having its
// effect. The kernel need not know it.
func (k *Kernel) Answer(syscall, data string) *Kernel {
	return k.AnswerFunc(syscall, func([]string, []byte) ([]byte, error) { return []byte(data), nil })
}

// Fail makes a syscall, if it is granted, fail with a code of package sdk.
func (k *Kernel) Fail(syscall string, code int32, message string) *Kernel {
	return k.AnswerFunc(syscall, func([]string, []byte) ([]byte, error) {
		return nil, &sdk.SyscallError{Code: code, Message: message}
	})
}

// AnswerFunc makes a syscall, if it is granted, yield what f does of its
// arguments and payload, neither of which f may keep. An error that wraps a
// *[sdk.SyscallError] fails with its code, any other with [sdk.CodeIO].
func (k *Kernel) AnswerFunc(syscall string, f func(args []string, payload []byte) ([]byte, error)) *Kernel {
	name := capability.Canonical(syscall)
	k.answers[name] = abi.Registration{Name: name, Args: []string{"any..."}, MinTrust: capability.Limited,
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			data, err := f(sc.Args, sc.Payload)
			if failed, ok := errors.AsType[*sdk.SyscallError](err); ok {
				err = &abi.SyscallError{Code: failed.Code, Message: failed.Message, Context: failed.Context}
			}
			return data, err
		}}
	k.gate = nil
	return k
}

// Deny makes policy block a syscall. The plugin is told the reason, among what
// the kernel says besides.
func (k *Kernel) Deny(syscall, reason string) *Kernel { return k.refuse(syscall, reason, zta.Block) }

// Quarantine makes policy answer a syscall with the plugin's quarantine: a guest
// ends there, and no further call is taken.
func (k *Kernel) Quarantine(syscall, reason string) *Kernel {
	return k.refuse(syscall, reason, zta.Quarantine)
}

func (k *Kernel) refuse(syscall, reason string, o zta.Outcome) *Kernel {
	name := capability.Canonical(syscall)
	k.refused[name] = zta.Policy{Name: name + ": " + reason, Syscalls: []string{name}, DenyIdentities: []string{plugin}, OnViolation: o}
	k.gate = nil
	return k
}

// Allow takes back what Answer, Fail, Deny and Quarantine said of a syscall. A
// plugin that was quarantined remains so.
func (k *Kernel) Allow(syscall string) *Kernel {
	name := capability.Canonical(syscall)
	delete(k.answers, name)
	delete(k.refused, name)
	k.gate = nil
	return k
}

// Records are what is on record of a syscall: one record for each decision, the
// oldest first. Repeats that differ in nothing that was decided share one within
// a call. The name "" stands for every syscall.
func (k *Kernel) Records(syscall string) []audit.Record {
	k.log.mu.Lock()
	defer k.log.mu.Unlock()
	var found []audit.Record
	for _, r := range k.log.records {
		if r.Kind == audit.KindSyscall && r.Intent == 0 && (syscall == "" || r.Syscall == capability.Canonical(syscall)) {
			found = append(found, r)
		}
	}
	return found
}

// begin begins a call of the plugin.
func (k *Kernel) begin(t testing.TB, function string, input []byte) (*abi.Call, error) {
	t.Helper()
	if k.gate == nil {
		gate, err := k.newGate()
		if err != nil {
			t.Fatalf("sdktest: %v", err)
		}
		k.gate = gate
	}
	return k.gate.Begin(t.Context(), k.subject, function, input)
}

func (k *Kernel) newGate() (*abi.Gate, error) {
	reg := new(abi.SyscallRegistry)
	effects := slices.DeleteFunc(syscalls.Registrations(k.options), func(r abi.Registration) bool {
		_, scripted := k.answers[r.Name]
		return scripted
	})
	if err := reg.Register(effects...); err != nil {
		return nil, err
	}
	policies := []zta.Policy{{Name: "all", Syscalls: []string{"*"}}}
	for _, r := range k.answers {
		if err := reg.Register(r); err != nil {
			return nil, err
		}
	}
	for _, p := range k.refused {
		policies = append(policies, p)
	}
	graph, err := reg.Compile(policies, zta.Enforce)
	if err != nil {
		return nil, err
	}
	return abi.NewGate(abi.GateOptions{Registry: reg, Graph: graph, Log: &k.log})
}

// log keeps records in memory.
type log struct {
	mu      sync.Mutex
	records []audit.Record
}

// Append implements abi.Log. The record is the caller's again when it returns.
func (l *log) Append(r *audit.Record) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := *r
	kept.Seq = uint64(len(l.records))
	kept.Resources, kept.Args = slices.Clone(r.Resources), slices.Clone(r.Args)
	l.records = append(l.records, kept)
	return kept.Seq, nil
}

// Sync implements abi.Log.
func (l *log) Sync(context.Context, uint64) error { return nil }
