package zta

import (
	"errors"
	"fmt"
	"strings"

	"aead.dev/minisign"
)

// verifySignature checks a minisign signature, of a prehashed message ("ED",
// what minisign writes) or of the message itself ("Ed", its legacy form), with
// its trusted comment, and returns the key id as minisign prints it. See
// https://jedisct1.github.io/minisign/#signature-format.
func verifySignature(publicKey string, message, signature []byte) (keyID string, err error) {
	var key minisign.PublicKey
	if err := key.UnmarshalText([]byte(strings.TrimSpace(publicKey))); err != nil {
		return "", fmt.Errorf("not a minisign public key: %w", err)
	}
	var sig minisign.Signature
	if err := sig.UnmarshalText(signature); err != nil {
		return "", fmt.Errorf("not a minisign signature: %w", err)
	}
	if sig.KeyID != key.ID() {
		return "", fmt.Errorf("the artifact was signed by key %016X, not by key %016X", sig.KeyID, key.ID())
	}
	if !minisign.Verify(key, message, signature) {
		return "", errors.New("the signature does not match: the artifact, the signature or its trusted comment was changed")
	}
	return fmt.Sprintf("%016X", key.ID()), nil
}
