package host_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/abi/forge"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/asm"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/host"
)

// Addresses in the hoarder's memory.
const (
	atRequests = 1024  // of its syscalls
	atHeap     = 4096  // where it leaves its mark
	atInit     = 4104  // 8 bytes that its initialisation took from random_get
	atSeed     = 4112  // 8 bytes of its seed
	atInput    = 4200  // the call's input
	atReport   = 8192  // what it says of itself
	atResult   = 12288 // of a syscall
)

// hoarder is a guest that leaves something of each call behind, wherever a
// guest can, and reports what it finds.
type hoarder struct {
	asm.Module
	requests               []byte
	syscall, input, output uint32
}

// request encodes a syscall's request (docs/abi.md) and returns its address and
// length.
func (h *hoarder) request(name string, args ...string) (ptr, n int32) {
	b := binary.LittleEndian.AppendUint16(nil, uint16(len(name)))
	b = append(b, name...)
	b = append(b, make([]byte, 8)...) // handle
	b = binary.LittleEndian.AppendUint16(b, uint16(len(args)))
	for _, a := range args {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(a))), a...)
	}
	ptr = int32(atRequests + len(h.requests))
	h.requests = append(h.requests, b...)
	return ptr, int32(len(b))
}

// ask asks for a syscall, whose result is left at atResult and whose status and
// length on the stack.
func (h *hoarder) ask(c asm.Code, ptr, n int32) asm.Code {
	return c.I32Const(ptr).I32Const(n).I32Const(0).I32Const(0).I32Const(atResult).I32Const(64).Call(h.syscall)
}

// Instructions that package asm has no method for.
func tableGet(c asm.Code) asm.Code   { return append(c, 0x25, 0) }
func tableSet(c asm.Code) asm.Code   { return append(c, 0x26, 0) }
func refIsNull(c asm.Code) asm.Code  { return append(c, 0xd1) }
func memoryInit(c asm.Code) asm.Code { return append(c, 0xfc, 8, 1, 0) } // of data segment 1
func dataDrop(c asm.Code) asm.Code   { return append(c, 0xfc, 9, 1) }

// newHoarder makes the guest, whose initialisation is followed by what init adds.
func newHoarder(init func(h *hoarder, c asm.Code) asm.Code) []byte {
	h := new(hoarder)
	i32 := engines.I32
	event, function := asm.Func(nil, asm.Types(i32)), asm.Func(asm.Types(i32), asm.Types(i32))
	h.syscall = h.ImportFunc(forge.ModuleName, "syscall", asm.Func(asm.Types(i32, i32, i32, i32, i32, i32), asm.Types(engines.I64)))
	h.input = h.ImportFunc(forge.ModuleName, "input", asm.Func(asm.Types(i32, i32), asm.Types(i32)))
	h.output = h.ImportFunc(forge.ModuleName, "output", asm.Func(asm.Types(i32, i32), nil))
	h.Memory("memory", 1, 4)
	h.Table("", 4)
	mark := h.Global("", engines.GlobalType{Value: i32, Mutable: true}, asm.Code(nil).I32Const(0))
	begin := func() asm.Code { return nil }

	h.Func("forge_abi", function, begin().I32Const(int32(forge.Version)))
	random, randomLen := h.request("random_get", "8")
	body := h.ask(begin(), random, randomLen).Op(asm.Drop)
	for i := range int32(2) {
		body = body.I32Const(atInit + 4*i).I32Const(atResult + 4*i).I32Load(0).I32Store(0)
	}
	h.Func("forge_init", event, init(h, body).I32Const(0))
	h.Func("forge_reseed", function, begin().I32Const(atSeed).I32Const(8).Call(h.input).Op(asm.Drop).I32Const(0))

	// What a call can leave behind, each by itself. A 7 stands for it.
	leave := map[string]func(asm.Code) asm.Code{
		"heap":    func(c asm.Code) asm.Code { return c.I32Const(atHeap).I32Const(7).I32Store(0) },
		"global":  func(c asm.Code) asm.Code { return c.I32Const(7).GlobalSet(mark) },
		"table":   func(c asm.Code) asm.Code { return tableSet(c.I32Const(2).RefFunc(h.output)) },
		"grown":   func(c asm.Code) asm.Code { return c.I32Const(1).MemoryGrow().Op(asm.Drop) },
		"segment": dataDrop,
	}
	h.Elem(0, h.output) // declares it, for RefFunc
	everywhere := func(c asm.Code) asm.Code {
		for _, l := range leave {
			c = l(c)
		}
		return c
	}
	for name, l := range leave {
		h.Func(name, function, l(begin()).I32Const(0))
	}
	h.Func("all", function, everywhere(begin()).I32Const(0))
	h.Func("fail", function, everywhere(begin()).I32Const(3))
	// These leave only what can be put back, and two of them are not.
	soft := func() asm.Code { return leave["global"](leave["heap"](nil)) }
	h.Func("soft", function, soft().I32Const(0))
	h.Func("soft_fail", function, soft().I32Const(3))
	h.Func("trap", function, soft().Op(asm.Unreachable))
	h.Func("spin", function, soft().Loop().Br(0).End().I32Const(0))

	escape, escapeLen := h.request("file_open", "/data/../etc/passwd", "r")
	h.Func("escape", function, h.ask(everywhere(begin()), escape, escapeLen).Op(asm.Drop).I32Const(0))
	denied, deniedLen := h.request("env_get", "HOME")
	h.Func("denied", function, h.ask(begin(), denied, deniedLen).Op(asm.Drop).I32Const(0))
	nap, napLen := h.request("time_sleep", "20000000")
	h.Func("nap", function, h.ask(everywhere(begin()), nap, napLen).Op(asm.Drop).I32Const(0))

	// open leaves a file open and tells its handle; use reads from the handle
	// that it is told and says how that ended.
	open, openLen := h.request("file_open", "/data/report.txt", "r")
	h.Func("open", function, h.ask(begin(), open, openLen).Op(asm.Drop).I32Const(atResult).I32Const(8).Call(h.output).I32Const(0))
	read, readLen := h.request("file_read", "/data/report.txt", "9")
	handle := read + 2 + int32(len("file_read"))
	use := h.ask(begin().I32Const(handle).I32Const(8).Call(h.input).Op(asm.Drop), read, readLen).Op(asm.Drop).
		I32Const(atResult).I32Const(9).Call(h.output).I32Const(0)
	h.Func("use", function, use)
	opened := h.ask(begin(), open, openLen).Op(asm.Drop)
	for i := range int32(2) {
		opened = opened.I32Const(handle + 4*i).I32Const(atResult + 4*i).I32Load(0).I32Store(0)
	}
	h.Func("open_use", function, h.ask(opened, read, readLen).Op(asm.Drop).I32Const(atResult).I32Const(9).Call(h.output).I32Const(0))

	// probe reports what it finds, as findings has it; it traps if the segment
	// is gone.
	report := begin().I32Const(atReport).I32Const(atHeap).I32Load(0).I32Store(0)
	report = report.I32Const(atReport).GlobalGet(mark).I32Store(4)
	report = refIsNull(tableGet(report.I32Const(atReport).I32Const(2))).Op(asm.I32Eqz).I32Store(8)
	report = report.I32Const(atReport).MemorySize().I32Store(12)
	report = memoryInit(report.I32Const(atReport + 16).I32Const(0).I32Const(4))
	for i := range uint32(4) {
		report = report.I32Const(atReport).I32Const(atInit).I32Load(4 * i).I32Store(20 + 4*i)
	}
	h.Func("probe", function, report.I32Const(atReport).I32Const(36).Call(h.output).I32Const(0))
	h.Data(atRequests, string(h.requests))
	return withPassiveData(h.Bytes(), "kept")
}

// withPassiveData adds a passive data segment, which package asm cannot write,
// to a module whose one data segment is active.
func withPassiveData(wasm []byte, data string) []byte {
	out := bytes.Clone(wasm[:8])
	for rest := wasm[8:]; len(rest) > 0; {
		id := rest[0]
		size, n := binary.Uvarint(rest[1:])
		body := rest[1+n : 1+n+int(size)]
		rest = rest[1+n+int(size):]
		switch id {
		case 10: // the count of data segments comes before the code
			out = append(out, 12, 1, 2)
		case 11:
			body = append(append([]byte{2}, body[1:]...), 1, byte(len(data)))
			body = append(body, data...)
		}
		out = append(binary.AppendUvarint(append(out, id), uint64(len(body))), body...)
	}
	return out
}

// findings is what the hoarder finds at the beginning of a call.
type findings struct {
	Heap, Global, Table, Pages uint32
	Segment                    [4]byte
	Init, Seed                 uint64
}

// untouched is what it is to find, whatever was called before.
var untouched = findings{Pages: 1, Segment: [4]byte{'k', 'e', 'p', 't'}}

func (k *kernel) probe(id uuid.UUID) findings {
	k.t.Helper()
	out, err := k.Call(ctx, id, "probe", nil)
	if err != nil {
		k.t.Fatalf("probe: %v", err)
	}
	var f findings
	if _, err := binary.Decode(out, binary.LittleEndian, &f); err != nil {
		k.t.Fatal(err)
	}
	return f
}

// expectUntouched checks that a call finds nothing of another.
func (k *kernel) expectUntouched(id uuid.UUID, after string) findings {
	k.t.Helper()
	f := k.probe(id)
	got := f
	got.Init, got.Seed = 0, 0
	if got != untouched {
		k.t.Errorf("after %q a call finds %+v, want %+v", after, got, untouched)
	}
	return f
}

func (k *kernel) pool(id uuid.UUID) host.PoolStatus {
	k.t.Helper()
	p, err := k.Plugin(id)
	if err != nil {
		k.t.Fatal(err)
	}
	if p.Pool == nil {
		k.t.Fatal("it has no pool")
	}
	return *p.Pool
}

func plain(_ *hoarder, c asm.Code) asm.Code { return c }

// hoarder is a plugin that is the hoarder, one call at a time: where the
// instance of a call serves again, it is the next call's.
func (k *kernel) hoarder(init func(h *hoarder, c asm.Code) asm.Code) host.PluginConfig {
	k.t.Helper()
	path := filepath.Join(k.dir, "hoarder.wasm")
	if err := os.WriteFile(path, newHoarder(init), 0o600); err != nil {
		k.t.Fatal(err)
	}
	cfg := k.config("hoarder", path)
	cfg.Limits.Instances = 1
	return cfg
}

// TestCallsSeeNothingOfEachOther: no byte, global, table entry, page, segment
// or handle of one call is seen by the next, in whatever way it ended. What
// cannot be put back does not serve again.
func TestCallsSeeNothingOfEachOther(t *testing.T) {
	// The test can tell: where state is kept, all is found.
	t.Run("kept", func(t *testing.T) {
		k := newKernel(t)
		cfg := k.hoarder(plain)
		cfg.State = host.StateKeep
		id := k.start(cfg)
		for _, function := range []string{"heap", "global", "table", "grown"} {
			if _, err := k.Call(ctx, id, function, nil); err != nil {
				t.Fatal(err)
			}
		}
		if f := k.probe(id); f.Heap != 7 || f.Global != 7 || f.Table != 1 || f.Pages != 2 {
			t.Errorf("found %+v", f)
		}
		if out := k.handOver(id); out != "The forge" {
			t.Errorf("the handle of an earlier call reads %q", out)
		}
		if _, err := k.Call(ctx, id, "segment", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Call(ctx, id, "probe", nil); err == nil {
			t.Error("the segment is not gone")
		}
	})
	for _, again := range []bool{true, false} {
		t.Run(fmt.Sprintf("again=%v", again), func(t *testing.T) {
			k := newKernel(t)
			cfg := k.hoarder(plain)
			cfg.Limits.Timeout = 100 * time.Millisecond
			cfg.TrustLevel = capability.Limited // which no fault below lowers
			if !again {
				cfg.Pool.MaxIdle = host.NoIdle
			}
			id := k.start(cfg)
			if s := k.pool(id); s.Reason != "" || s.Image != engines.PageSize {
				t.Fatalf("pool %+v", s)
			}
			first := k.expectUntouched(id, "start")
			seeds := map[uint64]bool{first.Seed: true}
			for _, tc := range []struct {
				function string
				serves   int // instances that serve again
			}{
				{"heap", 1}, {"global", 1}, {"soft", 1}, {"soft_fail", 1}, {"no such function", 1},
				{"table", 0}, {"grown", 0}, {"segment", 0}, {"all", 0}, {"fail", 0}, {"trap", 0}, {"spin", 0},
			} {
				_, err := k.Call(ctx, id, tc.function, nil)
				if fails := tc.function == "trap" || tc.function == "spin" || strings.Contains(tc.function, "fail") || strings.Contains(tc.function, " "); fails != (err != nil) {
					t.Fatalf("%s: %v", tc.function, err)
				}
				if !again {
					tc.serves = 0
				}
				if s := k.pool(id); s.Idle != tc.serves {
					t.Errorf("after %q %d instances wait, want %d", tc.function, s.Idle, tc.serves)
				}
				f := k.expectUntouched(id, tc.function)
				if f.Init != first.Init {
					t.Errorf("after %q initialisation was run again", tc.function)
				}
				if seeds[f.Seed] {
					t.Errorf("after %q a call has the seed of another", tc.function)
				}
				seeds[f.Seed] = true
			}
			if out := k.handOver(id); strings.HasPrefix(out, "The") {
				t.Errorf("the handle of an earlier call reads %q", out)
			}
			if out, err := k.Call(ctx, id, "open_use", nil); err != nil || string(out) != "The forge" {
				t.Errorf("a handle of the call itself reads %q, %v", out, err)
			}
		})
	}
}

// handOver opens a file in one call and reads from its handle in the next.
func (k *kernel) handOver(id uuid.UUID) string {
	k.t.Helper()
	handle, err := k.Call(ctx, id, "open", nil)
	if err != nil || bytes.Equal(handle, make([]byte, 8)) {
		k.t.Fatalf("open: handle %x, %v", handle, err)
	}
	out, err := k.Call(ctx, id, "use", handle)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(out)
}

// TestQuarantineInTheMiddle: nothing of a life that ended by quarantine is in
// the one after.
func TestQuarantineInTheMiddle(t *testing.T) {
	k := newKernel(t)
	id := k.start(k.hoarder(plain))
	before := k.expectUntouched(id, "start")
	var denied *abi.DeniedError
	if _, err := k.Call(ctx, id, "escape", nil); !errors.As(err, &denied) || denied.Status != abi.Quarantined {
		t.Fatal(err)
	}
	if _, err := k.ReleaseCase(ctx, k.expect(id, host.PluginQuarantined).Case, "tester", "looked into it"); err != nil {
		t.Fatal(err)
	}
	if err := k.StartPlugin(ctx, id); err != nil {
		t.Fatal(err)
	}
	if f := k.expectUntouched(id, "quarantine"); f.Init == before.Init {
		t.Error("the image of the life before is in use")
	}
}

// TestCallsAtOnceSeeNothingOfEachOther is the same for calls that share a pool.
func TestCallsAtOnceSeeNothingOfEachOther(t *testing.T) {
	k := newKernel(t)
	cfg := k.hoarder(plain)
	cfg.Limits.Instances = 4
	id := k.start(cfg)
	init := k.probe(id).Init
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 30 {
				function := []string{"soft", "all", "soft_fail", "open"}[(i+n)%4]
				if _, err := k.Call(ctx, id, function, nil); err != nil && function != "soft_fail" {
					t.Error(err)
				}
				out, err := k.Call(ctx, id, "probe", nil)
				var f findings
				if err == nil {
					_, err = binary.Decode(out, binary.LittleEndian, &f)
				}
				if want := (findings{Pages: 1, Segment: untouched.Segment, Init: init, Seed: f.Seed}); err != nil || f != want {
					t.Errorf("found %+v, %v", f, err)
				}
			}
		})
	}
	wg.Wait()
	if s := k.pool(id); s.Idle < 1 || s.Idle > 4 {
		t.Errorf("pool %+v", s)
	}
}

// TestTrustLevelHasItsOwnImage: when the trust level falls, nothing that was
// initialised at the higher one serves any more.
func TestTrustLevelHasItsOwnImage(t *testing.T) {
	k := newKernel(t)
	id := k.start(k.hoarder(plain))
	before := k.probe(id)
	for range 12 { // one point each, of ten
		if f := k.probe(id); f.Init != before.Init {
			t.Fatal("initialised again at the same level")
		}
		if _, err := k.Call(ctx, id, "denied", nil); err != nil {
			t.Fatal(err)
		}
		if p, _ := k.Plugin(id); p.Level != capability.Standard {
			break
		}
	}
	if p, _ := k.Plugin(id); p.Level != capability.Limited {
		t.Fatalf("level %s, integrity %v", p.Level, p.Integrity)
	}
	if s := k.pool(id); s.Idle != 0 {
		t.Errorf("an instance that served a higher level waits: %+v", s)
	}
	after := k.expectUntouched(id, "a fall of the trust level")
	if after.Init == before.Init {
		t.Error("the image of a higher trust level is in use")
	}
	if k.probe(id).Init != after.Init {
		t.Error("each call is initialised")
	}
}

// A plugin in Go has an image: what its runtime does to the standard streams when
// it starts goes with it.
func TestGoPluginHasAnImage(t *testing.T) {
	k := newKernel(t)
	id := k.start(k.config("go", artifacts.summariseWasm))
	if s := k.pool(id); s.Reason != "" || s.Image == 0 {
		t.Errorf("%+v", s)
	}
}

// TestWithoutAnImage: where there can be no image, each call starts an instance
// anew, and it is said why.
func TestWithoutAnImage(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		init       func(h *hoarder, c asm.Code) asm.Code
		engine     host.NewEngine
	}{
		{"the engine cannot", "engine wazero cannot capture instances", plain, wazero.New},
		{"a handle is open", "leaves 1 handles open", func(h *hoarder, c asm.Code) asm.Code {
			ptr, n := h.request("file_open", "/data/report.txt", "r")
			return h.ask(c, ptr, n).Op(asm.Drop)
		}, sharedEngine},
		{"a table was changed", "changed a table", func(h *hoarder, c asm.Code) asm.Code {
			return tableSet(c.I32Const(3).RefFunc(h.output))
		}, sharedEngine},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			k := newKernelOn(t, tc.engine, host.WithLogger(hclog.New(&hclog.LoggerOptions{Output: &log})))
			cfg := k.hoarder(tc.init)
			id := k.start(cfg)
			if s := k.pool(id); !strings.Contains(s.Reason, tc.want) || s.Image != 0 {
				t.Errorf("pool %+v, want %q", s, tc.want)
			}
			inits := map[uint64]bool{}
			for _, function := range []string{"soft", "all", "fail", "trap"} {
				_, _ = k.Call(ctx, id, function, nil)
				inits[k.expectUntouched(id, function).Init] = true
				if s := k.pool(id); s.Idle != 0 {
					t.Errorf("%d instances wait", s.Idle)
				}
			}
			if n := strings.Count(log.String(), tc.want); n != 1 {
				t.Errorf("the reason is logged %d times:\n%s", n, &log)
			}
			if len(inits) != 4 {
				t.Errorf("%d initialisations for 4 calls", len(inits))
			}
		})
	}
}

// witness is an engine that remembers the snapshots that were taken and the
// instances that were made of them, so that a test can end them as the end of an
// engine's process does.
type witness struct {
	engines.WasmEngine
	mu        sync.Mutex
	snapshots []engines.Snapshot
	instances []engines.Instance
}

func (w *witness) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	m, err := w.WasmEngine.Compile(ctx, wasm, opts)
	if err != nil {
		return nil, err
	}
	return &witnessed{Module: m, witness: w}, nil
}

type witnessed struct {
	engines.Module
	witness *witness
}

func (m *witnessed) Snapshot(inst engines.Instance) (engines.Snapshot, error) {
	s, err := m.Module.(engines.Snapshotter).Snapshot(inst)
	if err != nil {
		return nil, err
	}
	m.witness.mu.Lock()
	defer m.witness.mu.Unlock()
	m.witness.snapshots = append(m.witness.snapshots, s)
	return witnessedSnapshot{s, m.witness}, nil
}

type witnessedSnapshot struct {
	engines.Snapshot
	witness *witness
}

func (s witnessedSnapshot) Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error) {
	inst, err := s.Snapshot.Instantiate(ctx, imports)
	if err == nil {
		s.witness.mu.Lock()
		defer s.witness.mu.Unlock()
		s.witness.instances = append(s.witness.instances, inst)
	}
	return inst, err
}

// TestLostImage: when an engine loses what it captured, and what waits, no call
// is the worse for it.
func TestLostImage(t *testing.T) {
	shared, err := sharedEngine()
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{WasmEngine: shared}
	k := newKernelOn(t, func() (engines.WasmEngine, error) { return w, nil })
	id := k.start(k.hoarder(plain))
	first := k.expectUntouched(id, "start")
	if len(w.snapshots) != 1 || len(w.instances) != 1 || k.pool(id).Idle != 1 {
		t.Fatalf("%d snapshots, %d instances, pool %+v", len(w.snapshots), len(w.instances), k.pool(id))
	}
	if err := w.instances[0].Close(); err != nil {
		t.Fatal(err)
	}
	if f := k.expectUntouched(id, "the end of what waited"); f.Init != first.Init || len(w.instances) != 2 {
		t.Errorf("found %+v, %d instances", f, len(w.instances))
	}
	if err := errors.Join(w.snapshots[0].Close(), w.instances[1].Close()); err != nil {
		t.Fatal(err)
	}
	if f := k.expectUntouched(id, "the end of the image"); f.Init == first.Init || len(w.snapshots) != 2 {
		t.Errorf("found %+v, %d snapshots", f, len(w.snapshots))
	}
}

// TestAnyOrder: whatever is called, in whatever order and across whatever verbs,
// no call finds anything of another.
func TestAnyOrder(t *testing.T) {
	var hours atomic.Int64
	k := newKernel(t, host.WithClock(func() time.Time { return time.Now().Add(time.Duration(hours.Load()) * time.Hour) }))
	cfg := k.hoarder(plain)
	cfg.Limits.Timeout = 20 * time.Millisecond
	id := k.start(cfg)
	verb := func(t *rapid.T, name string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for _, act := range rapid.SliceOfN(rapid.SampledFrom([]string{
			"heap", "global", "table", "grown", "segment", "all", "soft", "soft_fail", "fail", "trap", "spin", "open", "open_use", "denied", "nobody",
			"stop", "reload", "pause",
		}), 1, 8).Draw(t, "acts") {
			hours.Add(1) // and all is forgiven
			switch act {
			case "stop":
				verb(t, act, errors.Join(k.StopPlugin(ctx, id), k.StartPlugin(ctx, id)))
			case "reload":
				verb(t, act, k.ReloadPlugin(ctx, id, nil))
			case "pause":
				verb(t, act, errors.Join(k.PausePlugin(ctx, id), k.ResumePlugin(ctx, id)))
			default:
				_, _ = k.Call(ctx, id, act, nil)
			}
			k.expectUntouched(id, act)
		}
	})
}

// TestPool: as few wait as are to, as many as may, and those above the least
// not for ever.
func TestPool(t *testing.T) {
	k := newKernel(t)
	cfg := k.hoarder(plain)
	cfg.Limits.Instances = 4
	cfg.Pool = host.Pool{MinIdle: 1, MaxIdle: 3, IdleTimeout: 40 * time.Millisecond}
	id := k.start(cfg)
	eventually(t, "one is made ahead", func() bool { return k.pool(id).Idle == 1 })
	if _, err := k.Call(ctx, id, "all", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another takes the place of what was closed", func() bool { return k.pool(id).Idle == 1 })
	eventually(t, "three wait", func() bool {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = k.Call(ctx, id, "soft", nil) })
		}
		wg.Wait()
		if n := k.pool(id).Idle; n > 3 {
			t.Fatalf("%d wait", n)
		}
		return k.pool(id).Idle > 1
	})
	eventually(t, "one waits", func() bool { return k.pool(id).Idle == 1 })
	if err := k.StopPlugin(ctx, id); err != nil {
		t.Fatal(err)
	}
	if p, _ := k.Plugin(id); p.Pool != nil {
		t.Errorf("a stopped plugin has a pool: %+v", p.Pool)
	}
}

// TestIdleMemoryIsBounded: plugins share what idle instances may have.
func TestIdleMemoryIsBounded(t *testing.T) {
	k := newKernel(t, host.WithIdleMemory(engines.PageSize))
	a := k.start(k.hoarder(plain))
	cfg := k.hoarder(plain)
	cfg.Name = "b"
	b := k.start(cfg)
	waiting := func() [2]int {
		k.probe(a)
		k.probe(b)
		return [2]int{k.pool(a).Idle, k.pool(b).Idle}
	}
	for range 3 {
		if got := waiting(); got != [2]int{1, 0} {
			t.Errorf("waiting %v", got)
		}
	}
	if err := k.StopPlugin(ctx, a); err != nil {
		t.Fatal(err)
	}
	k.probe(b)
	if n := k.pool(b).Idle; n != 1 {
		t.Errorf("%d wait, although there is room", n)
	}
}

// TestPoolIsRefused names what is wrong with a pool.
func TestPoolIsRefused(t *testing.T) {
	k := newKernel(t)
	wasm := k.hoarder(plain)
	for _, tc := range []struct {
		change func(c *host.PluginConfig)
		want   string
	}{
		{func(c *host.PluginConfig) { c.Pool.MinIdle = -1 }, "no negative numbers"},
		{func(c *host.PluginConfig) { c.Pool.IdleTimeout = -1 }, "no negative numbers"},
		{func(c *host.PluginConfig) { c.Pool = host.Pool{MinIdle: 3, MaxIdle: 2} }, "3 idle instances at least are more than the 2 at most"},
		{func(c *host.PluginConfig) { c.Pool = host.Pool{MinIdle: 1, MaxIdle: host.NoIdle} }, "more than the 0 at most"},
		{func(c *host.PluginConfig) { c.State, c.Pool.MinIdle = host.StateKeep, 1 }, "pool is for pristine plugins"},
	} {
		cfg := wasm
		tc.change(&cfg)
		if _, err := k.LoadPlugin(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %q", err, tc.want)
		}
	}
}
