package config

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"
)

// pemKeys are a private key and its public one, in PEM.
func pemKeys(t *testing.T, private any, public any) (string, string) {
	t.Helper()
	priv, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: priv})), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}))
}

func TestSecretsAndKeys(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, otherPriv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(nil, 2048)
	if err != nil {
		t.Fatal(err)
	}
	privText, pubText := pemKeys(t, priv, pub)
	_, otherText := pemKeys(t, otherPriv, otherPriv.Public())
	rsaText, rsaPub := pemKeys(t, rsaKey, rsaKey.Public())
	d := dir(t, map[string]string{"k.pem": privText, "k.pub": pubText, "o.pub": otherText, "r.pem": rsaText, "r.pub": rsaPub, "two.pem": privText + privText})
	load := func(body string) (*Config, error) {
		path := filepath.Join(d, "forgeone.hcl")
		write(t, path, "kernel {\n  name = \"k\"\n  state_dir = \"s\"\n}\naudit {\n  dir = \"a\"\n  generate_key = true\n}\n"+body)
		return Load(path, testOptions())
	}
	c, err := load(`
secret "smtp/password" { env = "UNSET" }
secret "token" { file = "run/token" }
key "release" { private = file("k.pem") }
key "both" {
  private = file("k.pem")
  public  = file("k.pub")
}
key "partner" { public = file("k.pub") }
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Secrets["smtp/password"]; got != (Secret{Env: "UNSET"}) {
		t.Errorf("%+v", got)
	}
	if got := c.Secrets["token"]; got != (Secret{File: filepath.Join(d, "run", "token")}) {
		t.Errorf("%+v", got)
	}
	for name, signs := range map[string]bool{"release": true, "both": true, "partner": false} {
		if k := c.Keys[name]; !k.Public.Equal(pub) || (k.Private != nil) != signs || signs && !k.Private.Equal(priv) {
			t.Errorf("key %s is not the one that was written", name)
		}
	}
	for name, c := range map[string]struct{ body, want string }{
		"no source":         {`secret "s" {}`, "comes from nowhere"},
		"two sources":       {"secret \"s\" {\n  env = \"A\"\n  file = \"b\"\n}", "two places"},
		"no variable":       {`secret "s" { env = "A=B" }`, "names no environment variable"},
		"a star":            {`secret "s*" { env = "A" }`, "no name that a plugin can ask for"},
		"twice":             {"secret \"s\" { env = \"A\" }\nsecret \"s\" { env = \"B\" }", "stands twice"},
		"no key":            {`key "k" {}`, "has no key"},
		"a key in the file": {`key "k" { private = "abc" }`, "is a secret that stands in the configuration"},
		"no PEM":            {`key "k" { public = "abc" }`, "BEGIN PUBLIC KEY"},
		"RSA":               {`key "k" { private = file("r.pem") }`, "Ed25519"},
		"RSA to verify":     {`key "k" { public = file("r.pub") }`, "Ed25519"},
		"two blocks":        {`key "k" { private = file("two.pem") }`, "one PEM block"},
		"a public one":      {`key "k" { private = file("k.pub") }`, "BEGIN PRIVATE KEY"},
		"no pair":           {"key \"k\" {\n  private = file(\"k.pem\")\n  public = file(\"o.pub\")\n}", "not a pair"},
	} {
		_, err := load(c.body + "\n")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), strings.Split(privText, "\n")[1]) {
			t.Errorf("%s: the diagnostic shows the key", name)
		}
	}
}
