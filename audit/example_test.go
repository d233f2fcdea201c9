package audit_test

import (
	"context"
	"fmt"
	"os"

	"forgeone.dev/forgeone/audit"
)

func Example() {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	signer, verifier, err := audit.GenerateKey("forgeone/edge-1")
	if err != nil {
		fmt.Println(err)
		return
	}

	log, err := audit.Open(audit.Options{Dir: dir, Key: signer})
	if err != nil {
		fmt.Println(err)
		return
	}
	intent, err := log.Append(&audit.Record{
		Kind: audit.KindSyscall, Phase: audit.PhaseIntent,
		Plugin: "summarise", Syscall: "file_read", Resources: []string{"file:///data/a.txt"}, Decision: "allowed",
	})
	if err != nil {
		fmt.Println(err) // no record, no effect
		return
	}
	if _, err := log.Append(&audit.Record{
		Kind: audit.KindSyscall, Phase: audit.PhaseOutcome, Intent: audit.Closes(intent), Plugin: "summarise", Outcome: audit.OutcomeOK,
	}); err != nil {
		fmt.Println(err)
		return
	}
	if err := log.Close(); err != nil {
		fmt.Println(err)
		return
	}

	report, err := audit.Verify(context.Background(), audit.VerifyOptions{Dir: dir, Key: verifier})
	fmt.Println(report.Records, report.Covered, report.Uncovered, err)
	// Output: 2 2 0 <nil>
}
