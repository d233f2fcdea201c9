package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	Program Program `json:"program"`
	Mode    Mode    `json:"mode"`
	// Limit is how long getting ready may take, and each sample.
	Limit time.Duration `json:"limit_ns"`
}

// Runner gets jobs ready.
type Runner interface {
	// Prepare compiles a job's program, and calls it once. It returns soon after
	// the context is done or the job's limit is over.
	Prepare(ctx context.Context, job Job) (Session, error)
}

// Session is a job that is ready. It is not for concurrent use.
type Session interface {
	// About says what was got ready.
	About() About
	// Time does the program's work n times, checks the last answer, and says how
	// long it took. It returns soon after the context is done or the job's limit
	// is over. After an error there is nothing to do but to close.
	Time(ctx context.Context, n int) (time.Duration, error)
	// Close frees what the session holds.
	Close() error
}

// About is what a session is of.
type About struct {
	Engine  string `json:"engine"` // what it says it is
	Version string `json:"version"`
	Answer  string `json:"answer"` // of a new instance's first call
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

func (f *Failure) Error() string { return string(f.Cause) + ": " + f.Reason }

// wrongAnswer is the error of a program whose answer is not the right one.
type wrongAnswer struct{ got, want string }

func (e *wrongAnswer) Error() string {
	return fmt.Sprintf("the answer is %s and should be %s", e.got, e.want)
}

// failure classes the error of a job, which was given a limit.
func failure(err error, limit time.Duration) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f // by who knew more
	}
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

// Engine is a [Runner] on an engine that this process calls. A guest that does
// not end can be stopped only if the engine's calls end with their context,
// which bare they need not: [Process] is the remedy.
type Engine struct {
	Bare    func() (engines.WasmEngine, error) // runs modules as they are; nil if Metered serves for that
	Metered func() (engines.WasmEngine, error) // holds every limit
}

var _ Runner = Engine{}

// Prepare implements [Runner].
func (e Engine) Prepare(ctx context.Context, job Job) (_ Session, err error) {
	create := e.Metered
	if (job.Mode == Bare || job.Mode == Own) && e.Bare != nil {
		create = e.Bare
	}
	engine, err := create()
	if err != nil {
		return nil, err
	}
	s := &subject{job: job, engine: engine, imports: Imports()}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// subject is a program on an engine.
type subject struct {
	job      Job
	engine   engines.WasmEngine
	module   engines.Module
	imports  engines.Imports
	instance engines.Instance
	fn       engines.Func
	stack    []uint64
	first    string // the first call's answer
}

// begin makes the instance that is called, and calls it for the first time.
func (s *subject) begin(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.job.Limit)
	defer cancel()
	if s.module, err = s.compile(ctx); err != nil {
		return err
	}
	if s.instance, err = s.instantiate(ctx); err != nil {
		return err
	}
	if s.fn, err = s.instance.Func(s.job.Program.Function); err != nil {
		return err
	}
	s.stack = make([]uint64, max(s.fn.Type().Slots(), len(s.job.Program.Args)))
	if err := s.call(ctx, 1); err != nil {
		return err
	}
	s.first = s.answer()
	if s.job.Program.Kind == Compile {
		// An engine that has the module may not compile it again.
		err = s.free()
	}
	runtime.GC() // what compiling left is not what is measured
	return err
}

// About implements [Session].
func (s *subject) About() About {
	info := s.engine.Info()
	return About{Engine: info.Name, Version: info.Version, Answer: s.first}
}

// Time implements [Session].
func (s *subject) Time(ctx context.Context, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, s.job.Limit)
	defer cancel()
	began := time.Now()
	err := s.work(ctx, n)
	return time.Since(began), err
}

// Close implements [Session].
func (s *subject) Close() error { return errors.Join(s.free(), s.engine.Close()) }

// free closes the instance and the module, if they are there.
func (s *subject) free() error {
	var errs []error
	if s.instance != nil {
		errs = append(errs, s.instance.Close())
	}
	if s.module != nil {
		errs = append(errs, s.module.Close())
	}
	s.instance, s.module = nil, nil
	return errors.Join(errs...)
}

func (s *subject) work(ctx context.Context, n int) error {
	switch s.job.Program.Kind {
	case Instantiate:
		return repeat(n, func() (io.Closer, error) { return s.instantiate(ctx) })
	case Compile:
		return repeat(n, func() (io.Closer, error) { return s.compile(ctx) })
	}
	return s.call(ctx, n)
}

// repeat makes and closes something n times.
func repeat(n int, create func() (io.Closer, error)) error {
	for range n {
		c, err := create()
		if err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (s *subject) compile(ctx context.Context) (engines.Module, error) {
	return s.engine.Compile(ctx, s.job.Program.Wasm, s.job.Mode.options())
}

// instantiate makes an instance and, as reactors need it, initialises it.
func (s *subject) instantiate(ctx context.Context) (engines.Instance, error) {
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
		copy(s.stack, s.job.Program.Args)
		if err := s.fn.Call(ctx, s.stack); err != nil {
			return err
		}
	}
	if want := s.job.Program.Want; want != nil && !slices.Equal(s.stack[:len(s.fn.Type().Results)], want) {
		return &wrongAnswer{s.answer(), text(s.fn.Type().Results, want)}
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
