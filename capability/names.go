package capability

import "strings"

// aliases are the names of the user's document and what they stand for when a
// plugin calls them: one canonical name each.
var aliases = map[string]string{
	"open_file":  "file_open",
	"read_file":  "file_read",
	"write_file": "file_write",
	"close_file": "file_close",
}

// grants are the aliases that mean more than one syscall in a capability set:
// to read a file is to open it and to read from it.
var grants = map[string][]string{
	"read_file":  {"file_open", "file_read"},
	"write_file": {"file_open", "file_write"},
}

// Canonical is the one name of a syscall: aliases are resolved, every other
// name is returned as it is.
func Canonical(syscall string) string {
	if c, ok := aliases[syscall]; ok {
		return c
	}
	return syscall
}

// Granted are the canonical names or globs that an entry of
// [Grant.Syscalls] stands for.
func Granted(entry string) []string {
	if names, ok := grants[entry]; ok {
		return names
	}
	return []string{Canonical(entry)}
}

// MatchName reports whether a syscall or API name matches an entry, which is a
// name or a glob in which "*" stands for any run of characters, possibly empty,
// without "/" and ":".
func MatchName(entry, name string) bool {
	if !strings.Contains(entry, "*") || strings.IndexByte(entry, some) >= 0 {
		return entry == name
	}
	return glob(entry, name, false)
}

// Nearest is the known name that is nearest to a misspelt one, for an error
// that suggests it; "" if none is near.
func Nearest(name string, known []string) string {
	best, least := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
