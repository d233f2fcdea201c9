// Command markdown makes tables of what package versus reports. It reads the
// output of go test -bench, and writes one table for each benchmark: a row for
// each of its parts, a column for each rival, with the geometric means of the
// ratios to the first below. Of several runs it takes the medians.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	tables, err := read(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range tables {
		fmt.Println(t)
	}
}

// table is a benchmark: values by row and column.
type table struct {
	name          string
	rows, columns []string
	values        map[[2]string][]float64 // by row, and column with its unit
}

func read(r io.Reader) (tables []*table, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name, row, _ := strings.Cut(strings.TrimPrefix(fields[0], "Benchmark"), "/")
		if i := strings.LastIndexByte(row, '-'); i >= 0 {
			row = row[:i] // the number of processors
		}
		i := slices.IndexFunc(tables, func(t *table) bool { return t.name == name })
		if i < 0 {
			i = len(tables)
			tables = append(tables, &table{name: name, values: make(map[[2]string][]float64)})
		}
		if err := tables[i].add(row, fields[2:]); err != nil {
			return nil, fmt.Errorf("%s: %w", lines.Text(), err)
		}
	}
	return tables, lines.Err()
}

// add takes the metrics of a line: a number and its unit, and so on.
func (t *table) add(row string, metrics []string) error {
	for i := 0; i+1 < len(metrics); i += 2 {
		v, err := strconv.ParseFloat(metrics[i], 64)
		if err != nil {
			return err
		}
		column, ok := strings.CutSuffix(metrics[i+1], "-ns")
		if ok && !slices.Contains(t.columns, column) {
			t.columns = append(t.columns, column)
		}
		if !slices.Contains(t.rows, row) {
			t.rows = append(t.rows, row)
		}
		key := [2]string{row, metrics[i+1]}
		t.values[key] = append(t.values[key], v)
	}
	return nil
}

func (t *table) median(row, unit string) (float64, bool) {
	values := slices.Sorted(slices.Values(t.values[[2]string{row, unit}]))
	if len(values) == 0 {
		return 0, false
	}
	return values[len(values)/2], true
}

// ratios is how many rows have one of that column to the first.
func (t *table) ratios(column string) (n int) {
	for _, row := range t.rows {
		n += len(t.values[[2]string{row, column + "-x"}])
	}
	return n
}

func (t *table) String() string {
	var b strings.Builder
	slices.SortStableFunc(t.columns, func(a, b string) int { return min(1, t.ratios(a)) - min(1, t.ratios(b)) }) // the first has none
	fmt.Fprintf(&b, "| %s | %s |\n|---|%s\n", t.name, strings.Join(t.columns, " | "), strings.Repeat("---:|", len(t.columns)))
	logs, n := make([]float64, len(t.columns)), make([]int, len(t.columns))
	for _, row := range t.rows {
		fmt.Fprintf(&b, "| %s |", row)
		for i, column := range t.columns {
			if ns, ok := t.median(row, column+"-ns"); ok {
				fmt.Fprintf(&b, " %s", duration(ns))
			}
			if x, ok := t.median(row, column+"-x"); ok {
				fmt.Fprintf(&b, ", %.2f×", x)
				logs[i] += math.Log(x)
				n[i]++
			}
			b.WriteString(" |")
		}
		b.WriteByte('\n')
	}
	if len(t.rows) > 1 {
		b.WriteString("| *geometric mean* |")
		for i := range t.columns {
			if n[i] > 0 {
				fmt.Fprintf(&b, " *%.2f×*", math.Exp(logs[i]/float64(n[i])))
			}
			b.WriteString(" |")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// duration has three digits.
func duration(ns float64) string {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond, time.Nanosecond} {
		if v := ns / float64(unit); v >= 1 || unit == time.Nanosecond {
			digits := max(0, 2-int(math.Floor(math.Log10(max(1, v)))))
			return strconv.FormatFloat(v, 'f', digits, 64) + " " + unit.String()[1:]
		}
	}
	return ""
}
