package zta_test

import (
	"fmt"
	"testing"
	"time"

	"cel.dev/cel-go/cel"

	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

const benchCondition = `subject.score >= 0.7 && dna.denials_1m < 5`

// benchGraph has n policies, eight of which are in scope of benchRequest: four
// for everybody, four for its plugin or its directory alone.
func benchGraph(b *testing.B, n int, scope, when string) *zta.PolicyGraph {
	b.Helper()
	policies := make([]zta.Policy, 0, n)
	for i := range n {
		p := zta.Policy{
			Name:          fmt.Sprintf("policy-%05d", i),
			Syscalls:      []string{"file_*"},
			Resources:     []string{"file:///data/**"},
			MinTrustLevel: capability.Standard,
		}
		switch own := max(0, i-7); {
		case i < 4:
		case scope == "plugin":
			p.Plugins = []string{fmt.Sprintf("p%d", own)}
		case scope == "resource":
			p.Resources = []string{fmt.Sprintf("file:///data/d%d/**", own)}
		}
		if i == 0 {
			p.Args = map[int]zta.ArgConstraint{0: {Match: "^/data/", Deny: `\.\.`}}
			p.When = when
		}
		policies = append(policies, p)
	}
	g, err := zta.Compile(policies, zta.CompileOptions{Syscalls: syscallNames})
	if err != nil {
		b.Fatal(err)
	}
	return g
}

func benchRequest() *zta.Request {
	id := zta.Identity{ID: "spiffe://acme/reporting", TrustVector: zta.Signed, Groups: []string{"batch"}}
	return &zta.Request{
		Syscall:   "file_open",
		Args:      []string{"/data/d0/report.csv", "r"},
		Resources: []string{"file:///data/d0/report.csv"},
		Plugin:    "p0",
		Container: "c-1",
		Identity:  &id,
		Ceiling:   capability.Standard,
		DNA:       zta.NewExecutionDNA("c-1", id),
		Now:       time.Unix(1_700_000_000, 0),
	}
}

// BenchmarkDecide compares decisions without and with a condition at several
// sizes of the graph, of which eight policies are in scope, with CEL alone
// evaluating the same condition over a map.
func BenchmarkDecide(b *testing.B) {
	for _, scope := range []string{"plugin", "resource"} {
		for _, c := range []struct{ name, when string }{{"none", ""}, {"cel", benchCondition}} {
			for _, n := range []int{10, 1_000, 10_000} {
				b.Run(fmt.Sprintf("scope=%s/condition=%s/policies=%d", scope, c.name, n), func(b *testing.B) {
					g, r := benchGraph(b, n, scope, c.when), benchRequest()
					if d := g.Decide(r); d.Outcome != zta.Allow {
						b.Fatal(d)
					}
					b.ReportAllocs()
					for b.Loop() {
						g.Decide(r)
					}
				})
			}
		}
	}
	// The rival: a program for each policy, as CEL is commonly used.
	for _, n := range []int{1, 10, 1_000} {
		b.Run(fmt.Sprintf("plain-cel/policies=%d", n), func(b *testing.B) {
			program := plainCEL(b)
			vars := map[string]any{
				"subject": map[string]any{"score": 0.8, "plugin": "p0", "level": "standard"},
				"dna":     map[string]any{"denials_1m": 0, "calls": 17},
			}
			b.ReportAllocs()
			for b.Loop() {
				for range n {
					if _, _, err := program.Eval(vars); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func plainCEL(b *testing.B) cel.Program {
	b.Helper()
	env, err := cel.NewEnv(
		cel.Variable("subject", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("dna", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		b.Fatal(err)
	}
	ast, issues := env.Compile(benchCondition)
	if issues.Err() != nil {
		b.Fatal(issues.Err())
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		b.Fatal(err)
	}
	return program
}

func BenchmarkObserve(b *testing.B) {
	dna, now := zta.NewExecutionDNA("c-1", zta.Identity{ID: "a"}), time.Unix(1_700_000_000, 0)
	b.ReportAllocs()
	for b.Loop() {
		dna.Observe(now, "file_open", zta.Allow)
	}
}
