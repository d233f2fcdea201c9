package syscalls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// MaxSecret is the length of a secret, in bytes.
const MaxSecret = 64 << 10

// Secret is where a secret comes from: exactly one of the two. It is read each
// time that it is asked for, so that a new value needs no restart.
type Secret struct {
	Env  string // an environment variable
	File string // a path; one line end at its end is not part of the secret
}

// read is the secret's value. Its errors do not hold it.
func (s Secret) read(environ func(string) (string, bool)) ([]byte, error) {
	if s.Env != "" {
		value, ok := environ(s.Env)
		if !ok {
			return nil, errors.New("its environment variable is not set")
		}
		return []byte(value), nil
	}
	info, err := os.Stat(s.File)
	if err != nil || !info.Mode().IsRegular() { // anything else may never end
		return nil, errors.New("its file is not there")
	}
	f, err := os.Open(s.File)
	if err != nil {
		return nil, errors.New("its file cannot be opened")
	}
	defer f.Close()
	value, err := io.ReadAll(io.LimitReader(f, MaxSecret+2))
	if err != nil {
		return nil, errors.New("its file cannot be read")
	}
	text := strings.TrimSuffix(string(value), "\n")
	return []byte(strings.TrimSuffix(text, "\r")), nil
}

func secrets(known map[string]Secret, environ func(string) (string, bool)) []abi.Registration {
	return []abi.Registration{{
		Name: "secret_get", Args: []string{"name"}, MinTrust: capability.Standard, World: true, Privileged: true,
		Doc:     fmt.Sprintf("Get a secret of at most %d bytes that the configuration names. On record is who got it and how long it is, never what it is.", MaxSecret),
		Resolve: named("secret"),
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			s, ok := known[sc.Args[0]]
			if !ok {
				return nil, abi.Fail(abi.CodeNotFound, "the configuration names no secret %q", sc.Args[0])
			}
			value, err := s.read(environ)
			if err != nil {
				return nil, abi.Fail(abi.CodeNotFound, "secret %s: %v", sc.Args[0], err)
			}
			if err := tooLarge("length of the secret", len(value), MaxSecret); err != nil {
				return nil, err
			}
			return value, nil
		},
	}}
}

// MaxObjectName is the length of a name that stands for an object of the
// kernel's, in bytes.
const MaxObjectName = 256

// named is the Resolve of a syscall whose argument 0 is the name of an object of
// the kernel's, and whose resource is that name, percent-encoded, after the scheme.
func named(scheme string) resolver {
	return func(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
		name := sc.Args[0]
		if name == "" || len(name) > MaxObjectName {
			return abi.Resolution{}, fmt.Errorf("name %.64q: want 1 to %d bytes", name, MaxObjectName)
		}
		if err := plain(name); err != nil {
			return abi.Resolution{}, fmt.Errorf("name %.64q: %w", name, err)
		}
		return resource(scheme + "://" + strings.ReplaceAll(url.PathEscape(name), "%2F", "/")), nil
	}
}
