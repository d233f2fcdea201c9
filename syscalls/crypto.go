package syscalls

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of crypto syscalls.
const (
	MaxHash = 16 << 20 // bytes that one crypto_hash takes
	MaxSign = 16 << 20 // bytes that one crypto_sign or crypto_verify takes
)

// Key is an Ed25519 key that plugins use by its name and never see.
type Key struct {
	Private ed25519.PrivateKey // nil for one that can only verify
	Public  ed25519.PublicKey
}

func signatures(known map[string]Key) []abi.Registration {
	// use finds the key and holds the payload against its limit.
	use := func(f func(k Key, p []byte) ([]byte, error)) abi.SyscallHandler {
		return func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			if err := tooLarge("payload", len(sc.Payload), MaxSign); err != nil {
				return nil, err
			}
			k, ok := known[sc.Args[0]]
			if !ok {
				return nil, abi.Fail(abi.CodeNotFound, "the configuration names no key %q", sc.Args[0])
			}
			return f(k, sc.Payload)
		}
	}
	return []abi.Registration{
		{
			Name: "crypto_sign", Args: []string{"key"}, MinTrust: capability.Standard, World: true, Privileged: true,
			Doc:     fmt.Sprintf("Sign the payload, at most %d bytes, with a key that the configuration names (Ed25519, RFC 8032). Returns the signature, %d bytes.", MaxSign, ed25519.SignatureSize),
			Resolve: named("key"),
			Handler: use(func(k Key, p []byte) ([]byte, error) {
				if k.Private == nil {
					return nil, abi.Fail(abi.CodePermission, "the key can only verify")
				}
				return ed25519.Sign(k.Private, p), nil
			}),
		},
		{
			Name: "crypto_verify", Args: []string{"key"}, MinTrust: capability.Limited,
			Doc:     fmt.Sprintf("Verify a signature with a key that the configuration names. The payload, at most %d bytes, is the signature, %d bytes, and what was signed. Returns `1` if it holds, `0` if not.", MaxSign, ed25519.SignatureSize),
			Resolve: named("key"),
			Handler: use(func(k Key, p []byte) ([]byte, error) {
				if len(p) < ed25519.SignatureSize {
					return nil, abi.Fail(abi.CodeInvalid, "the payload has %d bytes, a signature has %d", len(p), ed25519.SignatureSize)
				}
				if ed25519.Verify(k.Public, p[ed25519.SignatureSize:], p[:ed25519.SignatureSize]) {
					return []byte("1"), nil
				}
				return []byte("0"), nil
			}),
		},
	}
}

func digests() []abi.Registration {
	return []abi.Registration{{
		Name: "crypto_hash", Args: []string{"algorithm"}, MinTrust: capability.Limited,
		Doc:     fmt.Sprintf("Hash the payload, at most %d bytes, with `sha256`, `sha384` or `sha512` (FIPS 180-4). Returns the digest's bytes.", MaxHash),
		Resolve: oneOf("hash", "sha256", "sha384", "sha512"),
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			if err := tooLarge("payload", len(sc.Payload), MaxHash); err != nil {
				return nil, err
			}
			switch sc.Args[0] {
			case "sha256":
				sum := sha256.Sum256(sc.Payload)
				return sum[:], nil
			case "sha384":
				sum := sha512.Sum384(sc.Payload)
				return sum[:], nil
			default: // resolved to be one of the three
				sum := sha512.Sum512(sc.Payload)
				return sum[:], nil
			}
		},
	}}
}
