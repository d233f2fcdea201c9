package syscalls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// MaxStdio is how many bytes one stdio_write takes, and one stdio_read returns.
const MaxStdio = 1 << 20

func stdio(in func(ctx context.Context, plugin string, p []byte) (int, error), out func(plugin, stream string, p []byte)) []abi.Registration {
	return []abi.Registration{{
		Name: "stdio_read", Args: []string{"stream", "n", "wait..."}, MinTrust: capability.Limited,
		Doc: fmt.Sprintf("Read up to n bytes, at most %d, from `stdin`. Waits until there are some, or as long as wait says, in ns: it then fails with EAGAIN (%d), and what comes later is there for the next read. "+
			"Returns none at the end.", MaxStdio, codeAgain),
		Resolve: atMost(3, oneOf("stdio", "stdin")),
		Handler: func(ctx context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			n, err := count("n", sc.Args[1])
			if err != nil {
				return nil, err
			}
			if err := tooLarge("n", n, MaxStdio); err != nil {
				return nil, err
			}
			waiting := ctx
			if len(sc.Args) == 3 {
				wait, err := count("wait", sc.Args[2])
				if err != nil {
					return nil, err
				}
				var done context.CancelFunc
				waiting, done = context.WithTimeout(ctx, time.Duration(wait))
				defer done()
			}
			p := make([]byte, n)
			got, err := in(waiting, sc.Plugin, p)
			switch {
			case err == nil, errors.Is(err, io.EOF):
				return p[:got], nil
			case ctx.Err() == nil && waiting.Err() != nil:
				return nil, abi.Fail(codeAgain, "nothing to read yet")
			}
			return nil, err
		},
	}, {
		Name: "stdio_write", Args: []string{"stream"}, MinTrust: capability.Limited, World: true, Fold: true,
		Doc:     fmt.Sprintf("Write the payload, at most %d bytes, to `stdout` or `stderr`.", MaxStdio),
		Resolve: oneOf("stdio", "stdout", "stderr"),
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			if err := tooLarge("payload", len(sc.Payload), MaxStdio); err != nil {
				return nil, err
			}
			out(sc.Plugin, sc.Args[0], sc.Payload)
			return nil, nil
		},
	}}
}

// noStdin has nothing to read.
func noStdin(context.Context, string, []byte) (int, error) { return 0, io.EOF }

// Stdin lets a reader that cannot be interrupted, such as a terminal, be read
// under a context: what a read that was given up yields is there for the next.
// One read of it may be left under way when it is read no more; it ends with the
// reader.
type Stdin struct {
	r    io.Reader
	turn chan struct{} // taken by who reads, and put back
	come chan chunk    // what the read under way yields

	reading bool
	rest    chunk
}

// chunk is what a read yielded.
type chunk struct {
	data []byte
	err  error
}

// stdinChunk is how much is read at once, in bytes.
const stdinChunk = 64 << 10

// NewStdin makes a Stdin of a reader that is read by nobody else.
func NewStdin(r io.Reader) *Stdin {
	s := &Stdin{r: r, turn: make(chan struct{}, 1), come: make(chan chunk, 1)}
	s.turn <- struct{}{}
	return s
}

// receive waits for what is sent, under ctx. What is there is taken even if ctx
// is done.
func receive[T any](ctx context.Context, from <-chan T) (v T, err error) {
	select {
	case v = <-from:
		return v, nil
	default:
	}
	select {
	case v = <-from:
		return v, nil
	case <-ctx.Done():
		return v, context.Cause(ctx)
	}
}

// Read is an [Options].Stdin. Errors: those of the reader, and of ctx, whose
// Read has read nothing.
func (s *Stdin) Read(ctx context.Context, _ string, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if _, err := receive(ctx, s.turn); err != nil {
		return 0, err
	}
	defer func() { s.turn <- struct{}{} }()
	if len(s.rest.data) == 0 && s.rest.err == nil {
		if !s.reading {
			s.reading = true
			go func() {
				buf := make([]byte, stdinChunk)
				n, err := s.r.Read(buf)
				s.come <- chunk{buf[:n], err}
			}()
		}
		var err error
		if s.rest, err = receive(ctx, s.come); err != nil {
			return 0, err
		}
		s.reading = false
	}
	n := copy(p, s.rest.data)
	s.rest.data = s.rest.data[n:]
	if n > 0 || s.rest.err == nil {
		return n, nil
	}
	err := s.rest.err
	s.rest.err = nil // a terminal goes on after its end
	return 0, err
}

// logStdio logs what plugins print, a line a record, at the level info: what a
// plugin prints is no warning of the kernel's. Lines over the rate are dropped.
func logStdio(l hclog.Logger, rate *lineRate) func(plugin, stream string, p []byte) {
	return func(plugin, stream string, p []byte) {
		if !l.IsInfo() {
			return
		}
		for line := range bytes.SplitSeq(bytes.TrimSuffix(p, []byte("\n")), []byte("\n")) {
			dropped, ok := rate.take(plugin, time.Now())
			if !ok {
				continue
			}
			fields := []any{"plugin", printable(plugin, MaxFieldValue), "stream", stream}
			if dropped > 0 {
				fields = append(fields, "dropped", dropped)
			}
			l.Info(printable(string(line), MaxMessage), fields...)
		}
	}
}
