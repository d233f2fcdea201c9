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
			if _, broken := readError(context.Background(), body, "engine", nil); broken != nil {
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
