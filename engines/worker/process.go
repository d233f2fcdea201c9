package worker

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"forgeone.dev/forgeone/child"
	"forgeone.dev/forgeone/engines"
)

const (
	// lostTime is from the loss of a connection, as by the process's own end, to
	// the kill.
	lostTime = 200 * time.Millisecond
	// maxIdle is how many connections of closed instances are kept.
	maxIdle = 16
	// checkCompiles is after how many modules compiled a worker's memory is
	// looked at: they may be many before the next time that its health is.
	checkCompiles = 16

	replacedReason = "its successor serves"
)

// worker is one process.
type worker struct {
	engine  *engine
	info    engines.Info
	proc    *child.Process
	started time.Time
	control *net.UnixConn

	ended chan struct{} // closed when the process has ended
	err   error         // how; set before ended is closed

	sending sync.Mutex // held while a control frame is sent

	mu        sync.Mutex // guards what follows; never held while e.mu is taken
	killed    string     // why
	retired   bool
	due       bool // its successor is being started
	users     int  // instances, and what is under way
	compiles  int
	instances int    // made
	granted   uint64 // bytes of memory that instances and snapshots may have
	peak      uint64 // of granted
	idle      []*wire
	wires     map[*wire]struct{}
	lastWire  uint32
	compiled  map[*module]*compiled
	hosts     map[hostKey]*binding
	forgotten []uint32 // bindings that the worker is still to be told of

	defining sync.Mutex // held while a binding is made
}

// launch starts a worker.
func (e *engine) launch(ctx context.Context) (_ *worker, err error) {
	name := e.cfg.Engine
	if name == "" {
		name = "engine"
	}
	proc, err := child.Start(ctx, child.Config{
		Name: name, Path: e.cfg.Binary, SHA256: e.cfg.SHA256, Args: e.cfg.Args, Env: e.cfg.Env,
		CookieKey: cookieKey, CookieValue: cookieValue, Versions: []int{protocolVersion},
		Logger: e.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	w := &worker{
		engine: e, proc: proc, started: time.Now(), ended: make(chan struct{}),
		wires: make(map[*wire]struct{}), compiled: make(map[*module]*compiled), hosts: make(map[hostKey]*binding),
	}
	if err := sacrifice(proc.PID()); err != nil {
		e.cfg.Logger.Warn("a worker is not marked to be ended first when memory runs out", "error", err)
	}
	connecting, cancel := context.WithTimeout(ctx, child.DefaultStartTimeout)
	defer cancel()
	if err := w.connect(connecting); err != nil {
		err = fmt.Errorf("worker %s (%s): %w", name, e.cfg.Binary, err)
		return nil, errors.Join(err, proc.Kill(), proc.Stop(context.Background()))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = make(map[*worker]struct{})
	}
	e.all[w] = struct{}{}
	e.tasks.Go(w.tend) // who runs launch is one of the tasks: they are not over
	if e.closed() {
		w.kill("the engine was closed")
	}
	return w, nil
}

// connect makes the control connection. The worker dials it: the socket is gone
// from the file system by the time that anything is run.
func (w *worker) connect(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "forgeone-") // mode 0700
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "worker")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()

	token := make([]byte, tokenSize)
	_, _ = rand.Read(token) // it does not fail
	answer := new(wrapperspb.BytesValue)
	if err := w.proc.Conn().Invoke(ctx, "/"+service+"/"+methodConnect, wrapperspb.Bytes(append(token, path...)), answer); err != nil {
		return fmt.Errorf("it does not serve an engine: %w", err)
	}
	var h hello
	if err := json.Unmarshal(answer.Value, &h); err != nil {
		return fmt.Errorf("it does not say which engine it is: %w", err)
	}
	if want := w.engine.cfg.Engine; h.Name == "" || h.Version == "" || want != "" && h.Name != want {
		return fmt.Errorf("its engine is %q, version %q; configured is %q", h.Name, h.Version, want)
	}
	w.info = engines.Info{Name: h.Name, Version: h.Version, Features: h.Features}
	w.info.MappedMemory = false // a file's pages are not handed on
	w.control, err = accept(ctx, l, token)
	return err
}

// accept takes the first connection that begins with the token.
func accept(ctx context.Context, l *net.UnixListener, token []byte) (*net.UnixConn, error) {
	deadline, _ := ctx.Deadline()
	if err := l.SetDeadline(deadline); err != nil {
		return nil, err
	}
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, fmt.Errorf("it does not connect: %w", err)
		}
		got := make([]byte, tokenSize)
		_ = c.SetDeadline(deadline)
		if _, err := io.ReadFull(c, got); err == nil && subtle.ConstantTimeCompare(got, token) == 1 {
			return c, c.SetDeadline(time.Time{})
		}
		_ = c.Close()
	}
}

// tend watches the process to its end, and clears away what it held.
func (w *worker) tend() {
	w.watch()
	w.mu.Lock()
	crash := &CrashError{Engine: w.info.Name, PID: w.proc.PID(), Killed: w.killed, How: how(w.proc.ExitError())}
	retired := w.retired
	wanted := w.killed == replacedReason || w.engine.closed()
	w.err = crash
	close(w.ended)
	for t := range w.wires {
		_ = t.file.Close()
	}
	for _, b := range w.hosts {
		b.cleanup.Stop()
	}
	w.wires, w.idle, w.compiled, w.hosts = nil, nil, nil, nil
	w.mu.Unlock()
	_ = w.control.Close()

	w.engine.mu.Lock()
	delete(w.engine.all, w)
	w.engine.drop(w)
	if !wanted {
		w.engine.cfg.Logger.Error("a worker crashed", "error", crash)
	}
	if !wanted && !retired {
		w.engine.startWorker(nil)
	}
	w.engine.mu.Unlock()
	_ = w.proc.Stop(context.Background()) // it has ended; waits for its files to be removed
}

// watch returns when the process has ended; it kills one that hangs.
func (w *worker) watch() {
	tick := time.NewTicker(w.engine.cfg.HealthEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.proc.Exited():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), w.engine.cfg.HangTimeout)
		if err := w.proc.Health(ctx); err != nil {
			reason := fmt.Sprintf("it did not say within %v that it serves", w.engine.cfg.HangTimeout)
			if ctx.Err() == nil {
				reason = fmt.Sprintf("asked whether it serves, it failed: %v", err)
			}
			select {
			case <-w.proc.Exited():
			case <-time.After(lostTime): // one that has ended cannot answer, either
				w.kill(reason)
			}
		}
		cancel()
		w.recycle()
	}
}

// recycle has a worker replaced that has reached a limit, and kills one that
// has more memory than what it holds may need: twice what that was granted, as
// much may wait to be collected, and twice where it should have been replaced.
func (w *worker) recycle() {
	cfg := &w.engine.cfg
	rss := residentMemory(w.proc.PID())
	w.mu.Lock()
	if most := 2*cfg.MaxRSS + 2*w.peak; rss > most {
		w.mu.Unlock()
		w.kill(fmt.Sprintf("it holds %d MiB, where %d are the most that what it serves may need", rss>>20, most>>20))
		return
	}
	var reason string
	switch age := time.Since(w.started); {
	case w.due || w.retired:
	case age > cfg.MaxAge:
		reason = fmt.Sprintf("it is %v old", age.Round(time.Second))
	case w.compiles >= cfg.MaxCompiles:
		reason = fmt.Sprintf("it compiled %d modules", w.compiles)
	case w.instances >= cfg.MaxInstances:
		reason = fmt.Sprintf("it made %d instances", w.instances)
	case rss > cfg.MaxRSS:
		reason = fmt.Sprintf("it holds %d MiB", rss>>20)
	}
	w.mu.Unlock()
	if reason == "" {
		return
	}
	w.engine.mu.Lock()
	defer w.engine.mu.Unlock()
	if w.engine.startWorker(w) {
		cfg.Logger.Info("a worker is being replaced", "pid", w.proc.PID(), "because", reason)
		w.setDue(true)
	}
}

func (w *worker) setDue(due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = due
}

// retire takes no more instances, and ends the process with its last one.
func (w *worker) retire(reason string) {
	w.engine.mu.Lock()
	w.engine.drop(w)
	w.engine.mu.Unlock()
	w.mu.Lock()
	w.retired = true
	over := w.users == 0
	w.mu.Unlock()
	if over {
		w.kill(reason)
	}
}

// countCompile and countInstance have the worker replaced when it made as many
// as it may, or has grown too large meanwhile.
func (w *worker) countCompile() {
	w.mu.Lock()
	w.compiles++
	over := (w.compiles >= w.engine.cfg.MaxCompiles || w.compiles%checkCompiles == 0) && !w.due
	w.mu.Unlock()
	if over {
		w.recycle()
	}
}

func (w *worker) countInstance() {
	w.mu.Lock()
	w.instances++
	over := w.instances >= w.engine.cfg.MaxInstances && !w.due
	w.mu.Unlock()
	if over {
		w.recycle()
	}
}

// grant counts memory that something in the worker may have, giveBack that it
// is gone.
func (w *worker) grant(bytes uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.granted += bytes
	w.peak = max(w.peak, w.granted)
}

func (w *worker) giveBack(bytes uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.granted -= bytes
}

// load is how many instances the worker has.
func (w *worker) load() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.users
}

// dying reports whether the process was killed.
func (w *worker) dying() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killed != ""
}

// use counts one more user; an error if the process has ended.
func (w *worker) use() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.ended:
		return w.err
	default:
		w.users++
		return nil
	}
}

func (w *worker) release() {
	w.mu.Lock()
	w.users--
	over := w.users == 0 && w.retired
	w.mu.Unlock()
	if over {
		w.kill(replacedReason)
	}
}

// kill ends the process; it does not wait for that.
func (w *worker) kill(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.proc.Exited():
		return
	default:
	}
	if w.killed != "" {
		return
	}
	w.killed = reason
	w.engine.tasks.Go(func() { _ = w.proc.Kill() }) // who calls is a task, or tend still is one
}

// lost is the error for a connection that failed with err: it has the worker
// killed, if it has not ended, and waits for that.
func (w *worker) lost(err error) error {
	var broken *protocolError
	if errors.As(err, &broken) {
		w.kill(err.Error())
	} else {
		t := time.NewTimer(lostTime)
		defer t.Stop()
		select {
		case <-w.ended:
		case <-t.C:
			w.kill(fmt.Sprintf("a connection to it failed (%v)", err))
		}
	}
	<-w.ended
	if w.engine.closed() {
		return engines.ErrClosed
	}
	return w.err
}

// command sends a control frame, and a descriptor if f is not nil.
func (w *worker) command(kind byte, wire, seq uint32, f *os.File) error {
	b := make([]byte, 0, controlSize)
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, wire)
	b = binary.LittleEndian.AppendUint32(b, seq)
	w.sending.Lock()
	defer w.sending.Unlock()
	// A worker that hangs reads nothing; the frames before fit in the socket.
	if err := w.control.SetWriteDeadline(time.Now().Add(w.engine.cfg.Grace)); err != nil {
		return err
	}
	if f != nil {
		return sendFile(w.control, b, f)
	}
	_, err := w.control.Write(b)
	return err
}

// take is a connection to the worker, one that idles or a new one.
func (w *worker) take() (*wire, error) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		t := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		return t, nil
	}
	w.lastWire++
	id := w.lastWire
	w.mu.Unlock()

	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	err = w.command(controlOpen, id, 0, theirs)
	_ = theirs.Close()
	if err != nil {
		return nil, errors.Join(w.lost(err), ours.Close())
	}
	t := &wire{conn: newConn(ours, maxAnswer), file: ours, worker: w, id: id}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wires == nil {
		return nil, errors.Join(w.err, ours.Close())
	}
	w.wires[t] = struct{}{}
	return t, nil
}

// give takes back a connection without an instance.
func (w *worker) give(t *wire) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wires == nil {
		return // closed by tend
	}
	if len(w.idle) < maxIdle {
		w.idle = append(w.idle, t)
		return
	}
	delete(w.wires, t)
	_ = t.file.Close()
}
