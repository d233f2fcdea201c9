package meter

import "fmt"

// Limits are what a module may have. They are held before anything expensive is
// done with it. A field that is 0 stands for its default, which is above what
// the large modules in the field have (interpreters, programs of Go and C++).
type Limits struct {
	ModuleBytes   int // of the binary; 64 MiB
	OutputBytes   int // of the binary after rewriting, which adds to it; 256 MiB
	Types         int // 100,000
	Imports       int // 100,000
	Exports       int // 100,000
	Functions     int // imported and defined; 200,000
	FunctionBytes int // of one function; 8 MiB
	Locals        int // of one function, without parameters; 49,990: some are added
	Values        int // parameters of a function type, or results; 1,000
	Nesting       int // of blocks in a function; 20,000
	Globals       int // 100,000
	Tables        int // 100
	TableEntries  int // that all tables can grow to together; 1,000,000
	Segments      int // of data, and of elements; 100,000
	NameBytes     int // of the name section, dropped if it is larger; 16 MiB
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		value *int
		def   int
	}{
		{&l.ModuleBytes, 64 << 20},
		{&l.OutputBytes, 256 << 20},
		{&l.Types, 100_000},
		{&l.Imports, 100_000},
		{&l.Exports, 100_000},
		{&l.Functions, 200_000},
		{&l.FunctionBytes, 8 << 20},
		{&l.Locals, 49_990},
		{&l.Values, 1_000},
		{&l.Nesting, 20_000},
		{&l.Globals, 100_000},
		{&l.Tables, 100},
		{&l.TableEntries, 1_000_000},
		{&l.Segments, 100_000},
		{&l.NameBytes, 16 << 20},
	} {
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	return l
}

// LimitError is a module that is beyond a limit.
type LimitError struct {
	What  string // e.g. "functions"
	Got   int64
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the module has %d %s, above the limit of %d", e.Got, e.What, e.Limit)
}

// limit refuses what is above a limit.
func (r *reader) limit(what string, got, limit int64) bool {
	if got > limit && r.err == nil {
		r.err = &LimitError{What: what, Got: got, Limit: limit}
	}
	return r.err == nil
}
