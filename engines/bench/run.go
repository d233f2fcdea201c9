package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"forgeone.dev/forgeone/engines"
)

// Mode is which limits a program runs under.
type Mode string

// The modes.
const (
	Bare     Mode = "bare"     // none
	Deadline Mode = "deadline" // metered: calls end when their context is done
	Fuel     Mode = "fuel"     // metered: and what they spend is counted
	Own      Mode = "own"      // calls end when their context is done, by the engine's own means
)

// Modes are all modes, those that are the same on every engine first.
var Modes = []Mode{Bare, Deadline, Fuel, Own}

func (m Mode) options() engines.CompileOptions {
	switch m {
	case Deadline, Own:
		return engines.CompileOptions{Interruptible: true}
	case Fuel:
		return engines.CompileOptions{Fuel: math.MaxInt64}
	}
	return engines.CompileOptions{}
}

// Job is a program to measure.
type Job struct {
	Program Program       `json:"program"`
	Mode    Mode          `json:"mode"`
	Time    time.Duration `json:"time_ns"`  // to spend on warming up and measuring
	Limit   time.Duration `json:"limit_ns"` // after which the job has failed
}

// Result is what came of a job: samples, or a failure.
type Result struct {
	Engine  string    `json:"engine"`            // what it says it is
	Version string    `json:"version"`           //
	Answer  string    `json:"answer,omitempty"`  // of a new instance's first call
	Calls   int       `json:"calls,omitempty"`   // or instances made, or modules compiled, in each sample
	Samples []float64 `json:"samples,omitempty"` // nanoseconds for one operation
	Failure *Failure  `json:"failure,omitempty"`
}

// Cause is why there is no figure.
type Cause string

// The causes of failures.
const (
	Missing     Cause = "missing"     // the engine or program is not there
	Unsupported Cause = "unsupported" // the engine lacks what the job needs
	Failed      Cause = "failed"      // the program or the engine failed
	Wrong       Cause = "wrong"       // the answer was
	Limit       Cause = "limit"       // it did not end in time
	Interrupted Cause = "interrupted" // somebody ended the run
)

// Failure says why there is no figure.
type Failure struct {
	Cause  Cause  `json:"cause"`
	Reason string `json:"reason"`
}

// wrongAnswer is the error of a program whose answer is not the right one.
type wrongAnswer struct{ got, want string }

func (e *wrongAnswer) Error() string {
	return fmt.Sprintf("the answer is %s and should be %s", e.got, e.want)
}

// failure classes the error of a job, which was given a limit.
func failure(err error, limit time.Duration) *Failure {
	f := &Failure{Cause: Failed, Reason: err.Error()}
	switch {
	case errors.As(err, new(*wrongAnswer)):
		f.Cause = Wrong
	case errors.As(err, new(*engines.UnsupportedError)):
		f.Cause = Unsupported
	case errors.Is(err, context.DeadlineExceeded):
		f.Cause, f.Reason = Limit, fmt.Sprintf("it did not end within %v", limit)
	case errors.Is(err, context.Canceled):
		f.Cause, f.Reason = Interrupted, "the run was interrupted"
	}
	return f
}

// Runner does jobs, one at a time.
type Runner interface {
	// Run does a job. It returns soon after the context is done or the job's
	// limit is over.
	Run(ctx context.Context, job Job) Result
	// Close frees what the runner holds.
	Close() error
}

// Engine is an engine that runs jobs in this process. A guest that does not end
// can be stopped only in modes that have a deadline.
type Engine struct {
	Bare    func() (engines.WasmEngine, error) // runs modules as they are; nil if Metered serves for that
	Metered func() (engines.WasmEngine, error) // holds every limit
}

var _ Runner = Engine{}

// Close implements [Runner].
func (Engine) Close() error { return nil }

// Run implements [Runner].
func (e Engine) Run(ctx context.Context, job Job) Result {
	ctx, cancel := context.WithTimeout(ctx, job.Limit)
	defer cancel()
	var r Result
	if err := e.run(ctx, job, &r); err != nil {
		r.Samples, r.Calls, r.Failure = nil, 0, failure(err, job.Limit)
	}
	return r
}

func (e Engine) run(ctx context.Context, job Job, r *Result) (err error) {
	create := e.Metered
	switch {
	case (job.Mode == Bare || job.Mode == Own) && e.Bare != nil:
		create = e.Bare
	case job.Mode == Own:
		return &engines.UnsupportedError{Engine: "here", Feature: "the engine's own interruption", Reason: "it is always metered where it runs in a process of its own"}
	}
	engine, err := create()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	info := engine.Info()
	r.Engine, r.Version = info.Name, info.Version

	mod, err := engine.Compile(ctx, job.Program.Wasm, job.Mode.options())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mod.Close()) }()
	s := &subject{program: job.Program, module: mod, imports: Imports()}
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.instance.Close()) }()
	r.Answer = s.answer()

	op := s.call
	switch job.Program.Kind {
	case Instantiate:
		op = s.instantiate
	case Compile:
		op = func(ctx context.Context, n int) error {
			for range n {
				m, err := engine.Compile(ctx, job.Program.Wasm, job.Mode.options())
				if err != nil {
					return err
				}
				if err := m.Close(); err != nil {
					return err
				}
			}
			return nil
		}
	}
	runtime.GC() // what compiling left is not what is measured
	r.Samples, r.Calls, err = sample(ctx, op, job.Time, job.Limit)
	for i := range r.Samples {
		r.Samples[i] /= float64(max(job.Program.Ops, 1))
	}
	return err
}

// subject is a program on an engine.
type subject struct {
	program  Program
	module   engines.Module
	imports  engines.Imports
	instance engines.Instance
	fn       engines.Func
	stack    []uint64
}

// begin makes the instance that is called, and calls it for the first time.
func (s *subject) begin(ctx context.Context) error {
	inst, err := s.start(ctx)
	if err != nil {
		return err
	}
	s.instance = inst
	if s.fn, err = inst.Func(s.program.Function); err == nil {
		s.stack = make([]uint64, max(s.fn.Type().Slots(), len(s.program.Args)))
		err = s.call(ctx, 1)
	}
	if err != nil {
		return errors.Join(err, inst.Close())
	}
	return nil
}

// start makes an instance and, as reactors need it, initialises it.
func (s *subject) start(ctx context.Context) (engines.Instance, error) {
	inst, err := s.module.Instantiate(ctx, s.imports)
	if err != nil {
		return nil, err
	}
	isInit := func(e engines.ExportType) bool { return e.Name == "_initialize" && e.Type.Kind == engines.KindFunc }
	if slices.ContainsFunc(s.module.Exports(), isInit) {
		init, err := inst.Func("_initialize")
		if err == nil {
			err = init.Call(ctx, nil)
		}
		if err != nil {
			return nil, errors.Join(err, inst.Close())
		}
	}
	return inst, nil
}

// call calls the function n times, and checks the last answer.
func (s *subject) call(ctx context.Context, n int) error {
	for range n {
		copy(s.stack, s.program.Args)
		if err := s.fn.Call(ctx, s.stack); err != nil {
			return err
		}
	}
	if want := s.program.Want; want != nil && !slices.Equal(s.stack[:len(s.fn.Type().Results)], want) {
		return &wrongAnswer{s.answer(), text(s.fn.Type().Results, want)}
	}
	return nil
}

// instantiate makes n instances.
func (s *subject) instantiate(ctx context.Context, n int) error {
	for range n {
		inst, err := s.start(ctx)
		if err != nil {
			return err
		}
		if err := inst.Close(); err != nil {
			return err
		}
	}
	return nil
}

// answer is the last call's.
func (s *subject) answer() string { return text(s.fn.Type().Results, s.stack) }

// text is values for people, and to compare: all NaNs are alike.
func text(types []engines.ValueType, words []uint64) string {
	values := make([]string, len(types))
	for i, t := range types {
		values[i] = "?"
		if i < len(words) {
			values[i] = engines.Value{Type: t, Bits: words[i]}.String()
		}
	}
	return "(" + strings.Join(values, ", ") + ")"
}

// maxSamples are taken in a job's time, and minSamples however long they take;
// but fewer, and at least one, when half the job's limit is over.
const (
	maxSamples = 25
	minSamples = 5
)

// sample measures op(n), which does something n times: nanoseconds for one time.
func sample(ctx context.Context, op func(ctx context.Context, n int) error, target, limit time.Duration) (samples []float64, n int, err error) {
	began := time.Now()
	measure := func() (time.Duration, error) {
		t := time.Now()
		err := op(ctx, n)
		return time.Since(t), err
	}
	// Warm up with ever more calls, until a fifth of the time is over.
	var took time.Duration
	for n = 1; ; n *= 2 {
		if took, err = measure(); err != nil {
			return nil, 0, err
		}
		if time.Since(began) >= target/5 {
			break
		}
	}
	each := max(float64(took)/float64(n), 1)
	n = max(1, int(float64(target)*4/5/maxSamples/each))
	for len(samples) < maxSamples {
		spent := time.Since(began)
		if len(samples) >= minSamples && spent >= target || len(samples) > 0 && spent >= limit/2 {
			break
		}
		if took, err = measure(); err != nil {
			return nil, 0, err
		}
		samples = append(samples, float64(took)/float64(n))
	}
	return samples, n, nil
}
