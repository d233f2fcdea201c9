package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// reply is what [Serve] answers to a job (About) and to a number (Nanoseconds),
// or, to either, why it cannot.
type reply struct {
	About       About         `json:"about,omitzero"`
	Nanoseconds time.Duration `json:"ns,omitempty"`
	Failure     *Failure      `json:"failure,omitempty"`
}

// Serve does one job for another process. It reads the job from r, as JSON, and
// then, for each sample, how often to do the work; to each it answers with a
// line of JSON on w. It returns when r ends.
func Serve(ctx context.Context, runner Runner, r io.Reader, w io.Writer) (err error) {
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	var job Job
	if err := in.Decode(&job); err != nil {
		return fmt.Errorf("bench: read a job: %w", err)
	}
	s, err := runner.Prepare(ctx, job)
	if err != nil {
		return out.Encode(reply{Failure: failure(err, job.Limit)})
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	answer := reply{About: s.About()}
	for {
		if err := out.Encode(answer); err != nil {
			return fmt.Errorf("bench: answer: %w", err)
		}
		var n int
		if err := in.Decode(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("bench: read a number: %w", err)
		}
		took, err := s.Time(ctx, n)
		if answer = (reply{Nanoseconds: took}); err != nil {
			answer = reply{Failure: failure(err, job.Limit)}
		}
	}
}

// grace is how long a process has to give up by itself.
const grace = time.Second

// Process is a [Runner] that has each job done by a process of its own, which
// calls [Serve]: it can be killed when it does not end, and nothing that one job
// leaves behind is there for the next.
type Process struct {
	// Command makes what is run, with nothing set of its input and output.
	Command func() *exec.Cmd
}

var _ Runner = Process{}

// Prepare implements [Runner].
func (p Process) Prepare(ctx context.Context, job Job) (Session, error) {
	s := &remote{cmd: p.Command(), limit: job.Limit}
	s.cmd.Stderr = &s.stderr
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	s.stdin, s.in, s.out = stdin, json.NewEncoder(stdin), json.NewDecoder(stdout)
	r, err := s.ask(ctx, job)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.about = r.About
	return s, nil
}

// remote is a job that a process does.
type remote struct {
	cmd    *exec.Cmd
	limit  time.Duration
	stdin  io.Closer
	in     *json.Encoder
	out    *json.Decoder
	stderr tail
	about  About
	ended  bool
}

// ask sends a question, and waits for the answer. A process that gives none in
// time is killed.
func (s *remote) ask(ctx context.Context, question any) (reply, error) {
	limited, cancel := context.WithTimeout(ctx, s.limit+grace)
	defer cancel()
	stop := context.AfterFunc(limited, s.kill)
	var r reply
	err := s.in.Encode(question)
	if err == nil {
		err = s.out.Decode(&r)
	}
	stop()
	switch {
	case err == nil && r.Failure != nil:
		return r, r.Failure
	case err == nil:
		return r, nil
	case limited.Err() != nil:
		err = limited.Err()
	}
	s.kill()
	if end := s.wait(); limited.Err() == nil {
		err = fmt.Errorf("the process of the engine ended: %w%s", cmp.Or(end, err), s.stderr.wrote())
	}
	return r, err
}

// kill ends the process, if it has not ended.
func (s *remote) kill() { _ = s.cmd.Process.Kill() }

func (s *remote) wait() error {
	s.ended = true
	_ = s.stdin.Close() // the process may have closed it, by its end
	return s.cmd.Wait()
}

// About implements [Session].
func (s *remote) About() About { return s.about }

// Time implements [Session].
func (s *remote) Time(ctx context.Context, n int) (time.Duration, error) {
	r, err := s.ask(ctx, n)
	return r.Nanoseconds, err
}

// Close implements [Session]. It waits for the end of the process.
func (s *remote) Close() error {
	if s.ended {
		return nil
	}
	late := time.AfterFunc(s.limit, s.kill)
	defer late.Stop()
	if err := s.wait(); err != nil {
		return fmt.Errorf("the process of the engine: %w%s", err, s.stderr.wrote())
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 2000 // bytes

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-tailSize):]
	return len(b), nil
}

// wrote is what was written, for the end of a sentence.
func (t *tail) wrote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return ""
	}
	return "; it wrote: " + strings.TrimSpace(string(t.text))
}
