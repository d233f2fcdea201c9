// Package capability says what a plugin may ever do: the set of syscalls,
// resources and APIs it was granted, and the trust levels that put a ceiling
// on such a set.
//
// A [Set] is a value compiled once from a textual [Grant]. The zero Set grants
// nothing. Nothing here depends on the rest of ForgeOne.
package capability

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Grant is a capability set as a person writes it.
type Grant struct {
	// Syscalls are names, aliases ("read_file") or globs ("kv_*", "*").
	Syscalls []string `json:"syscalls,omitempty"`
	// Resources are patterns such as "file:///data/**", "net://tcp/db.internal:5432"
	// and "env://LANG"; see [Pattern].
	Resources []string `json:"resources,omitempty"`
	// APIs are functions of other plugins, "plugin/function", or globs.
	APIs []string `json:"apis,omitempty"`
	// Custom are free attributes that policy conditions may read.
	Custom map[string]string `json:"custom,omitempty"`
}

// Set is a compiled capability set. It is immutable, safe for concurrent use
// and cheap to copy. The zero Set grants nothing.
type Set struct {
	// A name or resource is granted if every layer grants it; intersecting is
	// appending layers.
	layers []*layer
}

type layer struct {
	grant    Grant
	names    map[string]struct{}
	globs    []string
	patterns []Pattern
	all      bool // grants everything, whatever the fields above say
}

// New compiles a grant. The error lists every entry that is wrong.
func New(g Grant) (Set, error) {
	l := &layer{grant: g.clone(), names: map[string]struct{}{}}
	var errs []error
	for _, entry := range g.Syscalls {
		if entry == "" || strings.ContainsAny(entry, " /\x00") {
			errs = append(errs, fmt.Errorf("syscall %q: not a name or glob", entry))
			continue
		}
		for _, name := range Granted(entry) {
			if strings.Contains(name, "*") {
				l.globs = append(l.globs, name)
			} else {
				l.names[name] = struct{}{}
			}
		}
	}
	for _, r := range g.Resources {
		p, err := ParsePattern(r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.patterns = append(l.patterns, p)
	}
	for _, a := range g.APIs {
		if a == "" {
			errs = append(errs, errors.New("empty API name"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Set{}, err
	}
	return Set{layers: []*layer{l}}, nil
}

// All is the set that grants everything: the ceiling of a host that sets none.
func All() Set {
	return Set{layers: []*layer{{
		grant: Grant{Syscalls: []string{"*"}, Resources: []string{"*"}, APIs: []string{"*"}},
		all:   true,
	}}}
}

// Intersect is the set of what both grant.
func (s Set) Intersect(o Set) Set {
	if len(s.layers) == 0 || len(o.layers) == 0 {
		return Set{}
	}
	return Set{layers: slices.Concat(s.layers, o.layers)}
}

// Syscall reports whether the canonical name is granted.
func (s Set) Syscall(name string) bool {
	for _, l := range s.layers {
		if !l.syscall(name) {
			return false
		}
	}
	return len(s.layers) > 0
}

// Resource reports whether a canonical resource is granted. One that is the
// plugin's own (see [NeedsGrant]) is granted by any set but the zero one, and a
// function of another plugin, "api://plugin/function", as [Set.API] has it.
func (s Set) Resource(uri string) bool {
	if api, ok := strings.CutPrefix(uri, "api://"); ok {
		return s.API(api)
	}
	if !NeedsGrant(uri) {
		return len(s.layers) > 0
	}
	for _, l := range s.layers {
		if !l.resource(uri) {
			return false
		}
	}
	return len(s.layers) > 0
}

// API reports whether the function of another plugin, "plugin/function", is
// granted.
func (s Set) API(name string) bool {
	for _, l := range s.layers {
		if !l.all && !slices.ContainsFunc(l.grant.APIs, func(e string) bool { return e == "*" || MatchName(e, name) }) {
			return false
		}
	}
	return len(s.layers) > 0
}

// Custom is the attribute of that name, as the innermost grant has it.
func (s Set) Custom(key string) (string, bool) {
	if len(s.layers) == 0 {
		return "", false
	}
	v, ok := s.layers[0].grant.Custom[key]
	return v, ok
}

// Attributes are all custom attributes, as [Set.Custom] has them. The result is
// the caller's own.
func (s Set) Attributes() map[string]string {
	if len(s.layers) == 0 {
		return nil
	}
	return maps.Clone(s.layers[0].grant.Custom)
}

// Grant is the text the set was compiled from; of an intersection, that of
// the first set. The result is the caller's own.
func (s Set) Grant() Grant {
	if len(s.layers) == 0 {
		return Grant{}
	}
	return s.layers[0].grant.clone()
}

// Above lists the entries that a plugin of the given level may not hold. lowest
// says, for each syscall there is, the lowest level that may hold it. A name is
// above the level if its own lowest level is; a glob, which grants what the
// level may hold of what it matches, only if it could grant nothing at all. An
// entry that names no syscall is the concern of [Set.Unknown].
func (s Set) Above(level TrustLevel, lowest map[string]TrustLevel) []string {
	return s.entries(func(matched []string) bool {
		return len(matched) > 0 && !slices.ContainsFunc(matched, func(n string) bool { return lowest[n] <= level })
	}, lowest)
}

// Unknown lists the entries that match no syscall there is.
func (s Set) Unknown(lowest map[string]TrustLevel) []string {
	return s.entries(func(matched []string) bool { return len(matched) == 0 }, lowest)
}

// entries lists the entries of the first layer for whose matches bad holds. An
// alias is bad if any of its names is.
func (s Set) entries(bad func(matched []string) bool, lowest map[string]TrustLevel) []string {
	if len(s.layers) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(lowest))
	var out []string
	for _, entry := range s.layers[0].grant.Syscalls {
		for _, g := range Granted(entry) {
			var matched []string
			for _, n := range names {
				if MatchName(g, n) {
					matched = append(matched, n)
				}
			}
			if bad(matched) {
				out = append(out, entry)
				break
			}
		}
	}
	return out
}

func (l *layer) syscall(name string) bool {
	if _, ok := l.names[name]; ok || l.all {
		return true
	}
	for _, g := range l.globs {
		if glob(g, name, false) {
			return true
		}
	}
	return false
}

func (l *layer) resource(uri string) bool {
	if l.all {
		return true
	}
	for i := range l.patterns {
		if l.patterns[i].Match(uri) {
			return true
		}
	}
	return false
}

func (g Grant) clone() Grant {
	return Grant{
		Syscalls:  slices.Clone(g.Syscalls),
		Resources: slices.Clone(g.Resources),
		APIs:      slices.Clone(g.APIs),
		Custom:    maps.Clone(g.Custom),
	}
}
