// Package versus measures rivals side by side.
//
// Benchmarks that run one after the other compare the machine's moods as well:
// another process begins, the clock of the processor falls. Here the rivals take
// turns, and what is reported are medians and ratios of one run; on Linux, of
// processor time.
//
// The command in the folder markdown makes tables of what is reported.
package versus

import (
	"slices"
	"testing"
	"time"
)

// Rival is one way of doing what is measured.
type Rival struct {
	Name string // without spaces
	// Do does it once.
	Do func() error
}

// A turn is as many times in a row as take turn, and at least one.
const turn = 200 * time.Microsecond

// Run lets each rival take its turn in each round of the benchmark. Of each it
// reports the median "<name>-ns" that Do takes, in nanoseconds, and from the
// second on "<name>-x": the median of the ratios to the first in the same round.
func Run(b *testing.B, rivals ...Rival) {
	b.Helper()
	once := make([][]float64, len(rivals)) // nanoseconds, by round
	times := make([]int, len(rivals))
	for i, r := range rivals {
		times[i] = 1
		for took := time.Duration(0); took < turn; {
			if took = do(b, r, times[i]); took < turn {
				times[i] *= 2
			}
		}
	}
	for b.Loop() {
		for i, r := range rivals {
			once[i] = append(once[i], float64(do(b, r, times[i]))/float64(times[i]))
		}
	}
	b.ReportMetric(0, "ns/op") // of a round says nothing
	for i, r := range rivals {
		b.ReportMetric(median(once[i]), r.Name+"-ns")
		if i == 0 {
			continue
		}
		ratios := make([]float64, len(once[i]))
		for j, t := range once[i] {
			ratios[j] = t / once[0][j]
		}
		b.ReportMetric(median(ratios), r.Name+"-x")
	}
}

// do is how long a rival takes for doing it that many times.
func do(b *testing.B, r Rival, times int) time.Duration {
	b.Helper()
	begin := now()
	for range times {
		if err := r.Do(); err != nil {
			b.Fatalf("%s: %v", r.Name, err)
		}
	}
	return now() - begin
}

// median sorts the values.
func median(values []float64) float64 {
	slices.Sort(values)
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}
