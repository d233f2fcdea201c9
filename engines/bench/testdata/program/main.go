//go:build wasip1

// Command program is the real Go program of the benchmark: a module that the Go
// toolchain made, with its runtime, garbage collector and standard library.
package main

import (
	"hash/fnv"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {}

var line = regexp.MustCompile(`^(\w+) user=(\w+) bytes=(\d+)$`)

// run writes a log of n lines, takes each apart by a regular expression, sums
// the bytes by user, and gives the 64-bit FNV-1a hash of the sums, in the order
// of the users.
//
//go:wasmexport run
func run(n int32) uint64 {
	levels := []string{"info", "warn", "error"}
	var log strings.Builder
	for i := range int(n) {
		log.WriteString(levels[i%3] + " user=u" + strconv.Itoa(i*i%17) + " bytes=" + strconv.Itoa(i*7919%4096) + "\n")
	}
	sums := map[string]int{}
	for text := range strings.Lines(log.String()) {
		m := line.FindStringSubmatch(strings.TrimSpace(text))
		bytes, err := strconv.Atoi(m[3])
		if err != nil {
			panic(err)
		}
		sums[m[2]] += bytes
	}
	var report []string
	for user, sum := range sums {
		report = append(report, user+"="+strconv.Itoa(sum))
	}
	slices.Sort(report)
	h := fnv.New64a()
	if _, err := io.WriteString(h, strings.Join(report, "\n")); err != nil {
		panic(err)
	}
	return h.Sum64()
}
