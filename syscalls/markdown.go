package syscalls

import (
	"fmt"
	"slices"
	"strings"

	"forgeone.dev/forgeone/abi"
)

// Markdown is a page about syscalls: a table in order of their names.
func Markdown(regs []abi.Registration) string {
	regs = slices.Clone(regs)
	slices.SortFunc(regs, func(a, b abi.Registration) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	b.WriteString(`# Syscalls

<!-- Made by "go generate ./syscalls" of the registrations; do not edit. -->

Everything that a plugin may ask of the kernel. An argument whose name ends in
"..." may be given any number of times. "Lowest trust" is the trust level that a
plugin needs to hold the syscall at all. "On record" says how it stands in the
audit log: *each* call by itself, repeats *folded* within a plugin call, *each,
on disk* before it is carried out. "Grant" is what has to be in the plugin's
capability set: its name, and for what is not the plugin's own a pattern that
covers the resource.

| Syscall | Arguments | Lowest trust | On record | Grant | What it does |
|---|---|---|---|---|---|
`)
	for _, r := range regs {
		args := make([]string, len(r.Args))
		for i, a := range r.Args {
			args[i] = "`" + a + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", r.Name, strings.Join(args, ", "), r.MinTrust, onRecord(r), grant(r), r.Doc)
	}
	return b.String()
}

func onRecord(r abi.Registration) string {
	switch {
	case r.Privileged:
		return "each, on disk"
	case r.World && !r.Fold:
		return "each"
	}
	return "folded"
}

func grant(r abi.Registration) string {
	switch family, _, _ := strings.Cut(r.Name, "_"); {
	case r.Release:
		return "none"
	case family == "file":
		return "name, `file://`"
	case family == "env":
		return "name, `env://`"
	}
	return "name"
}
