package syscalls_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

func TestSecret(t *testing.T) {
	const value = "hunter2-and-then-some"
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(value + "\n")
	logDir := t.TempDir()
	var reg abi.SyscallRegistry
	err := reg.Register(syscalls.Registrations(syscalls.Options{
		Environ: func(n string) (string, bool) { return value, n == "TOKEN" },
		Secrets: map[string]syscalls.Secret{
			"db/password": {Env: "TOKEN"}, "token": {File: file}, "gone": {File: file + ".gone"}, "unset": {Env: "UNSET"}, "dir": {File: dir}, "other": {Env: "TOKEN"},
		},
	})...)
	if err != nil {
		t.Fatal(err)
	}
	graph, err := reg.Compile([]zta.Policy{{Name: "all"}}, zta.Enforce)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: logDir, Name: "test", AllowGenerate: true})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := abi.NewGate(abi.GateOptions{Registry: &reg, Graph: graph, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, gate: gate}
	p := k.plugin("p", capability.Standard, capability.Grant{Resources: []string{"secret://db/*", "secret://token", "secret://gone", "secret://unset", "secret://dir", "secret://none"}})
	for _, name := range []string{"db/password", "token"} {
		if got := string(p.ok("secret_get", nil, name)); got != value {
			t.Errorf("%s is %q", name, got)
		}
	}
	write("new\r\n") // takes effect at once
	if got := string(p.ok("secret_get", nil, "token")); got != "new" {
		t.Errorf("it is %q", got)
	}
	write(strings.Repeat("x", syscalls.MaxSecret+1))
	p.code(abi.CodeTooLarge, "secret_get", nil, "token")
	for _, name := range []string{"gone", "unset", "dir", "none"} {
		p.code(abi.CodeNotFound, "secret_get", nil, name)
	}
	for _, name := range []string{"other", "", "a\nb", strings.Repeat("a", syscalls.MaxObjectName+1)} {
		p.blocked("secret_get", nil, name)
	}
	k.plugin("q", capability.Limited, capability.Grant{Resources: []string{"secret://**"}}).blocked("secret_get", nil, "token")

	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(value))
	seen := 0
	err = filepath.WalkDir(logDir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		seen += bytes.Count(b, []byte("secret://token"))
		if bytes.Contains(b, []byte(value)) || bytes.Contains(b, []byte(hex.EncodeToString(sum[:]))) {
			t.Errorf("%s holds the secret, or its digest", d.Name())
		}
		return err
	})
	if err != nil || seen == 0 {
		t.Errorf("%d records (%v)", seen, err)
	}
}

func TestSign(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k := newKernel(t, syscalls.Options{Keys: map[string]syscalls.Key{"release": {Private: private, Public: public}, "partner": {Public: public}}})
	p := k.plugin("p", capability.Standard, capability.Grant{Resources: []string{"key://release", "key://partner", "key://none"}})
	sig := p.ok("crypto_sign", []byte("text"), "release")
	if !ed25519.Verify(public, []byte("text"), sig) {
		t.Error("the signature does not hold")
	}
	for _, key := range []string{"release", "partner"} {
		if got := string(p.ok("crypto_verify", append(sig, "text"...), key)); got != "1" {
			t.Errorf("%s: %q", key, got)
		}
		if got := string(p.ok("crypto_verify", append(sig, "test"...), key)); got != "0" {
			t.Errorf("%s: %q of another text", key, got)
		}
	}
	p.code(abi.CodePermission, "crypto_sign", nil, "partner")
	p.code(abi.CodeNotFound, "crypto_sign", nil, "none")
	p.code(abi.CodeInvalid, "crypto_verify", sig[:63], "release")
	p.code(abi.CodeTooLarge, "crypto_sign", make([]byte, syscalls.MaxSign+1), "release")
	p.blocked("crypto_sign", nil, "other")
	limited := k.plugin("l", capability.Limited, capability.Grant{Resources: []string{"key://release"}})
	limited.ok("crypto_verify", append(sig, "text"...), "release")
	limited.blocked("crypto_sign", nil, "release")
}
