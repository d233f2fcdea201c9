package capability

import (
	"fmt"
	"strings"
)

// ownSchemes are the schemes of resources that belong to the plugin itself:
// its clock readings, its random bytes, its log lines, its own key-value space.
// They carry no authority over anything outside the plugin, so the syscall's
// name is grant enough. Every other scheme, known or not, needs a pattern.
var ownSchemes = map[string]bool{
	"clock": true, "random": true, "log": true, "stdio": true, "kv": true, "sys": true, "hash": true,
}

// NeedsGrant reports whether a resource must be matched by a pattern of the
// set, or is the plugin's own and needs the syscall's name alone.
func NeedsGrant(resource string) bool {
	scheme, _, ok := strings.Cut(resource, "://")
	return !ok || !ownSchemes[scheme]
}

// Pattern is a compiled resource pattern. The zero Pattern matches nothing.
//
// A pattern is a URI, "scheme://rest", that is matched as a whole and as it
// stands (resources are canonical before they are matched: no "..", no empty
// segments, lower-case scheme and host):
//
//	file:///data/report.csv   that file
//	file:///data/*            what lies directly in /data
//	file:///data/**           /data and all that lies below it
//	tcp://db.internal:5432    that host and port
//	tcp://*.internal:*        one label below internal, any port
//	env://LANG, env://APP_*   that variable, variables of that prefix
//
// "*" stands for any run of characters, possibly empty, that holds none of
// "/", ":" and, before the first "/" after the scheme, ".". "**" is a whole
// last segment and matches any number of segments, none included.
type Pattern struct {
	text    string
	scheme  string
	rest    string // after "://", without the "/**"
	subtree bool
	host    bool // "." separates in the part before the first "/"
	literal bool // rest holds no "*"
}

// ParsePattern compiles a resource pattern.
func ParsePattern(s string) (Pattern, error) {
	fail := func(why string) (Pattern, error) {
		return Pattern{}, fmt.Errorf("resource pattern %q: %s", s, why)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme == "" || strings.ToLower(scheme) != scheme {
		return fail(`want "scheme://…", for instance "file:///data/**"`)
	}
	if rest == "" {
		return fail("nothing after the scheme")
	}
	if strings.ContainsRune(s, 0) {
		return fail("holds a NUL byte")
	}
	p := Pattern{text: s, scheme: scheme, rest: rest, host: !strings.HasPrefix(rest, "/") && scheme != "env" && scheme != "secret" && scheme != "kv"}
	if scheme == "file" {
		if rest[0] != '/' {
			return fail(`a file pattern is an absolute guest path, "file:///…"`)
		}
		for i, seg := range strings.Split(rest[1:], "/") {
			if seg == "." || seg == ".." || (seg == "" && (i > 0 || rest != "/")) {
				return fail("the path is not clean: no empty, . or .. segments")
			}
		}
	}
	if rest == "**" || strings.HasSuffix(rest, "/**") {
		p.subtree = true
		p.rest = strings.TrimSuffix(strings.TrimSuffix(rest, "**"), "/")
	}
	if strings.Contains(p.rest, "**") {
		return fail(`"**" can only be the last segment`)
	}
	p.literal = !strings.Contains(p.rest, "*")
	return p, nil
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// Match reports whether the pattern matches a canonical resource. It does not
// allocate.
func (p Pattern) Match(resource string) bool {
	if p.text == "" || len(resource) < len(p.scheme)+3 ||
		resource[:len(p.scheme)] != p.scheme || resource[len(p.scheme):len(p.scheme)+3] != "://" {
		return false
	}
	rest := resource[len(p.scheme)+3:]
	if !p.subtree {
		return p.matchExact(rest)
	}
	if p.rest == "" {
		return true
	}
	// The head of rest that has as many segments as p.rest must match.
	n := strings.Count(p.rest, "/")
	for i := 0; i <= len(rest); i++ {
		if i == len(rest) || rest[i] == '/' {
			if n == 0 {
				return p.matchExact(rest[:i])
			}
			n--
		}
	}
	return false
}

func (p Pattern) matchExact(s string) bool {
	if p.literal {
		return s == p.rest
	}
	return glob(p.rest, s, p.host)
}

// glob matches with single "*"s; it is iterative with one backtrack point, so
// its cost is bounded by len(pattern)·len(s) whatever the pattern.
func glob(pattern, s string, host bool) bool {
	px, sx, star, mark := 0, 0, -1, 0
	// "." separates only in the host, which ends at the first "/".
	stop := func(i int) bool {
		c := s[i]
		return c == '/' || c == ':' || (host && c == '.' && strings.IndexByte(s[:i], '/') < 0)
	}
	for sx < len(s) {
		switch {
		case px < len(pattern) && pattern[px] == '*':
			star, mark = px, sx
			px++
		case px < len(pattern) && pattern[px] == s[sx]:
			px++
			sx++
		case star >= 0 && !stop(mark):
			mark++
			px, sx = star+1, mark
		default:
			return false
		}
	}
	for px < len(pattern) && pattern[px] == '*' {
		px++
	}
	return px == len(pattern)
}
