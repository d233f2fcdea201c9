package wasi_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/wasi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// Error numbers of preview 1.
const (
	success, eagain, ebadf, eexist, efault, eilseq, eintr, einval, eio, eisdir, enametoolong = 0, 6, 8, 20, 21, 25, 27, 28, 29, 31, 37
	enoent, enotdir, enotsock, enotsup, espipe, enotcapable                                  = 44, 54, 57, 58, 70, 76
)

const size = 64 * engines.PageSize // of a guest's memory

// guest is an instance that exports every function of preview 1 as it imports
// it, with what its syscalls came to.
type guest struct {
	testing.TB
	engines.Instance
	mem     engines.Memory
	call    *abi.Call
	process *wasi.Process // nil for a guest without
	dir     string        // that is its "/"
	stdin   *io.PipeWriter

	asked  []string // "name arg"
	stdio  bytes.Buffer
	answer map[string]func() ([]byte, error) // instead of the real effect
}

// newGuest makes a guest that may ask for the given syscalls.
func newGuest(t testing.TB, grants ...string) *guest {
	t.Helper()
	g := &guest{TB: t, answer: map[string]func() ([]byte, error){}, dir: t.TempDir()}
	var stdin *io.PipeReader
	stdin, g.stdin = io.Pipe()
	t.Cleanup(func() { _ = g.stdin.Close() })
	reg := new(abi.SyscallRegistry)
	for _, r := range syscalls.Registrations(syscalls.Options{Stdin: syscalls.NewStdin(stdin).Read, Stdio: func(_, stream string, p []byte) {
		g.stdio.WriteString(stream + ":" + string(p) + ";")
	}}) {
		effect := r.Handler
		r.Handler = func(ctx context.Context, sc *abi.SyscallContext, res *abi.Resolution) ([]byte, error) {
			g.asked = append(g.asked, sc.Syscall+" "+strings.Join(sc.Args, " "))
			if instead := g.answer[sc.Syscall]; instead != nil {
				return instead()
			}
			return effect(ctx, sc, res)
		}
		if err := reg.Register(r); err != nil {
			t.Fatal(err)
		}
	}
	graph, err := reg.Compile([]zta.Policy{
		{Name: "all", Syscalls: []string{"*"}},
		{Name: "no-stderr", Syscalls: []string{"stdio_write"}, Args: map[int]zta.ArgConstraint{0: {Deny: "stderr"}}, OnViolation: zta.Quarantine},
	}, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: t.TempDir(), Name: "forgeone/test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := abi.NewGate(abi.GateOptions{Registry: reg, Graph: graph, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	set, err := capability.New(capability.Grant{Syscalls: grants, Resources: []string{"file:///**"}})
	if err != nil {
		t.Fatal(err)
	}
	s := &abi.Subject{Plugin: "p", Identity: zta.Identity{ID: "tester", TrustVector: zta.Signed}, TrustLevel: capability.Core,
		Capabilities: set, Container: abi.NewContainer("c"), Mounts: []abi.Mount{mount(t, "/", g.dir)}}
	if g.call, err = gate.Begin(context.Background(), s, "f", nil); err != nil {
		t.Fatal(err)
	}

	e, err := wazero.New()
	if err != nil {
		t.Fatal(err)
	}
	var m asm.Module
	functions := wasi.HostModule().Functions
	for _, f := range functions {
		m.ImportFunc(wasi.ModuleName, f.Name, f.Type)
	}
	m.Memory("memory", size/engines.PageSize)
	for i, f := range functions {
		var body asm.Code
		for p := range f.Type.Params {
			body = body.LocalGet(uint32(p))
		}
		m.Func(f.Name, f.Type, body.Call(uint32(i)))
	}
	module, err := e.Compile(context.Background(), m.Bytes(), engines.CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if g.Instance, err = module.Instantiate(context.Background(), engines.Imports{Host: map[string]*engines.HostModule{wasi.ModuleName: wasi.HostModule()}}); err != nil {
		t.Fatal(err)
	}
	g.mem = g.Memory("memory")
	t.Cleanup(func() {
		if err := errors.Join(g.Close(), module.Close(), e.Close(), g.call.End(nil, nil), log.Close()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// try calls a function of preview 1 and returns its error number.
func (g *guest) try(name string, args ...uint64) (uint64, error) {
	g.Helper()
	f, err := g.Func(name)
	if err != nil {
		g.Fatal(err)
	}
	stack := make([]uint64, f.Type().Slots())
	copy(stack, args)
	ctx := abi.WithCall(g.call.Context(), g.call)
	if g.process != nil {
		ctx = wasi.WithProcess(ctx, g.process)
	}
	err = f.Call(ctx, stack)
	if len(stack) == 0 {
		return 0, err
	}
	return stack[0], err
}

func (g *guest) want(errno uint64, name string, args ...uint64) {
	g.Helper()
	if got, err := g.try(name, args...); err != nil || got != errno {
		g.Errorf("%s%v: got errno %d (%v), want %d", name, args, got, err, errno)
	}
}

func (g *guest) write(offset uint64, b []byte) {
	g.Helper()
	if !g.mem.Write(offset, b) {
		g.Fatal("out of bounds")
	}
}

func (g *guest) read(offset uint64, n int) []byte {
	g.Helper()
	b := make([]byte, n)
	if !g.mem.Read(offset, b) {
		g.Fatal("out of bounds")
	}
	return b
}

func (g *guest) uint64(offset uint64) uint64 { return binary.LittleEndian.Uint64(g.read(offset, 8)) }
func (g *guest) uint32(offset uint64) uint32 { return binary.LittleEndian.Uint32(g.read(offset, 4)) }

func words(v ...uint32) []byte {
	var b []byte
	for _, w := range v {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// preview1 are its functions.
func preview1() []string {
	var names []string
	for _, f := range wasi.HostModule().Functions {
		names = append(names, f.Name)
	}
	return names
}

func TestEveryFunctionIsThere(t *testing.T) {
	names := preview1()
	if !slices.IsSorted(names) || len(slices.Compact(names)) != 46 {
		t.Errorf("got %d names, want the 46 of preview 1, in order: %v", len(names), names)
	}
}

// TestTable holds the table of the documentation to the functions.
func TestTable(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := new(abi.SyscallRegistry)
	if err := known.Register(syscalls.Registrations(syscalls.Options{})...); err != nil {
		t.Fatal(err)
	}
	for _, name := range preview1() {
		cell := "none"
		if asks := wasi.Syscalls(name); len(asks) > 0 {
			cell = "`" + strings.Join(asks, "`, `") + "`"
			for _, s := range asks {
				if _, ok := known.Lookup(s); !ok {
					t.Errorf("%s: there is no syscall %s", name, s)
				}
			}
		}
		if row := "| `" + name + "` | " + cell + " |"; !strings.Contains(string(doc), row) {
			t.Errorf("docs/conformance.md has no row %q", row)
		}
	}
}

// TestWithoutAProcess says what a guest has that nobody gave anything.
func TestWithoutAProcess(t *testing.T) {
	g := newGuest(t)
	for _, name := range []string{"args", "environ"} {
		g.write(0, words(7, 7))
		g.want(success, name+"_sizes_get", 0, 4)
		if g.uint64(0) != 0 {
			t.Errorf("%s: got %v", name, g.read(0, 8))
		}
		g.want(success, name+"_get", 0, 4)
		g.want(efault, name+"_sizes_get", size-3, 0)
		g.want(efault, name+"_sizes_get", 0, size-3)
	}
	g.want(ebadf, "fd_prestat_get", 3, 0)
	g.want(ebadf, "fd_prestat_dir_name", 3, 0, 0)
	g.want(success, "fd_close", 1)
	g.want(success, "fd_fdstat_get", 1, 0) // of a process of its own
	g.want(success, "sched_yield")
	if len(g.asked) != 0 {
		t.Errorf("effects of what does nothing: %v", g.asked)
	}
}

func TestArgumentsAndEnvironment(t *testing.T) {
	g := newGuest(t)
	g.process = wasi.NewProcess(&wasi.Config{Args: []string{"cat", "", "-n"}, Env: []string{"A=1", "B=\n"}})
	for _, tc := range []struct {
		name, text string
		at         []uint32
	}{
		{"args", "cat\x00\x00-n\x00", []uint32{512, 516, 517}},
		{"environ", "A=1\x00B=\n\x00", []uint32{512, 516}},
	} {
		g.want(success, tc.name+"_sizes_get", 0, 4)
		if n, size := g.uint32(0), g.uint32(4); int(n) != len(tc.at) || int(size) != len(tc.text) {
			t.Errorf("%s: %d strings of %d bytes", tc.name, n, size)
		}
		g.want(success, tc.name+"_get", 256, 512)
		if got := g.read(256, 4*len(tc.at)); !bytes.Equal(got, words(tc.at...)) {
			t.Errorf("%s: pointers %v", tc.name, got)
		}
		if got := string(g.read(512, len(tc.text))); got != tc.text {
			t.Errorf("%s: %q", tc.name, got)
		}
		g.want(efault, tc.name+"_get", size-4, 0)
		g.want(efault, tc.name+"_get", 0, size-4)
	}
}

func TestClocks(t *testing.T) {
	g := newGuest(t, "time_get")
	before := uint64(time.Now().UnixNano())
	g.want(success, "clock_time_get", 0, 1, 8)
	if wall := g.uint64(8); wall < before || wall > uint64(time.Now().UnixNano()) {
		t.Errorf("the wall clock says %d", wall)
	}
	g.want(success, "clock_time_get", 1, 0, 8)
	first := g.uint64(8)
	g.want(success, "clock_time_get", 1, 0, 8)
	if second := g.uint64(8); second < first {
		t.Errorf("the monotonic clock went from %d to %d", first, second)
	}
	if want := []string{"time_get wall", "time_get monotonic", "time_get monotonic"}; !slices.Equal(g.asked, want) {
		t.Errorf("asked %v", g.asked)
	}
	for _, name := range []string{"clock_time_get", "clock_res_get"} {
		g.want(enotsup, name, 3, 0, 8)
		g.want(einval, name, 4, 0, 8)
	}
	g.want(success, "clock_res_get", 1, 8)
	if res := g.uint64(8); res != 1 {
		t.Errorf("resolution %d ns", res)
	}
	g.want(efault, "clock_time_get", 0, 0, size-7)
	g.answer["time_get"] = func() ([]byte, error) { return []byte("noon"), nil }
	g.want(eio, "clock_time_get", 0, 0, 8)
}

func TestRandom(t *testing.T) {
	g := newGuest(t, "random_get")
	const n = 150 << 10
	g.want(success, "random_get", 16, n)
	b := g.read(0, n+32)
	for _, at := range []int{16, 16 + 64<<10, 16 + n - 16} {
		if bytes.Equal(b[at:at+16], make([]byte, 16)) {
			t.Errorf("nothing was written at %d", at)
		}
	}
	if !bytes.Equal(b[:16], make([]byte, 16)) || !bytes.Equal(b[16+n:], make([]byte, 16)) {
		t.Error("something was written beside the buffer")
	}
	if want := []string{"random_get 65536", "random_get 65536", "random_get 22528"}; !slices.Equal(g.asked, want) {
		t.Errorf("asked %v", g.asked)
	}
	g.want(success, "random_get", size, 0)
	g.want(efault, "random_get", size-1, 2)
	g.want(efault, "random_get", 0xffff_ffff, 0xffff_ffff)
	g.answer["random_get"] = func() ([]byte, error) { return []byte("short"), nil }
	g.want(eio, "random_get", 0, 6)
}

func TestStandardStreams(t *testing.T) {
	g := newGuest(t, "stdio_write")
	g.write(100, []byte("hello, world"))
	g.write(0, words(100, 5, 0, 0, 105, 7))
	g.want(success, "fd_write", 1, 0, 3, 64)
	if got := g.stdio.String(); got != "stdout:hello, world;" || g.uint32(64) != 12 {
		t.Errorf("got %q, %d bytes written", got, g.uint32(64))
	}
	g.want(success, "fd_write", 1, 0, 0, 64)
	if g.uint32(64) != 0 || len(g.asked) != 1 {
		t.Errorf("nothing to write: wrote %d, asked %v", g.uint32(64), g.asked)
	}
	for _, fd := range []uint64{3, 0xffff_ffff} {
		g.want(ebadf, "fd_write", fd, 0, 1, 64)
	}
	g.want(enotcapable, "fd_write", 0, 0, 1, 64)
	g.want(enotcapable, "fd_read", 1, 0, 1, 64)
	g.want(einval, "fd_write", 1, 0, 1025, 64)
	g.want(efault, "fd_write", 1, size-7, 1, 64)
	g.want(efault, "fd_write", 1, 0, 1, size-3)
	g.write(0, words(size-4, 5))
	g.want(efault, "fd_write", 1, 0, 1, 64)

	g.stdio.Reset()
	g.write(0, words(1024, 1<<20-1, 1024, 2, 1024, 1))
	g.want(success, "fd_write", 1, 0, 3, 64)
	if g.uint32(64) != 1<<20 || g.stdio.Len() != 1<<20+len("stdout:;") {
		t.Errorf("a long write wrote %d", g.uint32(64))
	}
}

// subscription is one of poll_oneoff: to a clock, or to a file if tag is not 0.
func subscription(userdata uint64, tag byte, clock uint32, timeout time.Duration, flags uint16) []byte {
	b := make([]byte, 48)
	binary.LittleEndian.PutUint64(b, userdata)
	b[8] = tag
	binary.LittleEndian.PutUint32(b[16:], clock)
	binary.LittleEndian.PutUint64(b[24:], uint64(timeout))
	binary.LittleEndian.PutUint16(b[40:], flags)
	return b
}

func TestPoll(t *testing.T) {
	type ev struct{ userdata, errno, typ uint64 }
	const abstime = 1
	for _, tc := range []struct {
		name   string
		subs   [][]byte
		asked  []string
		events []ev
	}{
		{"the earliest of two", [][]byte{subscription(1, 0, 1, time.Hour, 0), subscription(2, 0, 0, time.Second, 0)},
			[]string{"time_sleep 1000000000"}, []ev{{2, 0, 0}}},
		{"two at once", [][]byte{subscription(1, 0, 1, 5, 0), subscription(2, 0, 1, 9, 0), subscription(3, 0, 1, 5, 0)},
			[]string{"time_sleep 5"}, []ev{{1, 0, 0}, {3, 0, 0}}},
		{"now", [][]byte{subscription(1, 0, 1, 0, 0)}, nil, []ev{{1, 0, 0}}},
		{"a point in the past", [][]byte{subscription(1, 0, 0, 99, abstime)}, []string{"time_get wall"}, []ev{{1, 0, 0}}},
		{"a point to come", [][]byte{subscription(1, 0, 0, 120, abstime)}, []string{"time_get wall", "time_sleep 20"}, []ev{{1, 0, 0}}},
		{"longer than a sleep can be", [][]byte{subscription(1, 0, 1, time.Hour+7, 0)},
			[]string{"time_sleep 3600000000000", "time_sleep 7"}, []ev{{1, 0, 0}}},
		{"an output, which is ready", [][]byte{subscription(1, 0, 1, time.Hour, 0), subscription(2, 2, 1, 0, 0)}, nil, []ev{{2, 0, 2}}},
		{"an output that cannot be read", [][]byte{subscription(2, 1, 1, 0, 0)}, nil, []ev{{2, ebadf, 1}}},
		{"no descriptor", [][]byte{subscription(1, 0, 1, time.Hour, 0), subscription(2, 1, 9, 0, 0)}, nil, []ev{{2, ebadf, 1}}},
		{"a clock that is not there", [][]byte{subscription(1, 0, 9, time.Hour, 0)}, nil, []ev{{1, einval, 0}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newGuest(t, "time_get", "time_sleep")
			g.answer["time_sleep"] = func() ([]byte, error) { return nil, nil }
			g.answer["time_get"] = func() ([]byte, error) { return []byte("100"), nil }
			g.write(0, slices.Concat(tc.subs...))
			g.want(success, "poll_oneoff", 0, 4096, uint64(len(tc.subs)), 8192)
			if !slices.Equal(g.asked, tc.asked) {
				t.Errorf("asked %v, want %v", g.asked, tc.asked)
			}
			var got []ev
			for i := range g.uint32(8192) {
				at := 4096 + 32*uint64(i)
				got = append(got, ev{g.uint64(at), uint64(binary.LittleEndian.Uint16(g.read(at+8, 2))), uint64(g.read(at+10, 1)[0])})
			}
			if !slices.Equal(got, tc.events) {
				t.Errorf("events %v, want %v", got, tc.events)
			}
		})
	}

	g := newGuest(t, "time_sleep")
	g.write(0, subscription(1, 0, 1, 1, 0))
	g.want(einval, "poll_oneoff", 0, 4096, 0, 8192)
	g.want(einval, "poll_oneoff", 0, 4096, 4097, 8192)
	g.want(efault, "poll_oneoff", size-47, 4096, 1, 8192)
	g.want(efault, "poll_oneoff", 0, size-31, 1, 8192)
	g.want(efault, "poll_oneoff", 0, 4096, 1, size-3)
	g.answer["time_sleep"] = func() ([]byte, error) { return nil, abi.Fail(abi.CodeInterrupted, "interrupted") }
	g.want(eintr, "poll_oneoff", 0, 4096, 1, 8192)
	g.write(0, subscription(1, 7, 1, 1, 0))
	g.want(einval, "poll_oneoff", 0, 4096, 1, 8192)
}

// TestFailures says what a guest sees of an effect that failed.
func TestFailures(t *testing.T) {
	g := newGuest(t, "time_get")
	for code, errno := range map[int32]uint64{
		abi.CodePermission: 63, abi.CodeNotFound: 44, abi.CodeInterrupted: 27, abi.CodeIO: 29, abi.CodeBadHandle: 8,
		abi.CodeExists: 20, abi.CodeNotDir: 54, abi.CodeIsDir: 31, abi.CodeInvalid: 28, abi.CodeTooMany: 33, abi.CodeTooLarge: 22,
		abi.CodeNoSpace: 51, abi.CodeReadOnly: 69, abi.CodeUnsupported: 58, abi.CodeTimeout: 73, 39: 55, 40: 32, 12345: 29,
	} {
		g.answer["time_get"] = func() ([]byte, error) { return nil, abi.Fail(code, "no") }
		g.want(errno, "clock_time_get", 0, 0, 8)
	}
}

func TestDenied(t *testing.T) {
	g := newGuest(t)
	g.write(0, subscription(1, 0, 1, 1, 0))
	g.write(64, words(0, 1))
	g.want(enotcapable, "clock_time_get", 0, 0, 8192)
	g.want(enotcapable, "random_get", 8192, 1)
	g.want(enotcapable, "fd_write", 1, 64, 1, 8192)
	g.want(enotcapable, "poll_oneoff", 0, 4096, 1, 8192)
	if len(g.asked) != 0 {
		t.Errorf("effects of what was denied: %v", g.asked)
	}
}

func TestQuarantineEndsTheGuest(t *testing.T) {
	g := newGuest(t, "stdio_write")
	g.write(64, words(0, 1))
	_, err := g.try("fd_write", 2, 64, 1, 8192)
	var denied *abi.DeniedError
	if !errors.As(err, &denied) || denied.Status != abi.Quarantined {
		t.Errorf("got %v", err)
	}
}

func TestExit(t *testing.T) {
	_, err := newGuest(t).try("proc_exit", 3)
	var exit *wasi.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("got %v", err)
	}
}

func TestNothingHappensOutsideOfACall(t *testing.T) {
	g := newGuest(t, "*")
	f, err := g.Func("random_get")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Call(context.Background(), []uint64{0, 1}); err == nil || len(g.asked) != 0 {
		t.Errorf("got %v, asked %v", err, g.asked)
	}
}

// FuzzArguments holds that no arguments of any function make the host panic or
// end the guest for another reason than that it asked for it.
func FuzzArguments(f *testing.F) {
	names := preview1()
	g := newGuest(f, "time_*", "random_get", "stdio_*", "file_*")
	_ = g.stdin.Close()
	g.answer["time_sleep"] = func() ([]byte, error) { return nil, nil }
	for i := range names {
		f.Add(byte(i), uint64(1), uint64(0), uint64(1), uint64(0xffff_ffff), uint64(0), subscription(1, 0, 1, 1, 0))
		f.Add(byte(i), uint64(0), uint64(size-8), uint64(2), uint64(8), uint64(64), subscription(1, 1, 4, 1, 1))
		f.Add(byte(i), uint64(3), uint64(0), uint64(4), uint64(3), uint64(4), []byte("file"))
		f.Add(byte(i), uint64(4), uint64(0), uint64(1), uint64(4), uint64(64), words(64, 8))
		f.Add(byte(i), uint64(5), uint64(0), uint64(300), uint64(0), uint64(64), []byte("../file\x00"))
	}
	f.Fuzz(func(t *testing.T, name byte, a, b, c, d, e uint64, memory []byte) {
		g.asked, g.TB = nil, t
		g.stdio.Reset()
		g.process = wasi.NewProcess(&wasi.Config{Args: []string{"x"}, Preopens: []string{"/"}})
		if err := os.WriteFile(filepath.Join(g.dir, "file"), []byte("some text"), 0o600); err != nil {
			t.Fatal(err)
		}
		g.mem.Write(1024, []byte("file."))
		// 4 is a file and 5 a directory.
		for _, open := range [][]uint64{{3, 0, 1024, 4, 0, 1 << 1, 0, 0, 2048}, {3, 0, 1028, 1, 2, 1 << 14, 0, 0, 2048}} {
			if got, err := g.try("path_open", open...); err != nil || got != success {
				t.Fatalf("open: %d, %v", got, err)
			}
		}
		g.mem.Write(0, memory)
		function := names[int(name)%len(names)]
		if function == "fd_write" && uint32(a) == 2 {
			t.Skip("is quarantined")
		}
		args := []uint64{a, b, c, d, e, a, b, c, d}
		_, err := g.try(function, args...)
		if _, exited := errors.AsType[*wasi.ExitError](err); err != nil && !exited {
			t.Errorf("%s: %v", function, err)
		}
		for fd := range uint64(8) {
			if _, err := g.try("fd_close", fd); err != nil {
				t.Errorf("closing %d: %v", fd, err)
			}
		}
	})
}
