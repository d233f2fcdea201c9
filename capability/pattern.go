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
// "*" stands for any run of characters that holds none of the separators "/",
// ":" and, before the first "/" after the scheme, "."; the run may be empty
// unless the "*" has a separator or an end on either side. "**" is a whole last
// segment and matches any number of segments, none included.
type Pattern struct {
	text    string
	prefix  string // "scheme://"
	rest    string // after the prefix, without the "/**" (but "/" for that alone)
	literal string // prefix and rest, if rest holds no "*"
	subtree bool
	host    bool // "." separates in the part before the first "/"
}

// ParsePattern compiles a resource pattern.
func ParsePattern(s string) (Pattern, error) {
	fail := func(why string) (Pattern, error) {
		return Pattern{}, fmt.Errorf("resource pattern %q: %s", s, why)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !validScheme(scheme) {
		return fail(`want "scheme://…" with a lower-case scheme, for instance "file:///data/**"`)
	}
	if rest == "" {
		return fail("nothing after the scheme")
	}
	if strings.ContainsRune(s, 0) {
		return fail("holds a NUL byte")
	}
	switch scheme {
	case "file":
		if rest[0] != '/' {
			return fail(`a file pattern is an absolute guest path, "file:///…"`)
		}
		for i, seg := range strings.Split(rest[1:], "/") {
			if seg == "." || seg == ".." || (seg == "" && (i > 0 || rest != "/")) {
				return fail("the path is not clean: no empty, . or .. segments")
			}
		}
	case "tcp", "udp", "http", "https":
		if host, _, _ := strings.Cut(rest, "/"); strings.ToLower(host) != host {
			return fail("the host is not in lower case, as resources are")
		}
	case "net":
		if strings.ToLower(rest) != rest {
			return fail("the host is not in lower case, as resources are")
		}
	}
	p := Pattern{
		text:   s,
		prefix: s[:len(s)-len(rest)],
		rest:   rest,
		host:   rest[0] != '/' && scheme != "env" && scheme != "secret" && scheme != "kv",
	}
	if rest == "**" || strings.HasSuffix(rest, "/**") {
		p.subtree = true
		if p.rest = strings.TrimSuffix(rest, "**"); len(p.rest) > 1 {
			p.rest = p.rest[:len(p.rest)-1]
		}
	}
	if strings.Contains(p.rest, "**") {
		return fail(`"**" can only be the last segment`)
	}
	if !strings.Contains(p.rest, "*") {
		p.literal = p.prefix + p.rest
	}
	p.rest = markWhole(p.rest, p.host)
	return p, nil
}

// validScheme is the grammar of RFC 3986, section 3.1, in lower case.
func validScheme(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return s != ""
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// Head is what every resource that the pattern matches is, or starts with,
// followed by a "/": its text up to the last "/" before the first "*". An index
// of patterns can be kept by it.
func (p Pattern) Head() string {
	head, _, globbed := strings.Cut(p.text, "*")
	if globbed {
		head = head[:strings.LastIndexByte(head, '/')]
	}
	return head
}

// Match reports whether the pattern matches a canonical resource. It does not
// allocate.
func (p Pattern) Match(resource string) bool {
	if p.literal != "" {
		tail, ok := strings.CutPrefix(resource, p.literal)
		return ok && (tail == "" || p.subtree && (tail[0] == '/' || p.literal[len(p.literal)-1] == '/'))
	}
	rest, ok := strings.CutPrefix(resource, p.prefix)
	if !ok || p.text == "" {
		return false
	}
	if p.subtree {
		// The head of rest that has as many segments as p.rest must match.
		n := strings.Count(p.rest, "/")
		for i := range len(rest) {
			if rest[i] != '/' {
				continue
			}
			if n == 0 {
				rest = rest[:i]
				break
			}
			n--
		}
	}
	return glob(p.rest, rest, p.host)
}

// some stands in a compiled pattern for a "*" that must match something. No
// pattern holds a NUL of its own.
const some = 0

// markWhole turns each "*" that has a separator or an end on either side into
// some.
func markWhole(pattern string, host bool) string {
	out, end := []byte(pattern), hostEnd(pattern, host)
	for i, c := range out {
		if c == '*' && (i == 0 || separates(pattern, i-1, end)) && (i+1 == len(out) || separates(pattern, i+1, end)) {
			out[i] = some
		}
	}
	return string(out)
}

// hostEnd is where the part of s ends in which "." separates.
func hostEnd(s string, host bool) int {
	if !host {
		return 0
	}
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return i
	}
	return len(s)
}

func separates(s string, i, hostEnd int) bool {
	return s[i] == '/' || s[i] == ':' || (s[i] == '.' && i < hostEnd)
}

// glob matches with "*" and some. It is iterative with one backtrack point, so
// its cost is bounded by len(pattern)·len(s) whatever the pattern. One point is
// enough: no "*" matches a separator, so those of s and pattern pair up.
func glob(pattern, s string, host bool) bool {
	end := hostEnd(s, host)
	px, sx, star, mark := 0, 0, -1, 0
	for sx < len(s) {
		switch {
		case px < len(pattern) && pattern[px] == '*':
			star, mark = px, sx
			px++
		case px < len(pattern) && pattern[px] == some && !separates(s, sx, end):
			sx++
			star, mark = px, sx
			px++
		case px < len(pattern) && pattern[px] == s[sx]:
			px++
			sx++
		case star >= 0 && !separates(s, mark, end):
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
