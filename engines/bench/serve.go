package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// Serve does the jobs that it reads from r, one JSON value each, and writes
// their results to w, one line each, until r ends.
func Serve(ctx context.Context, runner Runner, r io.Reader, w io.Writer) error {
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	for {
		var job Job
		err := in.Decode(&job)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("bench: read a job: %w", err)
		}
		if err := out.Encode(runner.Run(ctx, job)); err != nil {
			return fmt.Errorf("bench: write a result: %w", err)
		}
	}
}

// grace is how long a process has to give up a job by itself.
const grace = time.Second

// Process is a [Runner] whose jobs a process does that calls [Serve]. The
// process is started for the first job, and anew for one after its end; it is
// killed if it does not give up a job in time.
type Process struct {
	// Command makes what is run, with nothing set of its input and output.
	Command func() *exec.Cmd

	cmd    *exec.Cmd // nil while none runs
	stdin  io.WriteCloser
	stderr tail
	out    *json.Decoder
}

var _ Runner = (*Process)(nil)

// Run implements [Runner].
func (p *Process) Run(ctx context.Context, job Job) Result {
	if p.cmd == nil {
		if err := p.start(); err != nil {
			return Result{Failure: failure(err, job.Limit)}
		}
	}
	limited, cancel := context.WithTimeout(ctx, job.Limit+grace)
	defer cancel()
	process := p.cmd.Process
	stop := context.AfterFunc(limited, func() { _ = process.Kill() }) // it may have ended

	var r Result
	err := json.NewEncoder(p.stdin).Encode(job)
	if err == nil {
		err = p.out.Decode(&r)
	}
	if stop() && err == nil {
		return r
	}
	_ = process.Kill() // it may have ended
	end := p.end()
	if limited.Err() != nil {
		return Result{Failure: failure(limited.Err(), job.Limit)}
	}
	return Result{Failure: &Failure{Failed, fmt.Sprintf("the process of the engine ended: %v%s", errors.Join(end, err), p.stderr.wrote())}}
}

func (p *Process) start() error {
	cmd := p.Command()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	p.stderr = tail{}
	cmd.Stderr = &p.stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the engine: %w", err)
	}
	p.cmd, p.stdin, p.out = cmd, stdin, json.NewDecoder(stdout)
	return nil
}

// end waits for the process, whose input it closes.
func (p *Process) end() error {
	cmd := p.cmd
	p.cmd = nil
	_ = p.stdin.Close() // the process may have closed it, by its end
	return cmd.Wait()
}

// Close implements [Runner]. It waits for the end of the process.
func (p *Process) Close() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.end(); err != nil {
		return fmt.Errorf("bench: the process of an engine: %w%s", err, p.stderr.wrote())
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
	return "; it wrote: " + string(t.text)
}
