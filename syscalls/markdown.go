package syscalls

import (
	"fmt"
	"slices"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Markdown is a page about syscalls: a table in order of their names, and what
// holds for all that take a path.
func Markdown(regs []abi.Registration) string {
	regs = slices.Clone(regs)
	slices.SortFunc(regs, func(a, b abi.Registration) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	b.WriteString(`# Syscalls

<!-- Made by "go generate ./syscalls" of the registrations; do not edit. -->

Everything that a plugin may ask of the kernel. An argument whose name ends in
"..." may be left out; where it may be given more than once, the description
says so. Numbers are decimal. "Lowest trust" is the trust level that a
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
		lowest := r.MinTrust
		if lowest == capability.Quarantined {
			lowest = capability.Core // as it is registered
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", r.Name, strings.Join(args, ", "), lowest, onRecord(r), grant(r), r.Doc)
	}
	fmt.Fprintf(&b, `
## Paths

A path is absolute, UTF-8 without control characters, and of at most %d bytes.
It is decided by its canonical form: the names that lead from the mount to the
object itself, links followed. Argument policies see it as the plugin wrote it.

- The mount with the longest guest path that the path begins with serves it.
- Symbolic links must be relative and stay in the mount; at most %d are followed.
  They are the mount owner's: a link is followed wherever it stands, and a denial
  names where it leads.
- ".." leads to the directory above the one that was really entered, and never
  out of the mount that the path starts in. A directory that is left so is a
  resource of the request too: going through it tells that it exists.
- Directories are at most %d deep.
- Names have one spelling on every system: the one the directory lists.
- Only regular files are opened, and directories to list them. A file under two
  names, by a hard link, is decided by the name it is opened by.
- A slash at the end asks for a directory. What makes, removes or renames a name
  takes a last symbolic link for itself, and none before a slash.
- A handle grants nothing below a directory: each path is asked for by itself.
  A syscall on a handle has as its path the one that the handle was opened by.
- What takes two paths needs rights at both; of a directory that is renamed, at
  each path in it, old and new, so that a name never widens what may be done.
- What changes between the decision and the effect is not followed: the syscall
  fails with code %d (ESTALE) and can be tried again.

## Hosts

- A host is a name or an address in its usual form. Names are in lower case and
  punycode in resources, without a dot at their end: net://tcp/example.com:443.
  No search domain is added to one.
- A name that is granted is enough for public addresses. An address that is not
  of the public internet (loopback, private, link-local, the metadata services of
  clouds, and all others of IANA's special registries) is a resource of its own,
  net://internal/tcp/10.0.0.5:5432, beside the name that led to it.
- A name is looked up once, after it was found to be granted, and the connection
  goes to an address that was decided on.
- What listens has the resource net://listen/tcp/127.0.0.1:8080, and so have the
  connections that it accepts.

## Failures

A failure has a code: the errno number that Linux gives it, on every system. A
path that is not granted is blocked whether there is anything or not.
`, MaxPath, MaxLinks, MaxDepth, codeStale)
	return b.String()
}

func onRecord(r abi.Registration) string {
	switch {
	case r.Privileged, r.MinTrust >= capability.Trusted, r.MinTrust == capability.Quarantined:
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
	case family == "net", family == "http":
		return "name, `net://`"
	case family == "plugin":
		return "name, `apis`"
	case family == "secret", family == "ipc", family == "mem":
		return "name, `" + family + "://`"
	case r.Name == "crypto_sign", r.Name == "crypto_verify":
		return "name, `key://`"
	}
	return "name"
}
