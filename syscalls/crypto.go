package syscalls

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// MaxHash is how many bytes one crypto_hash takes.
const MaxHash = 16 << 20

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
