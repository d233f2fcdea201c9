package config

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

var update = flag.Bool("update", false, "write the golden files and docs/config.md anew")

// testOptions are those of a kernel with a few syscalls and two engines.
func testOptions() Options {
	return Options{
		Syscalls: map[string]capability.TrustLevel{
			"file_open": capability.Limited, "file_read": capability.Limited, "file_write": capability.Standard,
			"kv_get": capability.Limited, "kv_put": capability.Limited, "log_write": capability.Limited,
			"env_get": capability.Limited, "time_get": capability.Limited, "net_listen": capability.Trusted, "proc_create": capability.Core,
		},
		Engines: []string{"wazero", "wasmer"},
		LookupEnv: func(name string) (string, bool) {
			v, ok := map[string]string{"KEY": "the key", "EMPTY": "", "LANG": "en", "NOT_TEXT": "\xff"}[name]
			return v, ok
		},
	}
}

// dir is a directory that holds the given files.
func dir(t testing.TB, files map[string]string) string {
	t.Helper()
	d := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(d, name), content)
	}
	return d
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func sum(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./config -update writes it anew); got:\n%s", path, got)
	}
}

func TestMistakesAreAllReportedAtOnce(t *testing.T) {
	_, err := Load("testdata/mistakes.hcl", testOptions())
	var wrong *DiagnosticsError
	if !errors.As(err, &wrong) {
		t.Fatalf("Load: %v, want a DiagnosticsError", err)
	}
	here, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "mistakes.txt", strings.ReplaceAll(wrong.Error(), here, "DIR")+"\n")
	for i, d := range wrong.Diagnostics() {
		if d.File != "testdata/mistakes.hcl" || d.Line < 1 || d.Column < 1 || d.Summary == "" || d.Detail == "" {
			t.Errorf("diagnostic %d is not complete: %+v", i, d)
		}
	}

	var b bytes.Buffer
	if err := wrong.Render(&b, 100, false); err != nil {
		t.Fatal(err)
	}
	if out := b.String(); !strings.Contains(out, `enforcment  = "enforce"`) {
		t.Errorf("Render shows no source:\n%s", out)
	}
	if strings.Contains(b.String()+wrong.Error(), "do-not-print-me") {
		t.Error("a secret that stands in the configuration is printed")
	}
}

// plain is a configuration in which everything but a body of the test is right.
const around = `
kernel {
  name      = "k"
  state_dir = "state"
}
audit {
  dir          = "audit"
  generate_key = true
}
`

func load(t testing.TB, d, src string) (*Config, error) {
	t.Helper()
	path := filepath.Join(d, "config.hcl")
	write(t, path, src)
	return Load(path, testOptions())
}

func mustLoad(t testing.TB, d, src string) *Config {
	t.Helper()
	c, err := load(t, d, src)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoad(t *testing.T) {
	d := dir(t, map[string]string{
		"p.wasm": "module", "bin/n": "native", "keys/log": "signer\n", "keys/root.pub": "root key", "in/x": "",
	})
	c := mustLoad(t, d, `
kernel {
  name            = "edge-1"
  state_dir       = "state"
  enforcement     = "permissive"
  root_public_key = file("keys/root.pub")
  idle_memory     = "32MiB"
}
engine "wazero" {}
engine "wasmer" {
  default = true
}
audit {
  dir                 = "`+filepath.ToSlash(d)+`/log"
  key_file            = "keys/log"
  durability          = "disk"
  segment_size        = "1MiB"
  checkpoint_every    = 10
  checkpoint_interval = "250ms"
}
identity "spiffe://acme/batch" {
  trust_vector = "unverified"
  groups       = ["batch"]
}
policy "inbox" {
  syscalls         = ["read_file", "kv_*"]
  plugins          = ["p*"]
  groups           = ["batch"]
  identities       = ["spiffe://acme/*"]
  resources        = ["file:///data/**"]
  min_trust_level  = "limited"
  min_trust_score  = 0.25
  allow_identities = []
  deny_identities  = ["plugin:n"]
  when             = "subject.score > 0.1"
  deny_when        = "dna.denials_1m > 5"
  on_violation     = "freeze"
  mode             = "audit"
  arg "1" {
    match = "^a"
    deny  = "z"
  }
}
plugin "p" {
  wasm        = "p.wasm"
  sha256      = "`+strings.ToUpper(sum("module"))+`"
  version     = "1.${env("LANG")}"
  engine      = "wasmer"
  identity    = "spiffe://acme/batch"
  trust_level = "standard"
  state       = "keep"
  autostart   = false
  capabilities {
    syscalls  = ["write_file", "kv_*", "*"]
    resources = ["file:///data/**"]
    apis      = ["n/*"]
    custom    = { region = "eu", "k v" = "x" }
  }
  mount "/data" {
    host = "in"
  }
  mount "/out" {
    host = "in"
    mode = "rw"
  }
  limits {
    memory  = "64MiB"
    timeout = "2s"
  }
}
plugin "pooled" {
  wasm        = "p.wasm"
  trust_level = "limited"
  pool {
    min_idle     = 2
    max_idle     = 3
    idle_timeout = "10s"
  }
}
plugin "unpooled" {
  wasm        = "p.wasm"
  trust_level = "limited"
  pool {
    max_idle = 0
  }
}
plugin "n" {
  native      = "bin/n"
  sha256      = "`+sum("native")+`"
  trust_level = "quarantined"
  sandbox     = "none"
  limits {
    timeout   = "none"
    instances = 2
  }
}
compile {
  timeout    = "90s"
  memory     = "256MiB"
  cache_size = "10MiB"
}
`)
	equal(t, "kernel", c.Kernel, Kernel{
		Name: "edge-1", StateDir: filepath.Join(d, "state"), Socket: filepath.Join(d, "state", "control.sock"),
		Enforcement: zta.Permissive, RootPublicKey: "root key", IdleMemory: 32 << 20,
	})
	equal(t, "engines", c.Engines, []Engine{{Name: "wasmer", Default: true}, {Name: "wazero"}})
	equal(t, "compile", c.Compile, Compile{Timeout: 90 * time.Second, Memory: 256 << 20, CacheDir: filepath.Join(d, "state", "cache"), CacheSize: 10 << 20})
	c.Audit.Clock = nil
	equal(t, "audit", c.Audit, audit.Options{
		Dir: filepath.Join(d, "log"), Key: "signer\n", Durability: audit.Disk,
		SegmentSize: 1 << 20, CheckpointEvery: 10, CheckpointInterval: 250 * time.Millisecond,
	})
	batch := zta.IdentitySpec{ID: "spiffe://acme/batch", Vector: zta.Unverified, Groups: []string{"batch"}}
	equal(t, "identities", c.Identities, map[string]zta.IdentitySpec{batch.ID: batch})
	origin := filepath.Join(d, "config.hcl")
	equal(t, "policies", c.Policies, []zta.Policy{{
		Name: "inbox", Origin: origin + ":25",
		Syscalls: []string{"read_file", "kv_*"}, Plugins: []string{"p*"}, Groups: []string{"batch"},
		Identities: []string{"spiffe://acme/*"}, Resources: []string{"file:///data/**"},
		MinTrustLevel: capability.Limited, MinTrustScore: 0.25,
		AllowIdentities: []string{}, DenyIdentities: []string{"plugin:n"},
		Args: map[int]zta.ArgConstraint{1: {Match: "^a", Deny: "z"}},
		When: "subject.score > 0.1", DenyWhen: "dna.denials_1m > 5", OnViolation: zta.Freeze, Mode: zta.Audit,
	}})
	if c.Policies[0].AllowIdentities == nil {
		t.Error("allow_identities = [] is nil, which allows all")
	}
	grant := c.Plugins[0].Capabilities.Grant()
	equal(t, "grant", grant, capability.Grant{
		Syscalls: []string{"write_file", "kv_*", "*"}, Resources: []string{"file:///data/**"},
		APIs: []string{"n/*"}, Custom: map[string]string{"region": "eu", "k v": "x"},
	})
	if c.Plugins[1].Capabilities.Syscall("file_open") {
		t.Error("a plugin without capabilities may open files")
	}
	for i := range c.Plugins {
		c.Plugins[i].Capabilities = capability.Set{}
	}
	equal(t, "plugins", c.Plugins, []host.PluginConfig{{
		Name: "p", Version: "1.en", WasmModule: filepath.Join(d, "p.wasm"), SHA256: sum("module"), Signature: []byte{},
		Engine: "wasmer", Identity: batch, TrustLevel: capability.Standard, State: host.StateKeep, Origin: origin + ":44",
		Mounts: []host.Mount{{Guest: "/data", Host: filepath.Join(d, "in"), ReadOnly: true}, {Guest: "/out", Host: filepath.Join(d, "in")}},
		Limits: host.Limits{Memory: 64 << 20, Timeout: 2 * time.Second},
	}, {
		Name: "pooled", WasmModule: filepath.Join(d, "p.wasm"), Signature: []byte{}, Autostart: true, Origin: origin + ":71",
		Identity: zta.IdentitySpec{ID: "plugin:pooled", Vector: zta.Unverified}, TrustLevel: capability.Limited,
		Pool: host.Pool{MinIdle: 2, MaxIdle: 3, IdleTimeout: 10 * time.Second},
	}, {
		Name: "unpooled", WasmModule: filepath.Join(d, "p.wasm"), Signature: []byte{}, Autostart: true, Origin: origin + ":80",
		Identity: zta.IdentitySpec{ID: "plugin:unpooled", Vector: zta.Unverified}, TrustLevel: capability.Limited,
		Pool: host.Pool{MaxIdle: host.NoIdle},
	}, {
		Name: "n", NativeLibrary: filepath.Join(d, "bin", "n"), SHA256: sum("native"), Signature: []byte{},
		Identity: zta.IdentitySpec{ID: "plugin:n", Vector: zta.Unverified}, TrustLevel: capability.Quarantined,
		Sandbox: host.SandboxNone, Autostart: true, Origin: origin + ":87",
		Limits: host.Limits{Timeout: host.NoTimeout, Instances: 2},
	}})

	want := []string{origin, filepath.Join(d, "keys", "log"), filepath.Join(d, "keys", "root.pub")}
	equal(t, "files", c.Files, want)
	var sums string
	for _, name := range []string{"config.hcl", "keys/log", "keys/root.pub"} {
		b, err := os.ReadFile(filepath.Join(d, name))
		if err != nil {
			t.Fatal(err)
		}
		sums += sum(string(b)) + "  " + name + "\n"
	}
	equal(t, "digest", c.Digest, sum(sums))
}

// equal compares as %#v does: values that print alike are alike.
func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

func TestDigestChangesWithEveryFile(t *testing.T) {
	d := dir(t, map[string]string{"v": "1"})
	src := around + "identity \"i\" {\n  trust_vector = \"signed\"\n  public_key = file(\"v\")\n}\n"
	a := mustLoad(t, d, src)
	write(t, filepath.Join(d, "v"), "2")
	b := mustLoad(t, d, src)
	other := mustLoad(t, dir(t, map[string]string{"v": "2"}), src)
	if a.Digest == b.Digest || b.Digest != other.Digest {
		t.Errorf("digests: %s, with another file %s, and the same elsewhere %s", a.Digest, b.Digest, other.Digest)
	}
}

// TestRefused holds single mistakes, each in an otherwise right file, against
// the line and the words that report them.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		src  string // appended to around, whose last line is 9
		line int
		want []string
	}{
		"policy without scope":    {"policy \"p\" {\n  syscalls = []\n}\n", 11, []string{`["*"]`}},
		"policy empty plugins":    {"policy \"p\" {\n  syscalls = [\"*\"]\n  plugins = []\n}\n", 12, []string{"empty list"}},
		"policy unknown group":    {"policy \"p\" {\n  syscalls = [\"*\"]\n  groups = [\"g\"]\n}\n", 12, []string{`no group "g"`}},
		"policy bad pattern":      {"policy \"p\" {\n  syscalls = [\"*\"]\n  resources = [\"file:///a\",\n    \"file://x\"]\n}\n", 13, []string{"absolute guest path"}},
		"no position":             {"policy \"p\" {\n  syscalls = [\"*\"]\n  arg \"-1\" {}\n}\n", 12, []string{"position"}},
		"bad expression":          {"policy \"p\" {\n  syscalls = [\"*\"]\n  arg \"2\" {\n    deny = \"(\"\n  }\n}\n", 13, []string{"arg.2.deny"}},
		"no default engine":       {"engine \"wazero\" {}\nengine \"wasmer\" {}\n", 10, []string{"default = true"}},
		"two default engines":     {"engine \"wazero\" {\n  default = true\n}\nengine \"wasmer\" {\n  default = true\n}\n", 14, []string{`"wazero"`, ":10"}},
		"mounted twice":           {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  mount \"/d\" {\n    host = \".\"\n  }\n  mount \"/d\" {\n    host = \".\"\n  }\n}\n", 16, []string{"stands twice", ":13,3"}},
		"native with memory":      {"plugin \"p\" {\n  native = \"p.wasm\"\n  trust_level = \"core\"\n  sandbox = \"none\"\n  sha256 = \"" + sum("module") + "\"\n  limits {\n    memory = \"1MiB\"\n  }\n}\n", 16, []string{"not built yet for native"}},
		"two condition errors":    {"policy \"p\" {\n  syscalls = [\"*\"]\n  when = \"nobody && nothing\"\n}\n", 12, []string{"'nobody'", "'nothing'"}},
		"policies of one name":    {"policy \"p\" {\n  syscalls = [\"*\"]\n}\npolicy \"p\" {\n  syscalls = [\"*\"]\n}\n", 13, []string{":10,1"}},
		"label that is empty":     {"policy \"\" {\n  syscalls = [\"*\"]\n}\n", 10, []string{"no label"}},
		"second kernel":           {"kernel {\n  name = \"k\"\n  state_dir = \"s\"\n}\n", 10, []string{"stands twice", ":2,1"}},
		"label too many":          {"engine \"wazero\" \"x\" {}\n", 10, []string{"label too many"}},
		"signed without key":      {"identity \"i\" {\n  trust_vector = \"signed\"\n}\n", 10, []string{"public_key is missing"}},
		"root without key":        {"identity \"i\" {\n  trust_vector = \"root\"\n}\n", 11, []string{"kernel.root_public_key"}},
		"reserved identity":       {"identity \"plugin:p\" {\n  trust_vector = \"unverified\"\n}\n", 10, []string{"cannot be an identity"}},
		"option as block":         {"engine \"wazero\" {\n  default {}\n}\n", 11, []string{"not a block"}},
		"conditional":             {"engine \"wazero\" {\n  default = 1 == 1 ? true : false\n}\n", 11, []string{"not programs"}},
		"function":                {"engine \"wazero\" {\n  isolation = upper(\"a\")\n}\n", 11, []string{"upper"}},
		"env that is not text":    {"identity \"i\" {\n  trust_vector = env(\"NOT_TEXT\")\n}\n", 11, []string{"not text"}},
		"file that is a folder":   {"identity \"i\" {\n  trust_vector = file(\".\")\n}\n", 11, []string{"is a directory"}},
		"plugin with a bad name":  {"plugin \"a/b\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n}\n", 10, []string{"cannot name a plugin"}},
		"kept state in parallel":  {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  state = \"keep\"\n  limits {\n    instances = 2\n  }\n}\n", 15, []string{"one instance"}},
		"kept state in a pool":    {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  state = \"keep\"\n  pool {}\n}\n", 14, []string{"one instance"}},
		"native in a pool":        {"plugin \"p\" {\n  native = \"p.wasm\"\n  trust_level = \"core\"\n  sandbox = \"none\"\n  sha256 = \"" + sum("module") + "\"\n  pool {}\n}\n", 15, []string{"one process"}},
		"more idle than may be":   {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  pool {\n    max_idle = 0\n    min_idle = 1\n  }\n}\n", 15, []string{"min_idle is 1, pool.max_idle 0"}},
		"idle below zero":         {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  pool {\n    min_idle = -1\n  }\n}\n", 14, []string{"from 0 to"}},
		"native unpinned":         {"plugin \"p\" {\n  native = \"p.wasm\"\n  trust_level = \"core\"\n  sandbox = \"none\"\n}\n", 10, []string{"sha256 is missing"}},
		"native without a jail":   {"plugin \"p\" {\n  native = \"p.wasm\"\n  trust_level = \"core\"\n  sha256 = \"" + sum("module") + "\"\n}\n", 10, []string{"sandbox is missing", "not built yet"}},
		"two artifacts":           {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  native = \"p.wasm\"\n  trust_level = \"core\"\n}\n", 10, []string{"two artifacts"}},
		"idle signature":          {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  signature = \"x\"\n}\n", 13, []string{"nothing can verify"}},
		"api of nobody":           {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  capabilities {\n    apis = [\"q/f\"]\n  }\n}\n", 14, []string{`no plugin "q"`}},
		"far above the level":     {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"limited\"\n  capabilities {\n    syscalls = [\"kv_get\",\n      \"proc_*\"]\n  }\n}\n", 15, []string{`"core"`}},
		"size out of range":       {"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  limits {\n    memory = \"99999999999GiB\"\n  }\n}\n", 14, []string{"out of range"}},
		"compiler without memory": {"compile {\n  memory = \"1MiB\"\n}\n", 11, []string{"at least 256MiB"}},
		"syntax":                  {"engine \"wazero\" {\n", 10, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, dir(t, map[string]string{"p.wasm": "module"}), around+c.src)
			var wrong *DiagnosticsError
			if !errors.As(err, &wrong) {
				t.Fatalf("Load: %v, want a DiagnosticsError", err)
			}
			ds := wrong.Diagnostics()
			if len(ds) != 1 {
				t.Errorf("%d diagnostics, want one:\n%v", len(ds), err)
			}
			if ds[0].Line != c.line {
				t.Errorf("line %d, want %d: %v", ds[0].Line, c.line, err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\ndoes not say %q", err, w)
				}
			}
		})
	}
}

func TestAuditKey(t *testing.T) {
	for options, want := range map[string]string{
		`key = env("KEY")`:      "",
		`key = file("k")`:       "",
		`key = (env("KEY"))`:    "",
		`key_file = "k"`:        "",
		`generate_key = true`:   "",
		`key = "${env("KEY")}"`: "is a secret",
		`key = "literal"`:       "is a secret",
		`key = env("EMPTY")`:    "audit.key is empty",
		`key = env("UNSET")`:    `"UNSET" is not set`,
		`key_file = "missing"`:  "does not exist",
		`generate_key = false`:  "audit has 0 of",
		``:                      "audit has 0 of",
		"key_file = \"k\"\n  generate_key = true": "audit has 2 of",
	} {
		d := dir(t, map[string]string{"k": "the key"})
		c, err := load(t, d, "kernel {\n  name = \"k\"\n  state_dir = \"s\"\n}\naudit {\n  dir = \"a\"\n  "+options+"\n}\n")
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", options, err)
		case want == "" && c.Audit.AllowGenerate != strings.Contains(options, "generate"):
			t.Errorf("%s: AllowGenerate is %v", options, c.Audit.AllowGenerate)
		case want == "" && !c.Audit.AllowGenerate && c.Audit.Key != "the key":
			t.Errorf("%s: the key is %q", options, c.Audit.Key)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", options, err, want)
		}
	}
}

func TestSignature(t *testing.T) {
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := dir(t, map[string]string{
		"p.wasm": "module", "good.minisig": string(minisign.Sign(private, []byte("module"))),
		"bad.minisig": string(minisign.Sign(private, []byte("another"))), "key.pub": public.String(),
	})
	src := func(vector, signature string) string {
		return strings.Replace(around, "kernel {", "kernel {\n  root_public_key = file(\"key.pub\")", 1) +
			"identity \"i\" {\n  trust_vector = \"" + vector + "\"\n  public_key = file(\"key.pub\")\n}\n" +
			"plugin \"p\" {\n  wasm = \"p.wasm\"\n  trust_level = \"core\"\n  identity = \"i\"\n  " + signature + "\n}\n"
	}
	for _, vector := range []string{"signed", "root"} {
		c := mustLoad(t, d, src(vector, `signature = file("good.minisig")`))
		if got := c.Plugins[0].Identity.Vector.String(); got != vector {
			t.Errorf("vector %s, want %s", got, vector)
		}
		if _, err := load(t, d, src(vector, `signature = file("bad.minisig")`)); err == nil || !strings.Contains(err.Error(), "the signature does not hold") {
			t.Errorf("%s with a wrong signature: %v", vector, err)
		}
		if _, err := load(t, d, src(vector, "")); err == nil || !strings.Contains(err.Error(), "needs a signature") {
			t.Errorf("%s without a signature: %v", vector, err)
		}
	}
}

func TestFileItself(t *testing.T) {
	d := dir(t, map[string]string{"big.hcl": strings.Repeat("#\n", maxFile), "latin.hcl": "# \xe9\n"})
	for path, want := range map[string]string{
		"none.hcl": "does not exist", ".": "is a directory", "big.hcl": "is larger than", "latin.hcl": "is not text",
	} {
		if _, err := Load(filepath.Join(d, path), testOptions()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestDeepNesting(t *testing.T) {
	deep := func(src string) bool {
		d, err := newDecoder("deep.hcl", testOptions())
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.load([]byte(src))
		return err != nil && strings.Contains(err.Error(), "nests too deep")
	}
	for _, unit := range []string{"(", "[", "!", "-", `"${`, "f(", "{a=", "1?", "(]", "<<E\n${", "%{if 1}"} {
		start := "x="
		if unit[0] == '%' {
			start = `x="`
		}
		if src := start + strings.Repeat(unit, 2*maxPrefix); !deep(src) {
			t.Errorf("%q %d times is not found to nest", unit, 2*maxPrefix)
		}
	}
	for _, unit := range []string{"a {\n", "a {\n]\n"} {
		if src := strings.Repeat(unit, 2*maxPrefix); !deep(src) {
			t.Errorf("%q %d times is not found to nest", unit, 2*maxPrefix)
		}
	}
	if src := strings.Repeat("a = [(\"${[1]}\")]\n", 2*maxPrefix); deep(src) {
		t.Error("what stands side by side is found to nest")
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]uint64{"1B": 1, "64KiB": 64 << 10, "64 MiB": 64 << 20, "4GiB": 4 << 30} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", s, got, err, want)
		}
	}
	for s, want := range map[string]string{"64MB": `"64MiB"`, "64m": `"64MiB"`, "1k": `"1KiB"`, "64": "not a size", "-1MiB": "not a size", "0MiB": "out of range", "1.5GiB": "not a size"} {
		if _, err := ParseSize(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", s, err, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, name := range []string{"testdata/mistakes.hcl", "../config.hcl.example"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("kernel {\n  name = <<E\n${env(\"KEY\")}\nE\n}\n"))
	f.Add([]byte("plugin \"p\" { custom = { (\"a\") = { \"${1}\" = [] } } }"))
	f.Fuzz(func(t *testing.T, src []byte) {
		d, err := newDecoder("testdata/fuzz.hcl", testOptions())
		if err != nil {
			t.Fatal(err)
		}
		c, err := d.load(src)
		if err == nil {
			if c == nil || c.Digest == "" || c.Kernel.StateDir == "" {
				t.Fatalf("no error, and the configuration %+v", c)
			}
			return
		}
		var wrong *DiagnosticsError
		if !errors.As(err, &wrong) {
			t.Fatal(err)
		}
		ds := wrong.Diagnostics()
		if !slices.IsSortedFunc(ds, func(a, b Diagnostic) int { return a.Line - b.Line }) {
			t.Errorf("not in the order of the file: %v", ds)
		}
		if err := wrong.Render(new(bytes.Buffer), 80, true); err != nil {
			t.Error(err)
		}
	})
}
