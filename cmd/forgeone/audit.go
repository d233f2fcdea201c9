package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/zta"
)

func (c *cli) audit() *cobra.Command {
	return group(&cobra.Command{
		Use:     "audit",
		Short:   "Verify and export the audit log",
		Example: "  forgeone audit verify --config forgeone.hcl",
	}, c.auditVerify(), c.auditExport(), c.auditKeygen())
}

// logDir says which audit log a command is for.
type logDir struct{ dir, config string }

func (l *logDir) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.dir, "dir", "", "directory of the log")
	cmd.Flags().StringVar(&l.config, "config", "", "configuration of the kernel that writes the log")
	cmd.MarkFlagsOneRequired("dir", "config")
	cmd.MarkFlagsMutuallyExclusive("dir", "config")
}

func (l *logDir) find() (string, error) {
	if l.dir != "" {
		return l.dir, nil
	}
	places, err := locate(l.config)
	if err != nil {
		return "", fmt.Errorf("%w\n--dir reaches a log all the same", err)
	}
	return places.AuditDir, nil
}

// verification is what audit verify has found.
type verification struct {
	Dir         string     `json:"dir"`
	Intact      bool       `json:"intact"` // and there is a checkpoint that says so
	Records     uint64     `json:"records"`
	Root        string     `json:"root"`
	Checkpoints uint64     `json:"checkpoints"`
	Covered     uint64     `json:"covered"`
	Uncovered   uint64     `json:"uncovered"`  // after the last checkpoint: nothing proves them
	Unanswered  uint64     `json:"unanswered"` // intents without an outcome
	Warnings    []string   `json:"warnings"`
	FirstBad    *badRecord `json:"first_bad,omitempty"`
}

type badRecord struct {
	Seq     uint64 `json:"seq"`
	Segment string `json:"segment"`
	Offset  int64  `json:"offset"`
	Reason  string `json:"reason"`
}

func (c *cli) auditVerify() *cobra.Command {
	var l logDir
	var key string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that an audit log is what its writer made",
		Long: `Check every line of an audit log, the Merkle tree over them and the signed
checkpoints. The exit code is 0 only if all is intact; otherwise the first bad
record is named. A log without any checkpoint is not proved to be anything, and
does not pass. The log may be being written.

Without --key the key beside the log is used, which shows damage but not a
forger who has replaced both.`,
		Example: "  forgeone audit verify --config forgeone.hcl\n  forgeone audit verify --dir var/edge-1/audit --key @edge-1.pub",
		Args:    noArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			dir, err := l.find()
			if err != nil {
				return err
			}
			if name, ok := strings.CutPrefix(key, "@"); ok {
				b, err := os.ReadFile(name) //nolint:gosec // the user names the file
				if err != nil {
					return &usageError{fmt.Errorf("--key: %w", err)}
				}
				key = string(b)
			}
			return c.verify(cmd.Context(), audit.VerifyOptions{Dir: dir, Key: key, Progress: c.progress("verifying " + dir)})
		}),
	}
	l.flags(cmd)
	cmd.Flags().StringVar(&key, "key", "", "verifier key of the log, or @FILE; best from elsewhere than the log's own machine")
	return cmd
}

func (c *cli) verify(ctx context.Context, o audit.VerifyOptions) error {
	r, err := audit.Verify(ctx, o)
	if err != nil && r.FirstBad == nil {
		return err
	}
	v := verification{
		Dir: o.Dir, Intact: err == nil && r.Checkpoints > 0, Records: r.Records, Root: r.Root, Checkpoints: r.Checkpoints,
		Covered: r.Covered, Uncovered: r.Uncovered, Unanswered: r.Unanswered, Warnings: append([]string{}, r.Warnings...),
	}
	if r.FirstBad != nil {
		v.FirstBad = (*badRecord)(r.FirstBad)
	}
	if err := c.print(v, func(p *printer) { printVerification(p, v) }); err != nil {
		return err
	}
	if !v.Intact {
		return &silentError{control.Failed} // the output says which record
	}
	return nil
}

func printVerification(p *printer, v verification) {
	verdict := "intact"
	switch {
	case v.FirstBad != nil:
		verdict = "NOT INTACT"
	case !v.Intact:
		verdict = "NOT PROVED: it has no checkpoint"
	}
	p.row("log", v.Dir)
	p.row("verdict", verdict)
	if v.FirstBad != nil {
		p.row("first bad record", fmt.Sprintf("%d (%s, byte %d): %s", v.FirstBad.Seq, v.FirstBad.Segment, v.FirstBad.Offset, v.FirstBad.Reason))
	}
	p.row("records", v.Records)
	p.row("root", v.Root)
	p.row("checkpoints", fmt.Sprintf("%d, covering %d records", v.Checkpoints, v.Covered))
	p.row("after the last", fmt.Sprintf("%d records, which nothing proves yet", v.Uncovered))
	p.row("unanswered", v.Unanswered)
	for _, w := range v.Warnings {
		p.row("warning", w)
	}
}

// progress shows how far something is, if standard error is a terminal.
func (c *cli) progress(what string) func(done, total int64) {
	if !isTerminal(c.err) {
		return nil
	}
	return func(done, total int64) {
		fmt.Fprintf(c.err, "\r%s: %3d %%", printable(what), 100*done/max(total, 1))
		if done == total {
			fmt.Fprint(c.err, "\r\x1b[K")
		}
	}
}

func (c *cli) auditExport() *cobra.Command {
	var (
		l                              logDir
		format, from, to, plugin, file string
		subject, kind, decision        string
	)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the records of an audit log, or some of them, for other programs",
		Long: `Write the records of an audit log to standard output, or to a file: as they
stand in the log (jsonl), or as a table that is safe to open in a spreadsheet
(csv). Exporting proves nothing: verify the log besides.`,
		Example: `  forgeone audit export --config forgeone.hcl --format csv --plugin summarise
  forgeone audit export --dir var/edge-1/audit --decision blocked --from 2026-01-01T00:00:00Z
  forgeone audit export --dir var/edge-1/audit --from 24h`,
		Args: noArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) (err error) {
			dir, err := l.find()
			if err != nil {
				return err
			}
			f := audit.Filter{Plugin: plugin, Subject: subject, Kind: audit.Kind(kind), Decision: decision}
			if f.From, err = moment("from", from); err != nil {
				return err
			}
			if f.To, err = moment("to", to); err != nil {
				return err
			}
			switch audit.Format(format) {
			case audit.JSONL, audit.CSV:
			default:
				return &usageError{fmt.Errorf("--format %q: want jsonl or csv", format)}
			}
			if err := checkFilter(f); err != nil {
				return err
			}
			if logs, err := fs.Glob(os.DirFS(dir), "*.log"); err != nil || len(logs) == 0 {
				return fmt.Errorf("export: there is no audit log in %s", dir)
			}
			w := io.Writer(c.out)
			if file != "" {
				out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // the user names the file
				if err != nil {
					return fmt.Errorf("export: %w", err)
				}
				defer func() { err = cmp.Or(err, out.Close()) }()
				w = out
			}
			return audit.Export(cmd.Context(), w, dir, audit.Format(format), f)
		}),
	}
	l.flags(cmd)
	cmd.Flags().StringVar(&format, "format", "jsonl", "jsonl or csv")
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write, with mode 0600, instead of standard output")
	cmd.Flags().StringVar(&from, "from", "", "first time: RFC 3339, or a duration before now such as 24h")
	cmd.Flags().StringVar(&to, "to", "", "time to end before: RFC 3339, or a duration before now")
	cmd.Flags().StringVar(&plugin, "plugin", "", "only of this plugin")
	cmd.Flags().StringVar(&subject, "subject", "", "only of this identity")
	cmd.Flags().StringVar(&kind, "kind", "", "only of this kind: kernel, module, plugin, capability, call, syscall, policy, quarantine or audit")
	cmd.Flags().StringVar(&decision, "decision", "", "only with this decision: allowed, blocked, frozen or quarantined")
	return cmd
}

// checkFilter refuses what no record has: an export without records must mean
// that there are none.
func checkFilter(f audit.Filter) error {
	kinds := []audit.Kind{
		"", audit.KindKernel, audit.KindModule, audit.KindPlugin, audit.KindCapability, audit.KindCall,
		audit.KindSyscall, audit.KindPolicy, audit.KindQuarantine, audit.KindAudit,
	}
	if !slices.Contains(kinds, f.Kind) {
		return &usageError{fmt.Errorf("--kind %q: want one of %q", f.Kind, kinds[1:])}
	}
	decisions := []string{"", zta.Allow.String(), zta.Block.String(), zta.Freeze.String(), zta.Quarantine.String()}
	if !slices.Contains(decisions, f.Decision) {
		return &usageError{fmt.Errorf("--decision %q: want one of %q", f.Decision, decisions[1:])}
	}
	return nil
}

func (c *cli) auditKeygen() *cobra.Command {
	var name, file string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key for an audit log",
		Long: `Make an Ed25519 key for the checkpoints of an audit log. The signer key, which
is secret, goes into a new file; the verifier key, which is for whoever checks
the log, goes to standard output.`,
		Example: "  forgeone audit keygen --name forgeone/edge-1 --output edge-1.key",
		Args:    noArgs,
		RunE: c.do(func(*cobra.Command, []string) error {
			signer, verifier, err := audit.GenerateKey(name)
			if err != nil {
				return &usageError{err}
			}
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the user names the file
			if err != nil {
				return fmt.Errorf("key: %w", err)
			}
			_, err = f.WriteString(signer + "\n")
			if err := errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("key: %w", err)
			}
			return c.print(map[string]string{"verifier": verifier}, func(p *printer) { p.line("%s", verifier) })
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the log, without spaces and plus signs")
	cmd.Flags().StringVarP(&file, "output", "o", "", "file for the signer key; it must not exist")
	for _, f := range []string{"name", "output"} {
		_ = cmd.MarkFlagRequired(f) // fails only for a flag that does not exist
	}
	return cmd
}

// moment reads a time, or a duration before now; "" is no time.
func moment(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, &usageError{errors.New("--" + flag + ": want RFC 3339, such as 2026-01-31T08:00:00Z, or a duration before now, such as 24h")}
	}
	return t, nil
}
