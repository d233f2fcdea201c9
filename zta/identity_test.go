package zta_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/zta"
)

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The files in testdata were written by minisign 0.11.
func TestVerify(t *testing.T) {
	artifact := testdata(t, "artifact.bin")
	release, other := string(testdata(t, "release.pub")), string(testdata(t, "other.pub"))
	_, bare, _ := strings.Cut(strings.TrimSpace(release), "\n")
	prehashed, legacy, foreign := testdata(t, "prehashed.minisig"), testdata(t, "legacy.minisig"), testdata(t, "other.minisig")
	changed := append(bytes.Clone(artifact), '!')
	const releaseID = "27B81DCD11D4B5E0" // as in release.pub

	for _, c := range []struct {
		name      string
		vector    zta.TrustVector
		key, root string
		artifact  []byte
		signature []byte
		publisher string
		wantErr   string
	}{
		{name: "signed, prehashed", vector: zta.Signed, key: release, artifact: artifact, signature: prehashed, publisher: releaseID},
		{name: "signed, legacy", vector: zta.Signed, key: release, artifact: artifact, signature: legacy, publisher: releaseID},
		{name: "bare key", vector: zta.Signed, key: bare, artifact: artifact, signature: prehashed, publisher: releaseID},
		{name: "root", vector: zta.Root, root: release, artifact: artifact, signature: prehashed, publisher: releaseID},
		{name: "unverified", vector: zta.Unverified, artifact: artifact},
		{name: "unverified, with a signature", vector: zta.Unverified, artifact: artifact, signature: prehashed},
		{name: "unverified, with a signature and key", vector: zta.Unverified, key: release, artifact: artifact, signature: prehashed, publisher: releaseID},
		{name: "compromised", vector: zta.Compromised, artifact: artifact},

		{name: "changed artifact", vector: zta.Signed, key: release, artifact: changed, signature: prehashed, wantErr: "was changed"},
		{name: "changed artifact, legacy", vector: zta.Signed, key: release, artifact: changed, signature: legacy, wantErr: "was changed"},
		{name: "changed trusted comment", vector: zta.Signed, key: release, artifact: artifact,
			signature: bytes.Replace(prehashed, []byte("1.2.0"), []byte("9.9.9"), 1), wantErr: "was changed"},
		{name: "another's key", vector: zta.Signed, key: release, artifact: artifact, signature: foreign, wantErr: "not by key " + releaseID},
		{name: "root by another key", vector: zta.Root, key: release, root: other, artifact: artifact, signature: prehashed, wantErr: "root_public_key"},
		{name: "root without a key", vector: zta.Root, key: release, artifact: artifact, signature: prehashed, wantErr: "no root_public_key"},
		{name: "signed without a key", vector: zta.Signed, root: release, artifact: artifact, signature: prehashed, wantErr: "no public_key"},
		{name: "no signature", vector: zta.Signed, key: release, artifact: artifact, wantErr: "minisign -S"},
		{name: "not a signature", vector: zta.Signed, key: release, artifact: artifact, signature: []byte("x"), wantErr: "not a minisign signature"},
		{name: "not a key", vector: zta.Signed, key: "x", artifact: artifact, signature: prehashed, wantErr: "not a minisign public key"},
		{name: "unverified, wrong signature", vector: zta.Unverified, key: release, artifact: changed, signature: prehashed, wantErr: "was changed"},
		{name: "edge gateway", vector: zta.EdgeGateway, key: release, artifact: artifact, signature: prehashed, wantErr: "cannot verify"},
		{name: "enclave", vector: zta.Enclave, key: release, artifact: artifact, signature: prehashed, wantErr: "cannot verify"},
		{name: "no such vector", vector: zta.Root + 1, wantErr: "cannot verify"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := zta.IdentitySpec{ID: "reporting", Vector: c.vector, PublicKey: c.key, Groups: []string{"batch"}}
			id, err := zta.Verify(spec, c.artifact, c.signature, c.root)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) || !strings.Contains(err.Error(), `"reporting"`) {
					t.Fatalf("error %v, want one with %q", err, c.wantErr)
				}
				if id.ID != "" || id.TrustVector != zta.Compromised {
					t.Errorf("a claim that does not hold gave %+v", id)
				}
				if want := c.vector == zta.EdgeGateway || c.vector == zta.Enclave || c.vector > zta.Root; errors.Is(err, zta.ErrUnverifiable) != want {
					t.Errorf("ErrUnverifiable: %v, want %v", !want, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if id.ID != "reporting" || id.TrustVector != c.vector || id.Publisher != c.publisher || len(id.Groups) != 1 {
				t.Errorf("Verify = %+v, want vector %s, publisher %q", id, c.vector, c.publisher)
			}
		})
	}
	if _, err := zta.Verify(zta.IdentitySpec{Vector: zta.Unverified}, nil, nil, ""); err == nil {
		t.Error("an identity without an id is taken")
	}
}

// FuzzVerify: only the signature as minisign wrote it, or one that differs in
// what is not signed (the untrusted comment, line ends), is ever taken, and only
// for the artifact.
func FuzzVerify(f *testing.F) {
	artifact, key := testdata(f, "artifact.bin"), string(testdata(f, "release.pub"))
	for _, name := range []string{"prehashed.minisig", "legacy.minisig", "other.minisig", "release.pub"} {
		f.Add(artifact, testdata(f, name))
	}
	f.Fuzz(func(t *testing.T, data, signature []byte) {
		spec := zta.IdentitySpec{ID: "a", Vector: zta.Signed, PublicKey: key}
		if _, err := zta.Verify(spec, data, signature, ""); err == nil && !bytes.Equal(data, artifact) {
			t.Fatalf("%q verifies with %q", data, signature)
		}
		spec.PublicKey = string(signature)
		if _, err := zta.Verify(spec, data, signature, ""); err == nil {
			t.Fatalf("%q is both key and signature", signature)
		}
	})
}
