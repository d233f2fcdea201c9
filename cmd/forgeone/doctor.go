package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/cmd/forgeone/builtins"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/engines"
)

// outcome says what a finding means.
type outcome string

const (
	good    outcome = "ok"
	warning outcome = "warn" // works, with less than it could
	bad     outcome = "fail" // ForgeOne does not work here, or not with this
)

// finding is one thing that the doctor looked at.
type finding struct {
	Area    string  `json:"area"` // system, engines, audit, jail
	Check   string  `json:"check"`
	Outcome outcome `json:"outcome"`
	Found   string  `json:"found"`
	Remedy  string  `json:"remedy,omitempty"`
}

// diagnosis is all that the doctor has to say.
type diagnosis struct {
	Version    versionInfo         `json:"version"`
	Healthy    bool                `json:"healthy"` // nothing failed
	Findings   []finding           `json:"findings"`
	Advisories []builtins.Advisory `json:"advisories"` // of the engines that are here
	Reviewed   string              `json:"advisories_reviewed_on"`
}

func (c *cli) doctor() *cobra.Command {
	var l logDir
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what of the engines, the audit log and the jail this machine supports",
		Long: `Try what ForgeOne needs of a machine: run a module on each engine, write and
verify an audit log, start a process in namespaces of its own; and list what is
known against the engines' versions. Each finding says what was tried, what came
of it, and what to do.

The log is written to a temporary folder in the directory of the log that --dir
or --config names, else in the system's. The exit code is 0 if nothing fails;
warnings do not count.`,
		Example: "  forgeone doctor\n  forgeone doctor --config forgeone.hcl\n  forgeone doctor --format json",
		Args:    noArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			dir := os.TempDir()
			if l.dir != "" || l.config != "" {
				var err error
				if dir, err = l.find(); err != nil {
					return err
				}
			}
			d := diagnose(cmd.Context(), dir)
			if err := c.print(d, func(p *printer) { printDiagnosis(p, d) }); err != nil {
				return err
			}
			if !d.Healthy {
				return &silentError{control.Failed}
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&l.dir, "dir", "", "directory of an audit log, to try its disk")
	cmd.Flags().StringVar(&l.config, "config", "", "configuration of a kernel, to try the disk of its log")
	cmd.MarkFlagsMutuallyExclusive("dir", "config")
	return cmd
}

func diagnose(ctx context.Context, auditDir string) diagnosis {
	d := diagnosis{Version: versionOf(), Healthy: true, Reviewed: builtins.ReviewedOn}
	add := func(fs ...finding) { d.Findings = append(d.Findings, fs...) }
	add(finding{"system", "platform", good, platform(), ""})
	for _, name := range builtins.Known {
		f, info := tryEngine(ctx, name)
		add(f)
		if info.Version == "" {
			continue
		}
		known, reviewed := builtins.Advisories(name, info.Version)
		d.Advisories = append(d.Advisories, known...)
		if !reviewed {
			add(finding{"engines", name + " advisories", warning, "version " + info.Version + " was not reviewed", "look at the engine's own advisories"})
		}
	}
	add(tryAudit(ctx, auditDir))
	add(tryJail(ctx)...)
	for _, f := range d.Findings {
		d.Healthy = d.Healthy && f.Outcome != bad
	}
	return d
}

func platform() string {
	return fmt.Sprintf("%s/%s, %s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, osRelease(), runtime.NumCPU(), runtime.Version())
}

// answer is a module that exports answer() -> 42 and spin(), which never ends.
const answer = "\x00asm\x01\x00\x00\x00" +
	"\x01\x08\x02\x60\x00\x01\x7f\x60\x00\x00" + // types: () -> i32, () -> ()
	"\x03\x03\x02\x00\x01" + // functions
	"\x07\x11\x02\x06answer\x00\x00\x04spin\x00\x01" + // exports
	"\x0a\x0e\x02\x04\x00\x41\x2a\x0b\x07\x00\x03\x40\x0c\x00\x0b\x0b" // code

// tryEngine runs a module on an engine as a kernel would: it must answer, and a
// call that never ends must be ended.
func tryEngine(ctx context.Context, name string) (finding, engineInfo) {
	f := finding{Area: "engines", Check: name, Outcome: good}
	info := findEngine(name)
	if !info.Available {
		f.Outcome, f.Found, f.Remedy = warning, info.Reason, "make build, with a C compiler, makes those that are missing"
		if name == builtins.Known[0] {
			f.Outcome, f.Remedy = bad, "this binary is broken: build it again"
		}
		return f, info
	}
	began := time.Now()
	if err := runAnswer(ctx, name); err != nil {
		f.Outcome, f.Found, f.Remedy = bad, err.Error(), "do not use this engine here"
		return f, info
	}
	f.Found = fmt.Sprintf("%s, %s: compiled, called and stopped a module in %s", info.Version, info.Where, time.Since(began).Round(time.Millisecond))
	return f, info
}

func runAnswer(ctx context.Context, name string) (err error) {
	found, err := builtins.Find(name, "", nil)
	if err != nil {
		return err
	}
	e, err := found.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	m, err := e.Compile(ctx, []byte(answer), engines.CompileOptions{Interruptible: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	inst, err := m.Instantiate(ctx, engines.Imports{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, inst.Close()) }()
	call := func(ctx context.Context, name string) (uint64, error) {
		f, err := inst.Func(name)
		if err != nil {
			return 0, err
		}
		stack := make([]uint64, 1)
		err = f.Call(ctx, stack)
		return stack[0], err
	}
	if got, err := call(ctx, "answer"); err != nil || got != 42 {
		return fmt.Errorf("a function that returns 42 returned %d, %w", got, err)
	}
	brief, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = call(brief, "spin")
	if trap, ok := errors.AsType[*engines.Trap](err); !ok || trap.Class != engines.TrapInterrupted {
		return fmt.Errorf("a call that never ends was not interrupted, but: %w", err)
	}
	return ctx.Err()
}

// tryAudit writes a log and verifies it.
func tryAudit(ctx context.Context, dir string) finding {
	f := finding{Area: "audit"}
	fail := func(err error) finding {
		f.Outcome, f.Found, f.Remedy = bad, err.Error(), "give audit.dir a directory that can be written to, on a disk with room"
		return f
	}
	// The log's own directory may not be there yet.
	for parent := filepath.Dir(dir); ; dir, parent = parent, filepath.Dir(parent) {
		if _, err := os.Stat(dir); err == nil || parent == dir {
			break
		}
	}
	f.Check = dir // that was tried
	tmp, err := os.MkdirTemp(dir, ".forgeone-doctor-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(tmp)
	const records = 32
	took, err := writeLog(tmp, records)
	if err != nil {
		return fail(err)
	}
	r, err := audit.Verify(ctx, audit.VerifyOptions{Dir: tmp})
	if err == nil && (r.Records < records || r.Uncovered > 0) {
		err = fmt.Errorf("of %d records written %d verify, and %d of them are covered by a checkpoint", records, r.Records, r.Covered)
	}
	if err != nil {
		return fail(err)
	}
	f.Outcome, f.Found = good, fmt.Sprintf("wrote, synced and verified a log; a privileged record waits %s for this disk", took.Round(10*time.Microsecond))
	return f
}

// writeLog writes n records that wait for the disk, and says how long one of
// them took.
func writeLog(dir string, n int) (_ time.Duration, err error) {
	log, err := audit.Open(audit.Options{Dir: dir, Name: "forgeone/doctor", AllowGenerate: true, SegmentSize: 4 << 20, Durability: audit.Disk})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	began := time.Now()
	for range n {
		if _, err := log.Append(&audit.Record{Kind: audit.KindKernel, Details: map[string]string{"verb": "doctor"}}); err != nil {
			return 0, err
		}
	}
	return time.Since(began) / time.Duration(n), nil
}

func printDiagnosis(p *printer, d diagnosis) {
	area := ""
	for _, f := range d.Findings {
		if f.Area != area {
			area = f.Area
			p.line("%s", strings.ToUpper(area))
		}
		p.row("  "+string(f.Outcome), f.Check, f.Found)
		if f.Remedy != "" {
			p.row("", "", "→ "+f.Remedy)
		}
	}
	p.line("ADVISORIES of these versions, as of %s", d.Reviewed)
	for _, a := range d.Advisories {
		p.row("  "+string(a.Reach), a.Engine+" "+a.Version, a.ID+": "+a.Summary)
		p.row("", "", "→ "+a.Advice)
	}
}
