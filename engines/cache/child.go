package cache

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"syscall"
	"time"

	"forgeone.dev/forgeone/engines"
)

// watchEvery is how often a compiler looks at the memory it uses.
const watchEvery = 5 * time.Millisecond

// RunCompiler makes a compiler of this process: it compiles one module with a new
// engine, from in to out, and returns. It limits the whole process, and ends it
// when a limit is met or in ends.
func RunCompiler(newEngine func() (engines.WasmEngine, error), in io.Reader, out io.Writer) error {
	if os.Getenv(cookie) == "" {
		return errors.New("a compiler is started by a kernel; it is of no use by hand")
	}
	var req request
	header, err := readHeader(in)
	if err == nil {
		err = json.Unmarshal(header, &req)
	}
	if err != nil {
		return fmt.Errorf("the request: %w", err)
	}
	r := &reply{out: out}
	if err := limit(req, r); err != nil {
		return err
	}
	wasm := make([]byte, req.Bytes)
	if _, err := io.ReadFull(in, wasm); err != nil {
		return fmt.Errorf("the module: %w", err)
	}
	go func() { // to the end of the process
		_, _ = in.Read(make([]byte, 1))
		os.Exit(1) // the kernel is gone
	}()
	code, err := serialize(newEngine, wasm, req.Options)
	var a answer
	if err != nil {
		a.OutOfMemory = errors.Is(err, syscall.ENOMEM)
		a.Error = err.Error()
		if compile, ok := errors.AsType[*engines.CompileError](err); ok {
			a.Error = compile.Err.Error() // who asked names the engine
		}
		a.Error = a.Error[:min(len(a.Error), maxHeader/8)]
		a.Unsupported, _ = errors.AsType[*engines.UnsupportedError](err)
	}
	return r.send(a, code, func() {})
}

func serialize(newEngine func() (engines.WasmEngine, error), wasm []byte, opts engines.CompileOptions) (_ []byte, err error) {
	e, err := newEngine()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	s, ok := e.(engines.Serializer)
	if !ok {
		return nil, &engines.UnsupportedError{Engine: e.Info().Name, Feature: "machine code that is kept", Reason: "its adapter cannot take it out"}
	}
	return s.Serialize(context.Background(), wasm, opts)
}

// reply is the one answer of a compiler.
type reply struct {
	once sync.Once
	out  io.Writer
}

// send answers, unless an answer is given already, and calls then once it has.
func (r *reply) send(a answer, code []byte, then func()) (err error) {
	r.once.Do(func() {
		var header []byte
		if header, err = json.Marshal(a); err != nil {
			return
		}
		if _, err = r.out.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(header))), header...)); err == nil {
			_, err = r.out.Write(code)
		}
		then()
	})
	return err
}

// limit holds this process to what a request allows it.
func limit(req request, r *reply) error {
	if err := limitBySystem(req); err != nil {
		return fmt.Errorf("the limits of the process: %w", err)
	}
	// The Go runtime collects early rather than meet the limit of the system, and
	// the watch gives an answer where that would end in an abort.
	debug.SetMemoryLimit(req.Memory / 2)
	go func() { // to the end of the process
		used := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		for range time.Tick(watchEvery) {
			metrics.Read(used)
			if total := used[0].Value.Uint64() - used[1].Value.Uint64(); total > uint64(req.Memory)/8*7 {
				_ = r.send(answer{OutOfMemory: true}, nil, func() { os.Exit(1) })
				return
			}
		}
	}()
	return nil
}
