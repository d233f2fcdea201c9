package forge_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/engines"
)

func TestGoFunctions(t *testing.T) {
	m, err := goGuest()
	if err != nil {
		t.Fatal(err)
	}
	if !forge.Detect(m) {
		t.Error("not detected")
	}
	want := []string{"ask", "bulk", "count", "crash", "echo", "exit", "numbers", "panics", "race", "refuse", "spin", "system"}
	if got := forge.Functions(m); !slices.Equal(got, want) {
		t.Errorf("functions %v, want %v", got, want)
	}
}

func TestGoInputAndOutput(t *testing.T) {
	g := startGo(t, newWorld(t, runtimeGrants...))
	for _, n := range []int{0, 1, 4 << 10, 1 << 20} {
		in := strings.Repeat("\x00\xff", n/2) + strings.Repeat("x", n%2)
		if out := g.run("echo", in); out != in {
			t.Errorf("%d bytes came back as %d", n, len(out))
		}
	}
}

func TestGoSyscalls(t *testing.T) {
	w := newWorld(t, append(runtimeGrants, "test_echo", "test_fail", "test_huge")...)
	g := startGo(t, w)

	if got, want := g.run("ask", "test_echo\n\x00\xfe\n\nÄ"), "success \x07\x00\x00\x00\x00\x00\x00\x80\x00\xfe||Ä|pay\x00load"; got != want {
		t.Errorf("success: got %q, want %q", got, want)
	}
	if got, want := g.run("ask", "test_fail"), `failure 2 "no such \x00thing" map["a":"" "path":"/data/ä"]`; got != want {
		t.Errorf("failure: got %s, want %s", got, want)
	}
	if got := g.run("ask", "test_huge"); !strings.HasPrefix(got, "failure 27 ") {
		t.Errorf("a result above the limit: got %s", got)
	}
	for syscall, reason := range map[string]string{
		"test_note\nx":    "test_note is not in the capability set",
		"test_fail\nx":    "1 arguments, takes 0",
		"no_such_syscall": "unknown syscall",
		"":                "unknown syscall",
	} {
		if got := g.run("ask", syscall); !strings.HasPrefix(got, "blocked ") || !strings.Contains(got, reason) {
			t.Errorf("%q: got %q, want it blocked because %q", syscall, got, reason)
		}
	}
	for _, n := range []int{0, 1, 5 << 10, 1 << 20} {
		in := strings.Repeat("\x00", n)
		if out := g.run("bulk", in); out != in {
			t.Errorf("payload of %d bytes came back as %d", n, len(out))
		}
	}
	if got := g.run("race", ""); got != "ok" {
		t.Error(got)
	}
}

func TestGoErrors(t *testing.T) {
	g := startGo(t, newWorld(t, append(runtimeGrants, "test_fail")...))
	for _, tc := range []struct {
		function, input string
		code            int32
		message         string
	}{
		{"refuse", "", 5, "out of luck\x1b[2J"},
		{"refuse", "test_fail", 2, "wrapped: test_fail: no such"},
		{"refuse", "test_note", 13, "wrapped: test_note was blocked: "},
		{"panics", "", 5, "panic: runtime error: slice bounds out of range"},
		{"panics", "", 5, "main.go:"},
	} {
		err := g.fails(tc.function, tc.input)
		var fe *forge.FunctionError
		if !errors.As(err, &fe) || fe.Function != tc.function || fe.Code != tc.code || !strings.Contains(fe.Message, tc.message) {
			t.Errorf("%s(%q): got %v, want code %d and %q", tc.function, tc.input, err, tc.code, tc.message)
		} else if strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: the error has a terminal's control sequence: %q", tc.function, err)
		}
	}
	if out := g.run("echo", "still sound"); out != "still sound" {
		t.Error(out)
	}
}

func TestGoUnknownFunction(t *testing.T) {
	g := startGo(t, newWorld(t, runtimeGrants...))
	for function, want := range map[string]string{
		"nope":       `"nope" is not exported; functions: ask, bulk, count,`,
		"forge_init": `"forge_init" is a func () -> (i32) and not a function`,
		"forge_abi":  `"forge_abi" is reserved`,
		"memory":     `"memory" is a memory and not a function`,
	} {
		var ae *forge.ABIError
		if err := g.fails(function, ""); !errors.As(err, &ae) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", function, err, want)
		}
	}
}

func TestGoStateIsTheInstances(t *testing.T) {
	w := newWorld(t, runtimeGrants...)
	a := startGo(t, w)
	a.run("count", "")
	if got := a.run("count", ""); got != "\x02" {
		t.Errorf("the second call of an instance counts %q", got)
	}
	if got := startGo(t, w).run("count", ""); got != "\x01" {
		t.Errorf("the first call of another instance counts %q", got)
	}
}

// TestGoInstancesRunSideBySide shares one binding and one module.
func TestGoInstancesRunSideBySide(t *testing.T) {
	w := newWorld(t, append(runtimeGrants, "test_echo")...)
	guests := make([]*guest, 4)
	for i := range guests {
		guests[i] = startGo(t, w)
	}
	var wg sync.WaitGroup
	for i, g := range guests {
		wg.Go(func() {
			for range 10 {
				in := strings.Repeat(string(rune('a'+i)), 8<<10)
				out, err := g.binding.Call(g.call, g.inst, "bulk", []byte(in))
				if err != nil || string(out) != in {
					t.Errorf("instance %d got %d bytes, %v", i, len(out), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestGoLifecycle(t *testing.T) {
	w := newWorld(t, append(runtimeGrants, "test_note")...)
	g := startGo(t, w)
	for _, e := range []forge.Event{forge.Begin, forge.Pause, forge.Resume, forge.Stop, forge.Unload} {
		if err := g.binding.Lifecycle(g.call, g.inst, e); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
	if want := []string{"init", "start", "pause", "resume", "stop"}; !slices.Equal(w.notes, want) {
		t.Errorf("got %v, want %v", w.notes, want)
	}
	for _, e := range []forge.Event{"", "abi", "restart"} {
		var ae *forge.ABIError
		if err := g.binding.Lifecycle(g.call, g.inst, e); !errors.As(err, &ae) {
			t.Errorf("event %q: got %v, want an ABI error", e, err)
		}
	}
}

func TestGoLifecycleFailure(t *testing.T) {
	g := startGo(t, newWorld(t, runtimeGrants...))
	err := g.binding.Lifecycle(g.call, g.inst, forge.Stop)
	var fe *forge.FunctionError
	if !errors.As(err, &fe) || fe.Function != "forge_stop" || fe.Code != 13 {
		t.Errorf("got %v", err)
	}
}

func TestGoSystem(t *testing.T) {
	w := newWorld(t, runtimeGrants...)
	g := startGo(t, w)
	if got, want := g.run("system", ""), "true false true 0 0 true"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := w.stdio.String(); got != "to stdout\nto stderr\n" {
		t.Errorf("standard streams got %q", got)
	}
}

func TestGoEnds(t *testing.T) {
	w := newWorld(t, runtimeGrants...)
	var exit *wasi.ExitError
	if err := startGo(t, w).fails("exit", ""); !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("exit: got %v", err)
	}
	// How Go's runtime ends after it has said why is its own affair.
	if err := startGo(t, w).fails("crash", ""); !ended(err) || !strings.Contains(w.stdio.String(), "panic: crashing") {
		t.Errorf("crash: got %v, and wrote %q", err, w.stdio.String())
	}
}

// ended reports whether a guest ended by itself.
func ended(err error) bool {
	_, exited := errors.AsType[*wasi.ExitError](err)
	_, trapped := errors.AsType[*engines.Trap](err)
	return exited || trapped
}

// TestGoWithoutGrants starts the guest without what Go's runtime needs: whoever
// sees the error must be told what to grant.
func TestGoWithoutGrants(t *testing.T) {
	m, err := goGuest()
	if err != nil {
		t.Fatal(err)
	}
	b, err := forge.New(m)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	_, err = b.Instantiate(w.begin(t), m)
	if !ended(err) {
		t.Fatalf("got %v, want the guest to end", err)
	}
	for _, want := range []string{"_initialize: ", "time_get is not in the capability set", "grant it in the plugin's capabilities.syscalls"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
}

func TestGoQuarantine(t *testing.T) {
	w := newWorld(t, append(runtimeGrants, "trap_quarantine")...)
	g := startGo(t, w)
	err := g.fails("ask", "trap_quarantine")
	var denied *abi.DeniedError
	if !errors.As(err, &denied) || denied.Status != abi.Quarantined {
		t.Fatalf("got %v, want it quarantined", err)
	}
	if _, err := w.gate.Begin(context.Background(), w.subject, "echo", nil); !errors.As(err, &denied) {
		t.Errorf("a call after quarantine: %v", err)
	}
}

// TestGoInterrupted ends a guest that never returns: by its deadline, and by
// the death of its container.
func TestGoInterrupted(t *testing.T) {
	w := newWorld(t, runtimeGrants...)
	g := startGo(t, w)
	done := g.call.Limit(20 * time.Millisecond)
	err := g.fails("spin", "")
	done()
	var trap *engines.Trap
	if !errors.As(err, &trap) || trap.Class != engines.TrapInterrupted || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: got %v", err)
	}

	g = startGo(t, w)
	timer := time.AfterFunc(20*time.Millisecond, func() { w.subject.Container.Quarantine("found out") })
	defer timer.Stop()
	err = g.fails("spin", "")
	var denied *abi.DeniedError
	if !errors.As(err, &denied) || denied.Reason != "found out" || !errors.As(err, &trap) {
		t.Errorf("quarantine: got %v", err)
	}
}

func TestGoInputLimit(t *testing.T) {
	g := startGo(t, newWorld(t, runtimeGrants...))
	_, err := g.binding.Call(g.call, g.inst, "echo", bytes.Repeat([]byte{0}, forge.MaxInput+1))
	var le *forge.LimitError
	if !errors.As(err, &le) || le.Limit != forge.MaxInput {
		t.Errorf("got %v", err)
	}
}

// TestGoRandomNumbers holds what docs/plugin-author.md says of instances that
// begin as one image: which numbers are the same in each of them, and which are
// not.
func TestGoRandomNumbers(t *testing.T) {
	g := startGo(t, newWorld(t, runtimeGrants...))
	m, err := goGuest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := m.(engines.Snapshotter).Snapshot(g.inst)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	numbers := func() map[string]string {
		inst, err := image.Instantiate(g.call.Context(), engines.Imports{Host: g.binding.HostModules()})
		if err != nil {
			t.Fatal(err)
		}
		defer inst.Close()
		if err := g.binding.Reseed(g.call, inst); err != nil {
			t.Fatal(err)
		}
		out, err := g.binding.Call(g.call, inst, "numbers", nil)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, line := range strings.Split(string(out), "\n") {
			name, number, _ := strings.Cut(line, " ")
			got[name] = number
		}
		return got
	}
	a, b := numbers(), numbers()
	for name, same := range map[string]bool{"math/rand": true, "math/rand/v2": true, "maphash": true, "reseeded": false, "crypto/rand": false, "sdk": false} {
		if a[name] == "" || (a[name] == b[name]) != same {
			t.Errorf("%s: %q and %q, want the same: %v", name, a[name], b[name], same)
		}
	}
}
