package child

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Kinds of [Error], for errors.Is.
var (
	// ErrChecksum is a binary that is not the one that was configured.
	ErrChecksum = errors.New("checksum does not match")
	// ErrNotAPlugin is a program that cannot be run, or that ended or said
	// something else where the handshake was expected.
	ErrNotAPlugin = errors.New("not a plugin")
	// ErrVersion is a child that has none of the offered protocol versions.
	ErrVersion = errors.New("no common protocol version")
	// ErrHandshakeTimeout is a child that did not complete the handshake in time.
	ErrHandshakeTimeout = errors.New("handshake timed out")
	// ErrExited is a process that has ended.
	ErrExited = errors.New("the process has ended")
	// ErrUnsupported is a system on which children cannot be run.
	ErrUnsupported = errors.New("not supported on this system")
)

// Error is what is wrong with a child.
type Error struct {
	Kind   error  // one of the Err variables
	Name   string // as configured
	Path   string // as configured
	Reason string // what happened
	Remedy string // what to do; may be empty
}

// Error is one line; what the child wrote is quoted in it where it must be.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s): %v: %s", e.Name, e.Path, e.Kind, e.Reason)
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Unwrap is the kind.
func (e *Error) Unwrap() error { return e.Kind }

func (r *run) fail(kind error, reason, remedy string) *Error {
	return &Error{Kind: kind, Name: r.name, Path: r.path, Reason: reason, Remedy: remedy}
}

const builtWithSDK = "is it built with the plugin SDK (sdk/native)?"

// explain makes one of our errors of a start that failed with err; the process
// has ended or was never begun.
func (r *run) explain(ctx context.Context, err error) error {
	line := r.handshake()
	version, versionOK := protocolVersion(line)
	switch {
	case errors.Is(err, ErrHandshakeTimeout):
		return r.fail(ErrHandshakeTimeout, fmt.Sprintf("after %v it had not begun to serve; %s", r.startTimeout, r.log.lastWords()), builtWithSDK)
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		return fmt.Errorf("start %s: %w", r.name, context.Cause(ctx))
	case r.badAddress != "":
		return r.fail(ErrNotAPlugin, r.badAddress, "a plugin must listen where PLUGIN_UNIX_SOCKET_DIR says")
	case !r.begun():
		return r.fail(ErrNotAPlugin, "it cannot be run: "+err.Error(),
			fmt.Sprintf("is it built for %s/%s, and may files in the temporary directory (TMPDIR) be run?", runtime.GOOS, runtime.GOARCH))
	case versionOK && !slices.Contains(r.versions, version):
		return r.fail(ErrVersion, fmt.Sprintf("it speaks version %d, the kernel %s", version, join(r.versions)), "rebuild it with the SDK of this kernel's release, or use a kernel of its own")
	case line != "" && !versionOK:
		return r.fail(ErrNotAPlugin, fmt.Sprintf("where the handshake was expected it wrote %q; %s", clip(line, 100), r.end()), builtWithSDK)
	case line == "":
		return r.fail(ErrNotAPlugin, "it ended before the handshake: "+r.end(), builtWithSDK)
	}
	return r.fail(ErrNotAPlugin, fmt.Sprintf("%s; %s", plain(err.Error()), r.end()), builtWithSDK)
}

// protocolVersion reads the version in a handshake line of go-plugin
// ("1|version|network|address|protocol|certificate").
func protocolVersion(line string) (int, bool) {
	f := strings.Split(line, "|")
	if len(f) < 4 || f[0] != strconv.Itoa(coreProtocol) {
		return 0, false
	}
	v, err := strconv.Atoi(f[1])
	return v, err == nil
}

func join(versions []int) string {
	s := make([]string, len(versions))
	for i, v := range versions {
		s[i] = strconv.Itoa(v)
	}
	return strings.Join(s, ", ")
}

// plain is text that is safe in one line of a log or on a terminal: text of the
// child's is free to aim at both.
func plain(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// clip is s, or its first n bytes and a mark.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
