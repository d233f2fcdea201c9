package bench_test

import (
	"context"
	"fmt"
	"time"

	"forgeone.dev/forgeone/engines/bench"
	"forgeone.dev/forgeone/engines/wazero"
)

func Example() {
	suite := bench.Suite{
		Targets:  []bench.Target{{Engine: "wazero", Where: bench.InProcess, Runner: bench.Engine{Bare: wazero.New}}},
		Programs: bench.Programs()[:2],
		Modes:    []bench.Mode{bench.Bare, bench.Own},
		Time:     time.Millisecond,
		Limit:    time.Minute,
	}
	report := suite.Run(context.Background(), func(bench.Progress) {})
	for _, c := range report.Cells {
		fmt.Println(c.Program, c.Column, c.Answer, c.Stats.Median > 0)
	}
	// Output:
	// add wazero in-process, bare (3) true
	// add wazero in-process, own (3) true
	// host wazero in-process, bare (1000) true
	// host wazero in-process, own (1000) true
}
