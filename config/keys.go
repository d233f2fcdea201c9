package config

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

func (r *resolver) secrets() {
	r.out.Secrets = map[string]Secret{}
	for _, b := range r.file.secrets {
		r.object(&b.header)
		switch {
		case b.env.given == b.file.given:
			r.fail(b.at, fmt.Sprintf("secret %q comes from nowhere, or from two places", b.label), `want one of env = "NAME" and file = "path"`)
		case b.env.ok && (b.env.value == "" || strings.ContainsAny(b.env.value, "=\x00")):
			r.fail(b.env.at, fmt.Sprintf("%q names no environment variable", b.env.value), "want its name; its value is read when a plugin asks for it")
		}
		r.out.Secrets[b.label] = Secret{Env: b.env.value, File: b.file.value}
	}
}

func (r *resolver) keys() {
	r.out.Keys = map[string]Key{}
	for _, b := range r.file.keys {
		r.object(&b.header)
		var k Key
		var err error
		if b.private.ok {
			if k.Private, err = privateKey(b.private.value); err != nil {
				r.fail(b.private.at, fmt.Sprintf("the private key of %q is none", b.label), err.Error())
			} else {
				k.Public = k.Private.Public().(ed25519.PublicKey) // of an Ed25519 key it is nothing else
			}
		}
		if b.public.ok {
			public, err := publicKey(b.public.value)
			switch {
			case err != nil:
				r.fail(b.public.at, fmt.Sprintf("the public key of %q is none", b.label), err.Error())
			case k.Private != nil && !k.Public.Equal(public):
				r.fail(b.public.at, fmt.Sprintf("the two keys of %q are not a pair", b.label), "leave public out: it follows from private")
			}
			k.Public = public
		}
		if !b.private.given && !b.public.given {
			r.fail(b.at, fmt.Sprintf("key %q has no key", b.label), `want private = file("path") to sign and verify with, or public = file("path") to verify with`)
		}
		r.out.Keys[b.label] = k
	}
}

// object checks the name of something that a plugin may ask for.
func (r *resolver) object(h *header) {
	if strings.ContainsFunc(h.label, unicode.IsControl) || strings.Contains(h.label, "*") || len(h.label) > 256 {
		r.fail(h.labelAt, fmt.Sprintf("%.64q is no name that a plugin can ask for", h.label), "want at most 256 bytes without control characters and stars")
	}
}

// pemBlock is the content of the one PEM block of a kind that a text is.
func pemBlock(kind, text string) ([]byte, error) {
	b, rest := pem.Decode([]byte(text))
	if b == nil || b.Type != kind || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("want one PEM block, -----BEGIN %s-----", kind)
	}
	return b.Bytes, nil
}

func privateKey(text string) (ed25519.PrivateKey, error) {
	der, err := pemBlock("PRIVATE KEY", text)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if k, ok := key.(ed25519.PrivateKey); ok && err == nil {
		return k, nil
	}
	return nil, errors.New("want an Ed25519 key: openssl genpkey -algorithm ed25519")
}

func publicKey(text string) (ed25519.PublicKey, error) {
	der, err := pemBlock("PUBLIC KEY", text)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if k, ok := key.(ed25519.PublicKey); ok && err == nil {
		return k, nil
	}
	return nil, errors.New("want an Ed25519 key: openssl pkey -pubout")
}
