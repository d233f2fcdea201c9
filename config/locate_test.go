package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// A kernel is found by its configuration whatever else is wrong with it.
func TestLocate(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Places // relative to the file's directory
		err  string // or a part of the error
	}{
		"a secret that is not at hand": {
			text: `kernel {
				name      = "k"
				state_dir = "s"
			}
			audit {
				dir = "a"
				key = env("FORGEONE_IS_NOT_SET")
			}`,
			want: Places{StateDir: "s", Socket: "s/control.sock", AuditDir: "a"},
		},
		"mistakes everywhere else": {
			text: `bogus = 1
			kernel {
				state_dir   = "s"
				socket      = "k.sock"
				enforcement = "strict"
			}
			audit { dir = "a" }
			plugin "p" { wasm = "nosuch.wasm" }`,
			want: Places{StateDir: "s", Socket: "k.sock", AuditDir: "a"},
		},
		"no state_dir":     {text: `audit { dir = "a" }`, err: "no block kernel"},
		"no audit":         {text: `kernel { state_dir = "s" }`, err: "no block audit"},
		"a wrong socket":   {text: "kernel {\nstate_dir = \"s\"\nsocket = 5\n}\naudit { dir = \"a\" }", err: "want a path"},
		"no syntax at all": {text: `kernel {`, err: "Unclosed"},
		"no text":          {text: "\xff", err: "not valid UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			d := dir(t, map[string]string{"c.hcl": c.text})
			got, err := Locate(filepath.Join(d, "c.hcl"))
			if c.err != "" {
				if !errors.As(err, new(*DiagnosticsError)) || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want a *DiagnosticsError with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := Places{filepath.Join(d, c.want.StateDir), filepath.Join(d, c.want.Socket), filepath.Join(d, c.want.AuditDir)}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	if _, err := Locate(filepath.Join(t.TempDir(), "nosuch.hcl")); err == nil || errors.As(err, new(*DiagnosticsError)) {
		t.Errorf("a missing file: %v", err)
	}
}
