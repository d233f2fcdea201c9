//go:build !race

package zta_test

import (
	"testing"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// TestDecideDoesNotAllocate where no condition is asked. (Under the race
// detector the pools of package regexp lose entries on purpose.)
func TestDecideDoesNotAllocate(t *testing.T) {
	g := mustCompile(t, []zta.Policy{{
		Name: "inbox", Syscalls: []string{"file_*"}, Resources: []string{"file:///data/**"}, MinTrustLevel: capability.Standard,
		AllowIdentities: []string{"spiffe://acme/**"}, Groups: []string{"batch"},
		Args:      map[int]zta.ArgConstraint{0: {Match: "^/data/", Deny: `\.\.`}},
		Validator: func(*zta.Request) bool { return true }, ValidatorID: "yes",
	}}, zta.Enforce)
	r := request()
	r.DNA = zta.NewExecutionDNA("c-1", *r.Identity)
	if n := testing.AllocsPerRun(100, func() { g.Decide(r) }); n != 0 {
		t.Errorf("allowed: %v allocations", n)
	}
	r.Args = []string{"/data/../x"}
	if n := testing.AllocsPerRun(100, func() { g.Decide(r) }); n != 0 {
		t.Errorf("denied: %v allocations", n)
	}
}
