package bench

import (
	"math"
	"slices"
)

// Stats sums up samples, in their unit.
type Stats struct {
	Min    float64 `json:"min"`
	Q1     float64 `json:"q1"` // a quarter of the samples is not above it
	Median float64 `json:"median"`
	Q3     float64 `json:"q3"` // a quarter of the samples is not below it
	Max    float64 `json:"max"`
}

// Summarise sums up one sample or more.
func Summarise(samples []float64) Stats {
	sorted := slices.Sorted(slices.Values(samples))
	return Stats{
		Min: sorted[0], Q1: quantile(sorted, 0.25), Median: quantile(sorted, 0.5), Q3: quantile(sorted, 0.75), Max: sorted[len(sorted)-1],
	}
}

// Spread is half the distance between the quartiles, as a part of the median.
func (s Stats) Spread() float64 {
	if s.Median == 0 {
		return 0
	}
	return (s.Q3 - s.Q1) / 2 / s.Median
}

// quantile interpolates linearly between the samples around q, from 0 to 1
// (Hyndman and Fan, Sample Quantiles in Statistical Packages, definition 7).
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below == len(sorted)-1 {
		return sorted[below]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}

// Geomean is the geometric mean of positive numbers, 0 if there are none.
func Geomean(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	var sum float64
	for _, x := range xs {
		sum += math.Log(x)
	}
	return math.Exp(sum / float64(len(xs)))
}
