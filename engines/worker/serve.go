package worker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"forgeone.dev/forgeone/engines"
)

// The handshake's cookie, by which a worker knows that it was started by a
// kernel. It is no secret.
const (
	cookieKey   = "FORGEONE_ENGINE"
	cookieValue = "forgeone.engine.v1"

	protocolVersion = 2
)

const (
	service       = "forgeone.engine.v1.Worker"
	methodConnect = "Connect"
	tokenSize     = 32 // bytes
	dialTimeout   = 5 * time.Second

	// maxEarly is how many calls may be cancelled before they began. A
	// connection begins one at a time.
	maxEarly = 4
)

// hello is the worker's answer to Connect.
type hello struct {
	Name, Version string
	Features      engines.Features
}

// Serve makes a worker of this process: it serves an engine to the kernel that
// started it, until that ends it. An error is one of the engine, or says that
// no kernel started the process.
//
// holdsThread says that a host function of the engine is called from C: such a
// goroutine keeps its thread, so that it waits faster with the thread than
// without.
func Serve(newEngine func() (engines.WasmEngine, error), holdsThread bool) error {
	if os.Getenv(cookieKey) != cookieValue {
		return errors.New("a worker is started by a kernel: set isolation = \"process\" in an engine block of its configuration")
	}
	e, err := newEngine()
	if err != nil {
		return err
	}
	s := newServer(e)
	s.holdsThread = holdsThread
	serve(s)
	return nil // the process ends, and with it all that the engine holds
}

// serve has go-plugin do the handshake, and serve until the kernel ends it.
func serve(c connector) {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{ProtocolVersion: protocolVersion, MagicCookieKey: cookieKey, MagicCookieValue: cookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{protocolVersion: {"engine": servedPlugin{connector: c}}}, // the name is not sent
		Logger:           hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: stderr, JSONFormat: true}),
		GRPCServer:       plugin.DefaultGRPCServer,
	})
}

// servedPlugin registers the one service of a worker with go-plugin.
type servedPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	connector
}

// GRPCServer implements plugin.GRPCPlugin.
func (p servedPlugin) GRPCServer(_ *plugin.GRPCBroker, g *grpc.Server) error {
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*connector)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: methodConnect,
			Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				in := new(wrapperspb.BytesValue)
				if err := decode(in); err != nil {
					return nil, err
				}
				out, err := srv.(connector).connect(ctx, in.Value)
				return wrapperspb.Bytes(out), err
			},
		}},
	}, p.connector)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin; it is the kernel's side, not this one.
func (servedPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("a worker serves an engine, it does not start one")
}

// connector is what a worker does when the kernel asks it to connect.
type connector interface {
	connect(ctx context.Context, request []byte) ([]byte, error)
}

// server is the engine and what was made of it, by the kernel's numbers.
type server struct {
	engine      engines.WasmEngine
	holdsThread bool

	mu        sync.Mutex // guards what follows
	connected bool
	modules   map[uint32]servedModule
	snapshots map[uint32]servedSnapshot
	instances map[uint32]*served
	hosts     map[uint32]namedHost
	sessions  map[uint32]*session
}

// servedModule is a module, and whether its instances count fuel.
type servedModule struct {
	engines.Module
	fuel bool
}

// servedSnapshot is a snapshot, and what it is of.
type servedSnapshot struct {
	engines.Snapshot
	module servedModule
}

// namedHost is a set of host functions under the name that it is imported by.
type namedHost struct {
	name string
	*engines.HostModule
	functions []*hostFunction
}

func newServer(e engines.WasmEngine) *server {
	return &server{
		engine: e, modules: make(map[uint32]servedModule), snapshots: make(map[uint32]servedSnapshot),
		instances: make(map[uint32]*served), hosts: make(map[uint32]namedHost), sessions: make(map[uint32]*session),
	}
}

// connect is asked for once: the request is the token that the control
// connection must begin with, and the path of the socket to dial.
func (s *server) connect(ctx context.Context, request []byte) ([]byte, error) {
	if len(request) <= tokenSize {
		return nil, errors.New("the request is too short")
	}
	s.mu.Lock()
	again := s.connected
	s.connected = true
	s.mu.Unlock()
	if again {
		return nil, errors.New("the worker is connected already")
	}
	c, err := dial(ctx, request[:tokenSize], string(request[tokenSize:]))
	if err != nil {
		return nil, err
	}
	go s.control(c, func(id uint32, f *os.File) { go s.open(id, f).serve() }) // it ends with the process
	info := s.engine.Info()
	return json.Marshal(hello{Name: info.Name, Version: info.Version, Features: info.Features})
}

// dial makes the control connection.
func dial(ctx context.Context, token []byte, path string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(token); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c.(*net.UnixConn), nil
}

// control obeys the kernel's control frames; open takes the connections that
// come with them. Where the frames end so does the kernel's need of this
// process.
func (s *server) control(c *net.UnixConn, open func(id uint32, f *os.File)) {
	var b [controlSize]byte
	for {
		f, err := receive(c, b[:])
		if err == io.EOF {
			os.Exit(0)
		}
		if err != nil {
			fatal(err)
		}
		d := decoder{b: b[:]}
		switch kind, id, seq := d.byte(), d.uint32(), d.uint32(); {
		case kind == controlOpen && f != nil:
			open(id, f)
		case kind == controlCancel && f == nil:
			s.mu.Lock()
			t := s.sessions[id]
			s.mu.Unlock()
			if t != nil {
				t.cancel(seq)
			}
		default:
			fatal(fmt.Errorf("a control frame of kind %d", kind))
		}
	}
}

// stderr is the process's own: go-plugin puts a pipe in its place, and what is
// in that when the process ends is lost.
var stderr = os.Stderr

// fatal ends a worker whose kernel cannot be understood.
func fatal(err error) {
	fmt.Fprintf(stderr, "worker: %v\n", err)
	os.Exit(1)
}

func (s *server) open(id uint32, f *os.File) *session {
	t := newSession(s, f)
	if s.holdsThread {
		t.file = f
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[id] = t
	t.close = func() {
		s.mu.Lock()
		delete(s.sessions, id)
		s.mu.Unlock()
		_ = f.Close()
	}
	return t
}

// session serves one connection.
type session struct {
	conn
	server *server
	file   *os.File // that host calls wait for with their thread; nil if not
	close  func()
	ctx    context.Context // of a call that cannot be cancelled; it names the session

	*served                  // the connection's own instance; empty if there is none
	callers []engines.Memory // of the host calls under way, outermost first
	stacks  []uint64         // the stacks of the calls under way

	mu    sync.Mutex // guards what follows
	begun uint32     // the last sequence number that began
	calls []activeCall
	early []uint32 // cancelled before they began
}

// served is an instance, and what was asked of it.
type served struct {
	id       uint32
	instance engines.Instance
	fuel     engines.FuelMeter // the instance, if it counts fuel
	exports  []engines.ExportType
	funcs    []engines.Func // by export, once used
	memories []engines.Memory
	globals  []engines.Global
	watched  []engines.Global // whose values are told with each answer to a call
}

// activeCall is a call that can be cancelled.
type activeCall struct {
	seq    uint32
	cancel context.CancelFunc
}

type sessionKey struct{}

func newSession(s *server, rw io.ReadWriter) *session {
	t := &session{conn: newConn(rw, maxRequest), server: s, served: new(served), close: func() {}}
	t.ctx = context.WithValue(context.Background(), sessionKey{}, t)
	return t
}

// serve obeys the kernel until it closes the connection.
func (t *session) serve() {
	defer t.close()
	if err := t.loop(); err != io.EOF {
		fatal(err)
	}
}

func (t *session) loop() error {
	for {
		op, n, err := t.next()
		if err != nil {
			return err
		}
		if err := t.handle(op, n); err != nil {
			return err
		}
	}
}

// handle obeys one frame and answers it. An error is a frame that makes no
// sense, or a lost connection.
func (t *session) handle(op op, n int) error {
	if op == opRead {
		return t.read(n)
	}
	body, err := t.body(n)
	if err != nil {
		return err
	}
	d := &decoder{b: body}
	switch op {
	case opCall, opCallOf:
		err = t.call(op, d)
	case opWrite:
		err = t.write(d)
	case opPoke:
		ref, offset, data := d.uint32(), d.uint64(), d.rest()
		if err := d.done(op); err != nil {
			return err
		}
		if m := t.memory(ref); m != nil {
			m.Write(offset, data)
		}
		return nil // there is no answer
	case opSize:
		err = t.size(d)
	case opGrow:
		err = t.grow(d)
	case opGet, opSet:
		err = t.global(op, d)
	case opPut, opWatch:
		return t.quietly(op, d)
	case opCompile:
		err = t.compile(d)
	case opDropModule:
		err = t.dropModule(d)
	case opSnapshot:
		err = t.snapshot(d)
	case opRestore:
		err = t.restore(d)
	case opDropSnapshot:
		err = t.dropSnapshot(d)
	case opDefine:
		err = t.define(d)
	case opForget:
		t.forget(d)
		return d.done(op)
	case opAhead:
		return t.readAhead(d)
	case opInstantiate, opRevive:
		err = t.instantiate(op, d)
	case opAdopt:
		return t.adopt(d)
	case opSync:
		t.answer(opDone)
		err = d.done(op)
	case opClose:
		err = t.closeInstance(d)
	default:
		return violation("operation %d", op)
	}
	if err != nil {
		return err
	}
	return t.flush()
}

// report answers with what became of a request.
func (t *session) report(err error) {
	if err == nil {
		t.answer(opDone)
		return
	}
	t.conn.begin(opError)
	t.failure(err)
	t.end()
}

// begin is the context for a call; end must be called after it.
func (t *session) begin(h callHead) (ctx context.Context, end func()) {
	if !h.cancellable {
		return t.ctx, func() {}
	}
	var cancel context.CancelFunc
	if h.left != 0 {
		ctx, cancel = context.WithTimeout(t.ctx, h.left)
	} else {
		ctx, cancel = context.WithCancel(t.ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = h.seq
	t.calls = append(t.calls, activeCall{h.seq, cancel})
	for _, e := range t.early {
		if e == h.seq {
			cancel()
		}
	}
	t.early = t.early[:0]
	return ctx, func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.calls = t.calls[:len(t.calls)-1]
	}
}

// cancel ends the call of that sequence number. The frame may have overtaken
// the one that begins the call, or come after its end.
func (t *session) cancel(seq uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.calls {
		if c.seq == seq {
			c.cancel()
			return
		}
	}
	if after := int32(seq - t.begun); after > 0 && len(t.early) < maxEarly {
		t.early = append(t.early, seq)
	}
}

func (t *session) compile(d *decoder) error {
	head, id := d.head(), d.uint32()
	opts := engines.CompileOptions{
		MemoryLimitPages: d.uint32(), Interruptible: d.bool(), Fuel: d.uint64(), CallDepth: d.uint32(), Snapshots: d.bool(),
	}
	wasm := d.rest()
	if err := d.done(opCompile); err != nil {
		return err
	}
	ctx, end := t.begin(head)
	m, err := t.server.engine.Compile(ctx, wasm, opts)
	end()
	if err == nil {
		t.server.mu.Lock()
		t.server.modules[id] = servedModule{m, opts.Fuel > 0}
		t.server.mu.Unlock()
	}
	t.report(err)
	return nil
}

func (t *session) dropModule(d *decoder) error {
	id := d.uint32()
	if err := d.done(opDropModule); err != nil {
		return err
	}
	t.server.mu.Lock()
	m, ok := t.server.modules[id]
	delete(t.server.modules, id)
	t.server.mu.Unlock()
	if !ok {
		return violation("the end of module %d, which is none", id)
	}
	t.report(m.Close())
	return nil
}

func (t *session) define(d *decoder) error {
	id, name, n := d.uint32(), d.text(), d.uint32()
	hm := new(engines.HostModule)
	var functions []*hostFunction
	for i := uint32(0); i < n && !d.bad; i++ {
		fn := engines.HostFunction{Name: d.text(), Type: engines.FuncType{Params: d.types(), Results: d.types()}}
		f := &hostFunction{binding: id, index: i, params: wordCount(fn.Type.Params), results: wordCount(fn.Type.Results)}
		fn.Call = f.call
		functions = append(functions, f)
		hm.Functions = append(hm.Functions, fn)
	}
	if err := d.done(opDefine); err != nil {
		return err
	}
	t.server.mu.Lock()
	t.server.hosts[id] = namedHost{name, hm, functions}
	t.server.mu.Unlock()
	t.report(nil)
	return nil
}

func (t *session) forget(d *decoder) {
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	for len(d.b) > 0 {
		delete(t.server.hosts, d.uint32())
	}
}

// readAhead has calls of a host function bring what it will read.
func (t *session) readAhead(d *decoder) error {
	id, index, pairs := d.uint32(), d.uint32(), d.uint32()
	if err := d.done(opAhead); err != nil {
		return err
	}
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	functions := t.server.hosts[id].functions
	if uint64(index) >= uint64(len(functions)) {
		return violation("the host function %d of %d, which is none", index, id)
	}
	functions[index].ahead.Store(pairs)
	return nil
}

// snapshot takes one of the instance.
func (t *session) snapshot(d *decoder) error {
	module, id := d.uint32(), d.uint32()
	if err := d.done(opSnapshot); err != nil {
		return err
	}
	if t.instance == nil {
		return violation("a snapshot of an instance, and there is none")
	}
	t.server.mu.Lock()
	m := t.server.modules[module]
	t.server.mu.Unlock()
	of, ok := m.Module.(engines.Snapshotter)
	if !ok {
		t.report(&engines.SnapshotError{Reason: "its module is closed, or of an engine that takes none"})
		return nil
	}
	s, err := of.Snapshot(t.instance)
	if err != nil {
		t.report(err)
		return nil
	}
	t.server.mu.Lock()
	t.server.snapshots[id] = servedSnapshot{s, m}
	t.server.mu.Unlock()
	t.answerWord(s.Size())
	return nil
}

func (t *session) restore(d *decoder) error {
	id := d.uint32()
	if err := d.done(opRestore); err != nil {
		return err
	}
	t.server.mu.Lock()
	s, ok := t.server.snapshots[id]
	t.server.mu.Unlock()
	if ok && t.instance != nil && s.Restore(t.instance) {
		t.answer(opDone)
	} else {
		t.answer(opFalse)
	}
	return nil
}

func (t *session) dropSnapshot(d *decoder) error {
	id := d.uint32()
	if err := d.done(opDropSnapshot); err != nil {
		return err
	}
	t.server.mu.Lock()
	s, ok := t.server.snapshots[id]
	delete(t.server.snapshots, id)
	t.server.mu.Unlock()
	if !ok {
		return violation("the end of snapshot %d, which is none", id)
	}
	t.report(s.Close())
	return nil
}

// source makes instances: a module, or a snapshot of one.
type source interface {
	Instantiate(ctx context.Context, imports engines.Imports) (engines.Instance, error)
}

// source is what an instance is made from, nil if it was dropped meanwhile.
// The server's mu is held.
func (t *session) source(op op, id uint32) (source, servedModule) {
	if op == opRevive {
		if s, ok := t.server.snapshots[id]; ok {
			return s, s.module
		}
	} else if m, ok := t.server.modules[id]; ok {
		return m, m
	}
	return nil, servedModule{}
}

func (t *session) instantiate(op op, d *decoder) error {
	head, from, id, own := d.head(), d.uint32(), d.uint32(), d.bool()
	imports := engines.Imports{Host: map[string]*engines.HostModule{}, Instances: map[string]engines.Instance{}}
	t.server.mu.Lock()
	source, m := t.source(op, from)
	for n := d.uint32(); n > 0 && !d.bad; n-- {
		host, ok := t.server.hosts[d.uint32()]
		d.bad = d.bad || !ok
		imports.Host[host.name] = host.HostModule
	}
	for n := d.uint32(); n > 0 && !d.bad; n-- {
		name := d.text()
		lender, ok := t.server.instances[d.uint32()]
		if !ok {
			d.bad = true
			break
		}
		imports.Instances[name] = lender.instance
	}
	t.server.mu.Unlock()
	if err := d.done(op); err != nil {
		return err
	}
	if own && t.instance != nil {
		return violation("a second instance")
	}
	if source == nil {
		t.report(engines.ErrClosed)
		return nil
	}
	ctx, end := t.begin(head)
	inst, err := source.Instantiate(ctx, imports)
	end()
	if err != nil {
		t.report(err)
		return nil
	}
	s := newServed(id, inst, m)
	if own {
		t.served = s
	}
	t.server.mu.Lock()
	t.server.instances[id] = s
	t.server.mu.Unlock()
	var used uint64
	if s.fuel != nil {
		used = s.fuel.FuelUsed()
	}
	t.answerWord(used)
	return nil
}

func newServed(id uint32, inst engines.Instance, m servedModule) *served {
	exports := m.Exports()
	s := &served{
		id: id, instance: inst, exports: exports, funcs: make([]engines.Func, len(exports)),
		memories: make([]engines.Memory, len(exports)), globals: make([]engines.Global, len(exports)),
	}
	if m.fuel {
		s.fuel, _ = inst.(engines.FuelMeter) // the contract has it be one
	}
	return s
}

// adopt makes an instance the connection's that another connection made.
func (t *session) adopt(d *decoder) error {
	s, err := t.other(d)
	if err != nil {
		return err
	}
	if t.instance != nil {
		return violation("a second instance")
	}
	t.served = s
	return d.done(opAdopt)
}

// other is the instance that a frame names.
func (t *session) other(d *decoder) (*served, error) {
	id := d.uint32()
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	s := t.server.instances[id]
	if s == nil {
		return nil, violation("the instance %d, which is none", id)
	}
	return s, nil
}

func (t *session) closeInstance(d *decoder) error {
	if err := d.done(opClose); err != nil {
		return err
	}
	if t.instance == nil {
		return violation("the end of an instance, and there is none")
	}
	t.server.mu.Lock()
	delete(t.server.instances, t.id)
	t.server.mu.Unlock()
	err := t.instance.Close()
	t.served = new(served)
	t.report(err)
	return nil
}

// call calls the connection's own instance or, for a host function that the
// connection waits for, that of another.
func (t *session) call(op op, d *decoder) error {
	head, s := d.head(), t.served
	if op == opCallOf {
		var err error
		if s, err = t.other(d); err != nil {
			return err
		}
	}
	export := d.uint32()
	if uint64(export) >= uint64(len(s.exports)) || s.exports[export].Type.Kind != engines.KindFunc {
		return violation("a call of export %d, which is no function", export)
	}
	typ := &s.exports[export].Type.Func
	base, slots := len(t.stacks), typ.Slots()
	stack := t.push(slots)
	d.words(stack[:wordCount(typ.Params)])
	if err := d.done(op); err != nil {
		return err
	}
	err := t.run(s, head, export, stack)
	t.stacks = t.stacks[:base]
	if broken, ok := errors.AsType[*lostError](err); ok {
		return broken.err
	}
	if err != nil {
		t.conn.begin(opError)
		t.failure(err)
	} else {
		t.conn.begin(opResult)
		t.words(stack[:wordCount(typ.Results)])
	}
	t.tell(s)
	t.end()
	return nil
}

// tell ends an answer with what is told with it.
func (t *session) tell(s *served) {
	if s.fuel != nil {
		t.uint64(s.fuel.FuelUsed())
	}
	for _, g := range s.watched {
		var v uint64
		if g != nil {
			v = g.Get()
		}
		t.uint64(v)
	}
}

// push makes room for n words on top of the calls under way. The array may be
// replaced when it grows: who has a part of the old one keeps that.
func (t *session) push(n int) []uint64 {
	base := len(t.stacks)
	for range n {
		t.stacks = append(t.stacks, 0)
	}
	return t.stacks[base : base+n : base+n]
}

func (t *session) run(s *served, h callHead, export uint32, stack []uint64) error {
	f := s.funcs[export]
	if f == nil {
		var err error
		if f, err = s.instance.Func(s.exports[export].Name); err != nil {
			return err
		}
		s.funcs[export] = f
	}
	ctx, end := t.begin(h)
	defer end()
	return f.Call(ctx, stack)
}

// lostError is a connection that was lost in the middle of a host call.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }

// hostFunction is what the guest calls in place of a function of the kernel's:
// it has the kernel call that, over the connection that the guest was called by.
type hostFunction struct {
	binding, index  uint32
	params, results int           // words
	ahead           atomic.Uint32 // the parameters, a bit each, that are offsets of what the function reads; lengths follow them
}

func (f *hostFunction) call(ctx context.Context, caller engines.Caller, stack []uint64) error {
	t, ok := ctx.Value(sessionKey{}).(*session)
	if !ok {
		return errors.New("the engine lost the call's context")
	}
	return t.askHost(f, caller.Memory(), stack[:f.params], stack[:f.results])
}

// writeAhead ends an opHostCall frame with the parts of memory that the
// function will read.
func (t *session) writeAhead(f *hostFunction, memory engines.Memory, params []uint64) {
	at := len(t.out)
	t.uint32(0)
	var sent uint32
	for pairs := f.ahead.Load(); pairs != 0 && memory != nil; pairs &= pairs - 1 {
		i := bits.TrailingZeros32(pairs)
		if i+1 >= len(params) || uint32(params[i+1]) > maxAhead {
			continue
		}
		from, n := len(t.out), int(uint32(params[i+1]))
		t.out = slices.Grow(t.out, n)[:from+n]
		if memory.Read(uint64(uint32(params[i])), t.out[from:]) {
			sent |= 1 << i
		} else {
			t.out = t.out[:from]
		}
	}
	binary.LittleEndian.PutUint32(t.out[at:], sent)
}

func (t *session) askHost(f *hostFunction, memory engines.Memory, params, results []uint64) error {
	size := noMemory
	if memory != nil {
		size = memory.Size()
	}
	c := &t.conn
	c.begin(opHostCall)
	c.uint32(f.binding)
	c.uint32(f.index)
	c.uint64(size)
	c.words(params)
	t.writeAhead(f, memory, params)
	c.end()
	if err := c.flush(); err != nil {
		return &lostError{err}
	}
	t.callers = append(t.callers, memory)
	defer func() { t.callers = t.callers[:len(t.callers)-1] }()
	for {
		if t.file != nil && c.idle() {
			if err := awaitReadable(t.file); err != nil {
				return &lostError{err}
			}
		}
		op, n, err := c.next()
		if err != nil {
			return &lostError{err}
		}
		switch op {
		case opHostReturn:
			body, err := c.body(n)
			if err != nil {
				return &lostError{err}
			}
			d := decoder{b: body}
			d.words(results)
			if err := d.done(op); err != nil {
				return &lostError{err}
			}
			return nil
		case opHostFail:
			if n != 0 {
				return &lostError{violation("a malformed frame of operation %d", op)}
			}
			return hostFailed{}
		}
		if err := t.handle(op, n); err != nil {
			return &lostError{err}
		}
	}
}

// memory is the one that ref names, nil if there is none.
func (t *session) memory(ref uint32) engines.Memory {
	if ref&callerRef != 0 {
		if depth := uint64(ref &^ callerRef); depth < uint64(len(t.callers)) {
			return t.callers[depth]
		}
		return nil
	}
	if uint64(ref) >= uint64(len(t.exports)) {
		return nil
	}
	if t.memories[ref] == nil {
		t.memories[ref] = t.instance.Memory(t.exports[ref].Name)
	}
	return t.memories[ref]
}

func (t *session) read(n int) error {
	const size = 4 + 8 + 4 + 8
	if n != size {
		return violation("a malformed frame of operation %d", opRead)
	}
	body, err := t.body(n)
	if err != nil {
		return err
	}
	d := decoder{b: body}
	m, offset, length, whole := t.memory(d.uint32()), d.uint64(), d.uint32(), d.uint64()
	if length > maxData || uint64(length) > whole {
		return violation("a request for %d bytes", length)
	}
	start := len(t.out)
	c := &t.conn
	c.begin(opData)
	at := len(c.out)
	c.out = slices.Grow(c.out, int(length))[:at+int(length)]
	if m != nil && (whole == uint64(length) || within(m, offset, whole)) && m.Read(offset, c.out[at:]) {
		c.end()
	} else {
		c.out = c.out[:start]
		c.answer(opFalse)
	}
	return c.flush()
}

// within reports whether n bytes at offset are in m.
func within(m engines.Memory, offset, n uint64) bool {
	size := m.Size()
	return offset <= size && n <= size-offset
}

func (t *session) write(d *decoder) error {
	m, offset, whole, data := t.memory(d.uint32()), d.uint64(), d.uint64(), d.rest()
	if err := d.done(opWrite); err != nil {
		return err
	}
	if m != nil && (whole == uint64(len(data)) || within(m, offset, whole)) && m.Write(offset, data) {
		t.answerWord(m.Size())
	} else {
		t.answer(opFalse)
	}
	return nil
}

func (t *session) size(d *decoder) error {
	m := t.memory(d.uint32())
	if err := d.done(opSize); err != nil {
		return err
	}
	var size uint64
	if m != nil {
		size = m.Size()
	}
	t.answerWord(size)
	return nil
}

func (t *session) grow(d *decoder) error {
	m, pages := t.memory(d.uint32()), d.uint32()
	if err := d.done(opGrow); err != nil {
		return err
	}
	if m != nil {
		if previous, ok := m.Grow(pages); ok {
			t.answerWord(uint64(previous))
			return nil
		}
	}
	t.answer(opFalse)
	return nil
}

func (t *session) global(op op, d *decoder) error {
	g, err := t.exportedGlobal(d)
	if err != nil {
		return err
	}
	var v uint64
	if op == opSet {
		v = d.uint64()
	}
	if err := d.done(op); err != nil {
		return err
	}
	switch {
	case op == opSet && g == nil:
		t.report(engines.ErrClosed)
	case op == opSet:
		t.report(g.Set(v))
	case g == nil:
		t.answerWord(0)
	default:
		t.answerWord(g.Get())
	}
	return nil
}

// quietly obeys a frame about a global that has no answer.
func (t *session) quietly(op op, d *decoder) error {
	g, err := t.exportedGlobal(d)
	if err != nil {
		return err
	}
	if op == opPut {
		v := d.uint64()
		if g != nil && !d.bad {
			_ = g.Set(v) // the kernel knows that it is mutable
		}
		return d.done(op)
	}
	if len(t.watched) == maxWatched {
		return violation("one more global than %d is to be watched", maxWatched)
	}
	t.watched = append(t.watched, g)
	return d.done(op)
}

// exportedGlobal is the one that the frame names, nil if the instance is closed.
func (t *session) exportedGlobal(d *decoder) (engines.Global, error) {
	export := d.uint32()
	if uint64(export) >= uint64(len(t.exports)) {
		return nil, violation("the global of export %d", export)
	}
	if t.globals[export] == nil {
		t.globals[export] = t.instance.Global(t.exports[export].Name)
	}
	return t.globals[export], nil
}
