package zta

import (
	"errors"
	"fmt"
	"slices"
)

// IdentitySpec is an identity as it is configured: what it claims, and what
// the claim is checked against.
type IdentitySpec struct {
	ID     string
	Vector TrustVector
	// PublicKey is the minisign public key of a Signed identity: the bare
	// base64 line, or the whole of a .pub file.
	PublicKey string
	Groups    []string
}

// ErrUnverifiable is matched by the error of [Verify] for a trust vector that
// this version has no way to verify.
var ErrUnverifiable = errors.New("this version cannot verify the trust vector")

// Verify establishes the identity of an artifact. Signed needs a signature of
// the artifact by the identity's public key, Root one by rootKey, the minisign
// public key of the kernel; both as `minisign -S` writes it. Unverified and
// Compromised claim nothing and need nothing; their signature, if there is one,
// is still checked against the identity's key, if there is one, so that the
// publisher is known. A claim that does not hold is an error, never a lower
// trust vector.
func Verify(spec IdentitySpec, artifact, signature []byte, rootKey string) (Identity, error) {
	fail := func(err error) (Identity, error) {
		return Identity{}, fmt.Errorf("identity %q: trust vector %s: %w", spec.ID, spec.Vector, err)
	}
	if spec.ID == "" {
		return fail(errors.New("the identity has no id"))
	}
	id := Identity{ID: spec.ID, TrustVector: spec.Vector, Groups: slices.Clone(spec.Groups)}

	key, owner := spec.PublicKey, "public_key of the identity"
	switch spec.Vector {
	case Root:
		key, owner = rootKey, "root_public_key of the kernel"
	case Signed, Unverified, Compromised:
	case EdgeGateway, Enclave:
		return fail(fmt.Errorf("%w: use signed or unverified", ErrUnverifiable))
	default:
		return fail(ErrUnverifiable)
	}

	claims := spec.Vector == Signed || spec.Vector == Root
	switch {
	case claims && key == "":
		return fail(fmt.Errorf("no %s to verify the signature with", owner))
	case claims && len(signature) == 0:
		return fail(errors.New("the artifact has no signature: sign it with minisign -S"))
	case key == "" || len(signature) == 0:
		return id, nil
	}
	publisher, err := verifySignature(key, artifact, signature)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", owner, err))
	}
	id.Publisher = publisher
	return id, nil
}
