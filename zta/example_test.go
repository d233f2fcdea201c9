package zta_test

import (
	"errors"
	"fmt"
	"os"
	"time"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// Compile policies, then decide requests by them.
func Example() {
	graph, err := zta.Compile([]zta.Policy{{
		Name:           "inbox-only",
		Syscalls:       []string{"file_*"},
		Resources:      []string{"file:///data/**"},
		MinTrustLevel:  capability.Standard,
		DenyIdentities: []string{"guest"},
		Args:           map[int]zta.ArgConstraint{0: {Match: "^/data/", Deny: `\.\.`}},
		When:           "subject.score >= 0.7 && dna.denials_1m < 5",
		OnViolation:    zta.Quarantine,
	}}, zta.CompileOptions{Syscalls: []string{"file_open", "file_read", "net_connect"}})
	if err != nil {
		fmt.Println(err)
		return
	}

	identity := zta.Identity{ID: "spiffe://acme/reporting", TrustVector: zta.Signed}
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	request := zta.Request{
		Syscall:   "file_open",
		Args:      []string{"/data/report.csv", "r"},
		Resources: []string{"file:///data/report.csv"},
		Plugin:    "summarise",
		Container: "c-1",
		Identity:  &identity,
		Ceiling:   capability.Standard,
		DNA:       zta.NewExecutionDNA("c-1", identity),
		Now:       now,
	}
	d := graph.Decide(&request)
	fmt.Println(d.Outcome, "by", d.Rule)

	request.Args[0] = "/data/../etc/passwd"
	d = graph.Decide(&request)
	fmt.Printf("%s by %s: %s\n", d.Outcome, d.Rule, d.Reason)

	request.Syscall, request.Resources = "net_connect", []string{"tcp://example.com:443"}
	d = graph.Decide(&request)
	fmt.Printf("%s by %s\n", d.Outcome, d.Rule)
	// Output:
	// allowed by inbox-only
	// quarantined by inbox-only: argument 0 matches "\\.\\."
	// blocked by default
}

// Every mistake is reported at once.
func ExampleCompile() {
	_, err := zta.Compile([]zta.Policy{{
		Name:     "inbox",
		Origin:   "forge.hcl:12",
		Syscalls: []string{"file_opne"},
		When:     "subject.scor > 0.5",
	}}, zta.CompileOptions{Syscalls: []string{"file_open", "file_read"}})
	fmt.Println(err)
	var pe *zta.PolicyError
	fmt.Println(errors.As(err, &pe), pe.Field)
	// Output:
	// forge.hcl:12: policy "inbox": syscalls: unknown syscall "file_opne": did you mean "file_open"?
	// forge.hcl:12: policy "inbox": when: <input>:1:8: undefined field 'scor'
	//  | subject.scor > 0.5
	//  | .......^
	// true syscalls
}

// Explain shows what each policy had to say.
func ExamplePolicyGraph_Explain() {
	graph, err := zta.Compile([]zta.Policy{
		{Name: "files", Syscalls: []string{"file_*"}, MinTrustLevel: capability.Standard},
		{Name: "network", Syscalls: []string{"net_*"}},
	}, zta.CompileOptions{Syscalls: []string{"file_open", "net_connect"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	e := graph.Explain(&zta.Request{
		Syscall:  "file_open",
		Plugin:   "summarise",
		Identity: &zta.Identity{ID: "anonymous", TrustVector: zta.Unverified},
		Ceiling:  capability.Limited,
	})
	fmt.Println(e.Decision.Outcome)
	for _, rule := range e.Rules {
		if !rule.InScope {
			fmt.Printf("%s: not in scope, by its %s\n", rule.Policy, rule.OutOfScope)
			continue
		}
		for _, q := range rule.Requirements {
			fmt.Printf("%s: %s holds: %v %s\n", rule.Policy, q.Field, q.Holds, q.Detail)
		}
	}
	// Output:
	// blocked
	// files: min_trust_level holds: false needs trust level standard
	// network: not in scope, by its syscalls
}

// Red flags lower integrity; what is left says what happens to the container.
func ExampleExecutionDNA() {
	identity := zta.Identity{ID: "spiffe://acme/reporting", TrustVector: zta.Signed}
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	dna := zta.NewExecutionDNA("c-1", identity)

	for range 4 {
		dna.Observe(now, "file_read", zta.Block)
		dna.Flag(now, zta.HandleAbuse)
	}
	integrity := dna.Integrity(now)
	score, level := zta.Trust(identity.TrustVector, integrity, capability.Trusted)
	fmt.Printf("integrity %v, score %.2f, level %s: %s\n", integrity, score, level, zta.Verdict(integrity))

	integrity = dna.Integrity(now.Add(20 * time.Minute)) // of good behaviour
	fmt.Printf("integrity %v: %s\n", integrity, zta.Verdict(integrity))
	// Output:
	// integrity 60, score 0.48, level standard: frozen
	// integrity 80: allowed
}

// A signed identity is one whose key signed the artifact: the files are what
// minisign -Sm wrote.
func ExampleVerify() {
	var files [3][]byte
	for i, name := range []string{"artifact.bin", "prehashed.minisig", "release.pub"} {
		var err error
		if files[i], err = os.ReadFile("testdata/" + name); err != nil {
			fmt.Println(err)
			return
		}
	}
	artifact, signature, key := files[0], files[1], string(files[2])

	spec := zta.IdentitySpec{ID: "spiffe://acme/reporting", Vector: zta.Signed, PublicKey: key}
	identity, err := zta.Verify(spec, artifact, signature, "")
	fmt.Println(identity.TrustVector, identity.Publisher, err)

	_, err = zta.Verify(spec, append(artifact, '!'), signature, "")
	fmt.Println(err)
	// Output:
	// signed 27B81DCD11D4B5E0 <nil>
	// identity "spiffe://acme/reporting": trust vector signed: public_key of the identity: the signature does not match: the artifact, the signature or its trusted comment was changed
}
