package zta

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strconv"

	"forgeone.dev/forgeone/capability"
)

// digest is the SHA-256 of a canonical encoding: netstrings, lists with their
// length before them, so that no two graphs have the same encoding. The first
// string is the version of the encoding.
func digest(policies []Policy, mode Mode) string {
	e := encoder{sha256.New()}
	e.str("forgeone policy graph v1")
	e.str(mode.String())
	e.str(strconv.Itoa(len(policies)))
	for i := range policies {
		e.policy(&policies[i])
	}
	return hex.EncodeToString(e.Sum(nil))
}

type encoder struct{ hash.Hash }

func (e encoder) str(s string) { fmt.Fprintf(e, "%d:%s,", len(s), s) }

// set encodes a list whose order means nothing.
func (e encoder) set(list []string) {
	sorted := slices.Compact(slices.Sorted(slices.Values(list)))
	e.str(strconv.Itoa(len(sorted)))
	for _, s := range sorted {
		e.str(s)
	}
}

func (e encoder) policy(p *Policy) {
	e.str(p.Name)
	syscalls := make([]string, len(p.Syscalls))
	for i, s := range p.Syscalls {
		syscalls[i] = capability.Canonical(s)
	}
	for _, list := range [][]string{syscalls, p.Plugins, p.Identities, p.Groups, p.Resources} {
		e.set(list)
	}
	e.str(p.MinTrustLevel.String())
	e.str(strconv.FormatFloat(p.MinTrustScore, 'g', -1, 64))
	e.str(strconv.FormatBool(p.AllowIdentities != nil)) // an empty list allows nobody
	e.set(p.AllowIdentities)
	e.set(p.DenyIdentities)
	e.str(strconv.Itoa(len(p.Args)))
	for _, pos := range slices.Sorted(maps.Keys(p.Args)) {
		e.str(strconv.Itoa(pos))
		e.str(p.Args[pos].Match)
		e.str(p.Args[pos].Deny)
	}
	for _, s := range []string{p.When, p.DenyWhen, p.ValidatorID, p.OnViolation.String(), p.Mode.String()} {
		e.str(s)
	}
}
