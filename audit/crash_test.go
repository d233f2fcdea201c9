package audit

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const childEnv = "FORGEONE_AUDIT_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child appends until it is killed, and prints each number that Append gave it.
func child(dir string) {
	l, err := Open(Options{Dir: dir, Key: os.Getenv("KEY"), SegmentSize: 2 * MaxLine, CheckpointEvery: 500, CheckpointInterval: 5 * time.Millisecond})
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	out := make(chan uint64, 64)
	for w := range 2 {
		go func() {
			for i := 0; ; i++ {
				r := sample(i*2 + w)
				r.Phase = PhaseIntent
				seq, err := l.Append(r)
				if err != nil {
					fmt.Println("append:", err)
					return
				}
				out <- seq
				if i%7 != 0 {
					if seq, err = l.Append(&Record{Kind: KindSyscall, Phase: PhaseOutcome, Intent: Closes(seq), Outcome: OutcomeOK}); err == nil {
						out <- seq
					}
				}
			}
		}()
	}
	for seq := range out {
		os.Stdout.WriteString(strconv.FormatUint(seq, 10) + "\n")
	}
}

// TestKill kills a writer again and again: whatever it was told is written is
// there, the log verifies before and after it is opened, and every intent gets
// its answer.
func TestKill(t *testing.T) {
	dir, k := t.TempDir(), newKey(t)
	random := rand.New(rand.NewPCG(3, 4))
	var next uint64
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir, "KEY="+k.signer)
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(10+random.IntN(90))*time.Millisecond, func() { cmd.Process.Kill() })
		acknowledged := next
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			seq, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatal(lines.Text())
			}
			acknowledged = max(acknowledged, seq+1)
		}
		cmd.Wait() //nolint:errcheck // it was killed

		r, err := Verify(context.Background(), VerifyOptions{Dir: dir, Key: k.verifier})
		if err != nil && acknowledged > 0 {
			t.Fatalf("round %d: %v\n%+v", round, err, r)
		}
		if r.Records < acknowledged {
			t.Fatalf("round %d: %d records, %d were acknowledged", round, r.Records, acknowledged)
		}
		l := mustOpen(t, k.options(dir))
		next = l.Head().Records
		mustClose(t, l)
		r = mustVerify(t, dir, k)
		if r.Records < acknowledged || r.Unanswered != 0 || r.Uncovered != 0 {
			t.Fatalf("round %d, opened again: %+v", round, r)
		}
		for _, w := range r.Warnings {
			if !strings.Contains(w, "clock") {
				t.Fatalf("round %d, opened again: %s", round, w)
			}
		}
	}
	if next < 1000 {
		t.Fatalf("only %d records were written", next)
	}
	recovered := 0
	for _, r := range collect(t, dir, Filter{Kind: KindAudit}) {
		if r.Phase == PhaseEvent && r.Details["rewritten"] != "" {
			recovered++
		}
	}
	if recovered == 0 {
		t.Error("no recovery is on record")
	}
}
