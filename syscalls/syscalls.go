// Package syscalls carries out the effects that a plugin may ask for. Each
// family has a file of its own and is a list of [abi.Registration]s: what a
// request means, which has no effect, and the effect, which looks at nothing
// but what was resolved. There is no policy here: whether a request may pass
// has been decided by the gate.
//
// The table of all syscalls is docs/syscalls.md, which is made of the
// registrations by [Markdown].
package syscalls

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/state"
)

// Options are what the effects work on. The zero value is a kernel without
// keys of its own and without a log.
type Options struct {
	// State keeps the plugins' keys. nil makes every kv syscall fail with
	// [abi.CodeUnsupported].
	State *state.DB
	// Logger takes what plugins log, under their names. nil discards it.
	Logger hclog.Logger
	// Environ looks an environment variable up; nil is [os.LookupEnv].
	Environ func(name string) (value string, ok bool)
	// Stdio takes what a plugin writes to "stdout" or "stderr". It is called
	// concurrently and must not keep p. nil sends it to Logger, line by line.
	Stdio func(plugin, stream string, p []byte)
	// Stdin reads what a plugin is given on standard input: as io.Reader has it,
	// until ctx ends. It is called concurrently. nil is an empty one.
	Stdin func(ctx context.Context, plugin string, p []byte) (int, error)
	// Resolver looks names of hosts up; nil is [net.DefaultResolver].
	Resolver *net.Resolver
	// Roots are the certificates that servers are verified by; nil is the system's.
	Roots *x509.CertPool
	// Secrets and Keys are those that plugins may be granted, by name.
	Secrets map[string]Secret
	Keys    map[string]Key
	// CallPlugin serves plugin_call; nil makes it fail.
	CallPlugin CallPlugin
	// Version is the kernel's, as sys_info tells it.
	Version string
}

// Registrations is every syscall there is, ready to be registered.
func Registrations(o Options) []abi.Registration {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Environ == nil {
		o.Environ = os.LookupEnv
	}
	var rate lineRate // of all that a plugin puts in the log
	if o.Stdio == nil {
		o.Stdio = logStdio(o.Logger, &rate)
	}
	if o.Stdin == nil {
		o.Stdin = noStdin
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	connections := network{o.Resolver}
	var regs []abi.Registration
	for _, family := range [][]abi.Registration{
		files(), names(), clock(), random(), env(o.Environ), digests(), logs(o.Logger, &rate), stdio(o.Stdin, o.Stdio), sys(o.Version), keys(o.State),
		connections.registrations(), requests(connections, o.Roots),
		secrets(o.Secrets, o.Environ), signatures(o.Keys), calls(o.CallPlugin), ipc(), mem(),
	} {
		regs = append(regs, family...)
	}
	return regs
}

// Codes of Linux that package abi has no name for.
const (
	codeAgain       = 11  // EAGAIN
	codeNameTooLong = 36  // ENAMETOOLONG
	codeLoop        = 40  // ELOOP
	codeStale       = 116 // ESTALE: what was decided about is not there any more
)

// resource is the resolution of a request that concerns one resource and has
// nothing to prepare.
func resource(uri string) abi.Resolution { return abi.Resolution{Resources: []string{uri}} }

// fixed is the Resolve of a syscall that always concerns the same resource.
func fixed(uri string) func(context.Context, *abi.SyscallContext) (abi.Resolution, error) {
	r := resource(uri)
	return func(context.Context, *abi.SyscallContext) (abi.Resolution, error) { return r, nil }
}

// oneOf is the Resolve of a syscall whose argument 0 is one of a few words, and
// whose resource is that word after the scheme.
func oneOf(scheme string, words ...string) func(context.Context, *abi.SyscallContext) (abi.Resolution, error) {
	known := make(map[string]abi.Resolution, len(words))
	for _, w := range words {
		known[w] = resource(scheme + "://" + w)
	}
	return func(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
		r, ok := known[sc.Args[0]]
		if !ok {
			return r, fmt.Errorf("%.64q: want one of %s", sc.Args[0], strings.Join(words, ", "))
		}
		return r, nil
	}
}

// number reads a decimal argument. What is not one is a malformed request.
func number(what, s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%s %.32q: want a decimal number, not negative", what, s)
	}
	return n, nil
}

// tooLarge is a failure for what exceeds a limit, and nil for what does not.
func tooLarge[N int | uint64](what string, n, limit N) error {
	if n <= limit {
		return nil
	}
	return abi.Fail(abi.CodeTooLarge, "%s is %d, at most %d; ask for less at a time", what, n, limit)
}

// plain checks a name that goes into a resource and on record: text without
// control characters.
func plain(s string) error {
	switch {
	case !utf8.ValidString(s):
		return errors.New("not UTF-8")
	case strings.IndexFunc(s, unicode.IsControl) >= 0:
		return errors.New("holds a control character")
	}
	return nil
}
