package cache

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"forgeone.dev/forgeone/engines"
)

const (
	// cookie is set for a compiler, so that it does not start one in turn.
	cookie = "FORGEONE_COMPILER"

	maxHeader  = 64 << 10 // bytes, of a request's or an answer's
	maxRunning = 4        // compilers at once, on as many processors
	keptStderr = 2 << 10  // bytes, of the beginning and of the end of what a compiler writes to standard error
	// exitTime is how long a compiler that was killed, or has answered, may take to
	// be gone.
	exitTime = 5 * time.Second
)

// The protocol. The kernel writes to standard input the length of a request, the
// request and the module, and leaves it open: its end tells the compiler that the
// kernel is gone. The compiler writes to standard output the length of an answer,
// the answer and, if that is no error, machine code to the end. Lengths are 32
// bits, little-endian.
type (
	request struct {
		Options engines.CompileOptions
		Bytes   int // of the module
		Timeout time.Duration
		Memory  int64
	}
	answer struct {
		Error       string                    `json:",omitempty"`
		Unsupported *engines.UnsupportedError `json:",omitempty"`
		OutOfMemory bool                      `json:",omitempty"`
	}
)

// Compiler compiles in processes of their own, one a module, by running this
// program again: with arguments that lead it to [RunCompiler].
//
// What holds the limits: time, this process, which kills; memory, on Linux the
// kernel (RLIMIT_DATA), and elsewhere the compiler itself, which watches the Go
// heap: so outside Linux the memory of an engine that is not written in Go is not
// held. On unix the system also ends a compiler that is left behind, by the time
// it computes. It is killed when the context is done, too.
type Compiler struct {
	args    []string
	timeout time.Duration
	memory  int64
	running chan struct{}
}

// NewCompiler returns a compiler with the limits of a configuration. args are the
// command line that leads to [RunCompiler].
func NewCompiler(c Config, args ...string) *Compiler {
	return &Compiler{
		args:    args,
		timeout: cmp.Or(c.Timeout, DefaultTimeout),
		memory:  cmp.Or(c.Memory, DefaultMemory),
		running: make(chan struct{}, min(maxRunning, runtime.GOMAXPROCS(0))),
	}
}

// compile is the machine code of a module. Errors: *[LimitError];
// *[engines.UnsupportedError]; the context's cause; the compiler's own words.
func (c *Compiler) compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) ([]byte, error) {
	if os.Getenv(cookie) != "" {
		return nil, errors.New("a compiler does not start another: its command line leads it elsewhere than to its task")
	}
	select {
	case c.running <- struct{}{}:
		defer func() { <-c.running }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	late := &LimitError{What: "time", Limit: c.timeout.String(), Option: "timeout"}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, late)
	defer cancel()
	code, err := c.run(ctx, wasm, opts)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return code, err
}

func (c *Compiler) run(ctx context.Context, wasm []byte, opts engines.CompileOptions) ([]byte, error) {
	header, err := json.Marshal(request{Options: opts, Bytes: len(wasm), Timeout: c.timeout, Memory: c.memory})
	if err != nil {
		return nil, err
	}
	var stderr clipped
	cmd := exec.CommandContext(ctx, self(), c.args...)
	cmd.Env, cmd.Stderr, cmd.WaitDelay = environment(), &stderr, exitTime
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("the compiler cannot be started: %w", err)
	}
	sent := make(chan struct{})
	go func() { // ends when all is read, or nobody is left to read it
		defer close(sent)
		_, _ = in.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(header))), header...))
		_, _ = in.Write(wasm)
	}()
	a, code, read := c.answer(out, len(wasm))
	if read != nil {
		_ = cmd.Process.Kill() // it may be at its end already
	}
	_ = in.Close()
	<-sent
	exit := cmd.Wait()
	if read != nil {
		return nil, c.crash(read, exit, stderr.String())
	}
	switch {
	case a.OutOfMemory:
		return nil, c.outOfMemory()
	case a.Unsupported != nil:
		return nil, a.Unsupported
	case a.Error != "":
		return nil, errors.New(a.Error)
	}
	return code, nil
}

// answer reads what a compiler answers.
func (c *Compiler) answer(r io.Reader, moduleBytes int) (a answer, code []byte, err error) {
	header, err := readHeader(r)
	if err != nil {
		return a, nil, err
	}
	if err := json.Unmarshal(header, &a); err != nil {
		return a, nil, fmt.Errorf("its answer is malformed: %w", err)
	}
	limit := c.maxCode(moduleBytes)
	code, err = io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(code)) > limit {
		err = &LimitError{What: "code", Limit: mebibytes(limit), Option: "memory"}
	}
	return a, code, err
}

// maxCode is how much code a module may become, in bytes: far more than compilers
// make, and a part of what the compiler may use.
func (c *Compiler) maxCode(moduleBytes int) int64 {
	return min(c.memory/4, 16<<20+64*int64(moduleBytes))
}

// crash is the error for a compiler that did not answer.
func (c *Compiler) crash(read, exit error, stderr string) error {
	if _, ok := errors.AsType[*LimitError](read); ok {
		return read
	}
	for _, words := range outOfMemoryWords {
		if strings.Contains(stderr, words) {
			return c.outOfMemory()
		}
	}
	why := read
	if errors.Is(read, io.EOF) || errors.Is(read, io.ErrUnexpectedEOF) {
		why = cmp.Or(exit, read) // else it was killed for what it sent
	}
	return fmt.Errorf("the compiler failed on this module (%w): %s", why, cmp.Or(stderr, "it left no message"))
}

// outOfMemoryWords are what the runtimes of Go, Rust and C++ say when the system
// gives them no more.
var outOfMemoryWords = []string{"out of memory", "cannot allocate memory", "memory allocation of", "bad_alloc", "Cannot allocate memory", "Resource temporarily unavailable"}

func (c *Compiler) outOfMemory() error {
	return &LimitError{What: "memory", Limit: mebibytes(c.memory), Option: "memory"}
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// environment is that of a compiler: nothing that it could give away, and where
// the libraries of its engine are.
func environment() []string {
	env := []string{cookie + "=1"}
	for _, name := range []string{"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func readHeader(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > maxHeader {
		return nil, fmt.Errorf("a header of %d bytes, above the limit of %d", n, maxHeader)
	}
	header := make([]byte, n)
	_, err := io.ReadFull(r, header)
	return header, err
}

// clipped keeps the beginning and the end of what is written to it: runtimes say
// first what is wrong, and then much else.
type clipped struct {
	head, tail []byte
	lost       bool // something in between
}

func (c *clipped) Write(p []byte) (int, error) {
	n := len(p)
	room := min(keptStderr-len(c.head), n)
	c.head = append(c.head, p[:room]...)
	c.tail = append(c.tail, p[room:]...)
	if over := len(c.tail) - keptStderr; over > 0 {
		c.tail, c.lost = slices.Delete(c.tail, 0, over), true
	}
	return n, nil
}

func (c *clipped) String() string {
	gap := ""
	if c.lost {
		gap = "\n…\n"
	}
	return strings.TrimSpace(string(c.head) + gap + string(c.tail))
}
