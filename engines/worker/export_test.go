package worker

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"

	"forgeone.dev/forgeone/engines"
)

// PIDs are the processes of an engine's workers.
func PIDs(e engines.WasmEngine) []int {
	en := e.(*engine)
	en.mu.Lock()
	defer en.mu.Unlock()
	var pids []int
	for w := range en.all {
		pids = append(pids, w.proc.PID())
	}
	slices.Sort(pids)
	return pids
}

// ServeLies is Serve for a worker that replaces frames that it sends, each
// given whole, by what lie returns.
func ServeLies(newEngine func() (engines.WasmEngine, error), lie func(frame []byte) []byte) error {
	e, err := newEngine()
	if err != nil {
		return err
	}
	serve(liarServer{newServer(e), lie})
	return nil
}

type liarServer struct {
	*server
	lie func(frame []byte) []byte
}

func (l liarServer) connect(ctx context.Context, request []byte) ([]byte, error) {
	c, err := dial(ctx, request[:tokenSize], string(request[tokenSize:]))
	if err != nil {
		return nil, err
	}
	go l.control(c, func(_ uint32, f *os.File) { go newSession(l.server, &liar{f, l.lie}).serve() })
	info := l.engine.Info()
	return json.Marshal(hello{Name: info.Name, Version: info.Version, Features: info.Features})
}

type liar struct {
	*os.File
	lie func([]byte) []byte
}

func (l *liar) Write(b []byte) (int, error) {
	_, err := l.File.Write(l.lie(b))
	return len(b), err
}

// Frame is a frame of operation op.
func Frame(op byte, body ...byte) []byte {
	c := newConn(nil, maxAnswer)
	c.begin(opOf(op))
	c.out = append(c.out, body...)
	c.end()
	return c.out
}

func opOf(b byte) op { return op(b) }

// Operations that tests lie with.
const (
	OpDone, OpFalse, OpWord, OpData       = byte(opDone), byte(opFalse), byte(opWord), byte(opData)
	OpResult, OpError, OpHostCall, OpCall = byte(opResult), byte(opError), byte(opHostCall), byte(opCall)
	ErrHost, ErrTrap                      = errHost, errTrap
	MaxAnswer                             = maxAnswer
)

// Answers reads a worker's frames as the kernel does, until they make no sense.
func Answers(r io.Reader) error {
	c := newConn(struct {
		io.Reader
		io.Writer
	}{r, io.Discard}, maxAnswer)
	for {
		op, n, err := c.next()
		if err != nil {
			return err
		}
		body, err := c.body(n)
		if err != nil {
			return err
		}
		if op == opError {
			d := decoder{b: body}
			if _, broken := d.failure(context.Background(), "engine", nil); broken != nil {
				return broken
			}
		}
	}
}

// Requests obeys a kernel's frames as a worker does, until they make no sense.
func Requests(e engines.WasmEngine, r io.Reader) error {
	t := newSession(newServer(e), struct {
		io.Reader
		io.Writer
	}{r, io.Discard})
	return t.loop()
}

// ResidentMemory is of a process, in bytes.
func ResidentMemory(pid int) uint64 { return residentMemory(pid) }

// Conversation is what a kernel could send: the life of an instance of wasm,
// whole, and each of its frames.
func Conversation(wasm []byte) [][]byte {
	t := &wire{conn: newConn(nil, maxAnswer)}
	var streams [][]byte
	last := 0
	frame := func(op op, body func()) {
		t.begin(op)
		body()
		t.end()
		streams = append(streams, slices.Clone(t.out[last:]))
		last = len(t.out)
	}
	call := func(kind byte) { t.uint32(1); t.byte(kind) }
	frame(opCompile, func() {
		call(callEndless)
		t.uint32(1)
		t.uint32(0)
		t.bool(false)
		t.uint64(0)
		t.uint32(0)
		t.bool(true)
		t.out = append(t.out, wasm...)
	})
	frame(opDefine, func() {
		t.uint32(2)
		t.text("env")
		t.uint32(2)
		t.text("add")
		t.types([]engines.ValueType{engines.I32, engines.I32})
		t.types([]engines.ValueType{engines.I32})
		t.text("copy")
		t.types([]engines.ValueType{engines.I32, engines.I32})
		t.types(nil)
	})
	frame(opAhead, func() { t.uint32(2); t.uint32(1); t.uint32(1) })
	frame(opForget, func() { t.uint32(7) })
	frame(opInstantiate, func() {
		call(callEndless)
		t.uint32(1)
		t.uint32(3)
		t.bool(true)
		t.uint32(1)
		t.uint32(2)
		t.uint32(0)
	})
	frame(opCall, func() { call(callDeadline); t.uint64(1e9); t.uint32(0); t.words([]uint64{1, 2}) })
	frame(opWrite, func() { t.uint32(3); t.uint64(8); t.uint64(2); t.out = append(t.out, "hi"...) })
	frame(opPoke, func() { t.uint32(3); t.uint64(8); t.out = append(t.out, "ho"...) })
	frame(opRead, func() { t.uint32(3); t.uint64(8); t.uint32(2); t.uint64(2) })
	frame(opSize, func() { t.uint32(3) })
	frame(opGrow, func() { t.uint32(3); t.uint32(1) })
	frame(opCall, func() { call(callCancellable); t.uint32(1); t.words([]uint64{1, 2}) })
	frame(opGet, func() { t.uint32(callerRef) })
	frame(opSize, func() { t.uint32(callerRef) })
	frame(opHostReturn, func() { t.words([]uint64{3}) })
	frame(opGet, func() { t.uint32(0) })
	frame(opSet, func() { t.uint32(0); t.uint64(1) })
	frame(opPut, func() { t.uint32(0); t.uint64(1) })
	frame(opWatch, func() { t.uint32(0) })
	frame(opSnapshot, func() { t.uint32(1); t.uint32(9) })
	frame(opRestore, func() { t.uint32(9) })
	frame(opClose, func() {})
	frame(opRevive, func() {
		call(callEndless)
		t.uint32(9)
		t.uint32(4)
		t.bool(false)
		t.uint32(0)
		t.uint32(0)
	})
	frame(opAdopt, func() { t.uint32(4) })
	frame(opSync, func() {})
	frame(opCallOf, func() { call(callEndless); t.uint32(4); t.uint32(0); t.words([]uint64{1, 2}) })
	frame(opDropSnapshot, func() { t.uint32(9) })
	frame(opDropModule, func() { t.uint32(1) })
	return append(streams, slices.Clone(t.out))
}
