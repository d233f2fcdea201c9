package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// implicit begins the identity of a plugin that has none: "plugin:NAME".
const implicit = "plugin:"

// resolver makes a Config of a decoded file: references become what they refer
// to, and what only makes sense together is checked together.
type resolver struct {
	*decoder
	file *file
	out  Config
}

func (r *resolver) config() *Config {
	r.kernel()
	r.engines()
	r.compile()
	r.audit()
	r.identities()
	for _, b := range r.file.plugins {
		r.plugin(b)
	}
	r.policies()
	r.secrets()
	r.keys()
	return &r.out
}

// first is the first block of a list, or a blank one that left everything out.
func first[B any](list []*B) *B {
	if len(list) == 0 {
		return new(B)
	}
	return list[0]
}

func (r *resolver) kernel() {
	b := first(r.file.kernels)
	if b.name.ok && (b.name.value == "" || strings.ContainsAny(b.name.value, " +\t\r\n")) {
		r.fail(b.name.at, fmt.Sprintf("%q cannot name a kernel", b.name.value), "want a name without spaces and plus signs: it stands in the checkpoints of the log")
	}
	k := Kernel{
		Name: b.name.value, StateDir: b.stateDir.value, Socket: b.socketPath(),
		Enforcement: b.enforcement.value, RootPublicKey: b.rootPublicKey.value, IdleMemory: b.idleMemory.value,
	}
	r.out.Kernel = k
}

func (r *resolver) engines() {
	var standard *engineBlock
	unclear := false
	for _, b := range r.file.engines {
		if b.label != "" && !slices.Contains(r.opts.Engines, b.label) {
			r.fail(b.labelAt, fmt.Sprintf("there is no engine %q", b.label),
				didYouMean(b.label, r.opts.Engines)+"this build has: "+strings.Join(r.opts.Engines, ", "))
		}
		if b.standard.value {
			if standard != nil {
				r.fail(b.standard.at, "a second default engine", fmt.Sprintf("engine %q at %s is the default: one of them must not be", standard.label, standard.origin))
			}
			standard = b
		}
		unclear = unclear || b.standard.given && !b.standard.ok
		r.out.Engines = append(r.out.Engines, Engine{Name: b.label, Default: b.standard.value, Isolation: b.isolation.value})
	}
	switch {
	case standard != nil:
		i := slices.IndexFunc(r.out.Engines, func(e Engine) bool { return e.Default })
		r.out.Engines[0], r.out.Engines[i] = r.out.Engines[i], r.out.Engines[0]
	case len(r.file.engines) == 1 && !r.file.engines[0].standard.given:
		r.out.Engines[0].Default = true
	case len(r.file.engines) > 0 && !unclear:
		r.fail(r.file.engines[0].at, "no engine is the default", "write default = true in one of them")
	}
}

// leastCompileMemory is what a compiler needs before it has seen a module.
const leastCompileMemory = 256 << 20

func (r *resolver) compile() {
	b := first(r.file.compiles)
	c := Compile{Timeout: b.timeout.value, Memory: b.memory.value, CacheDir: b.cacheDir.value, CacheSize: b.cacheSize.value}
	if b.memory.ok && c.Memory < leastCompileMemory {
		r.fail(b.memory.at, "compile.memory is too small", fmt.Sprintf("want at least %dMiB", leastCompileMemory>>20))
	}
	switch off := b.cache.ok && !b.cache.value; {
	case off:
		c.CacheDir = ""
	case c.CacheDir == "" && r.out.Kernel.StateDir != "":
		c.CacheDir = filepath.Join(r.out.Kernel.StateDir, "cache")
	}
	r.out.Compile = c
}

func (r *resolver) audit() {
	b := first(r.file.audits)
	o := audit.Options{
		Dir: b.dir.value, Key: b.key.value, Durability: b.durability.value,
		SegmentSize: int64(b.segmentSize.value), CheckpointEvery: uint64(b.checkpointEvery.value), CheckpointInterval: b.checkpointInterval.value,
	}
	if least := 2 * audit.MaxLine; b.segmentSize.ok && o.SegmentSize < int64(least) {
		r.fail(b.segmentSize.at, "audit.segment_size is too small", fmt.Sprintf("want at least %dKiB", least>>10))
	}
	if b.keyFile.ok {
		text, err := r.decoder.file(b.keyFile.value)
		if err != nil {
			r.fail(b.keyFile.at, err.Error(), "want a file with the signer key of the log's checkpoints")
		}
		o.Key = text
	}
	keys := 0
	for _, given := range []bool{b.key.given, b.keyFile.given, b.generateKey.value} {
		if given {
			keys++
		}
	}
	switch {
	case len(r.file.audits) == 0 || b.generateKey.given && !b.generateKey.ok:
	case keys != 1:
		r.fail(b.at, fmt.Sprintf("audit has %d of key, key_file and generate_key", keys),
			"checkpoints are signed with one key: key_file = \"path\" or key = env(\"NAME\"), or generate_key = true for one that lies beside the log")
	case b.key.ok && o.Key == "":
		r.fail(b.key.at, "audit.key is empty", "want the signer key of the log's checkpoints")
	}
	if b.generateKey.value {
		o.AllowGenerate, o.Name = true, "forgeone/"+r.out.Kernel.Name
	}
	r.out.Audit = o
}

func (r *resolver) identities() {
	r.out.Identities = map[string]zta.IdentitySpec{}
	for _, b := range r.file.identities {
		switch {
		case b.vector.value == zta.Signed && !b.publicKey.given:
			r.fail(b.at, fmt.Sprintf("identity %q is signed by no key", b.label), "public_key is missing: the minisign public key that signs its artifacts")
		case b.vector.value == zta.Root && !first(r.file.kernels).rootPublicKey.given:
			r.fail(b.vector.at, "the root trust vector without a root key", "kernel.root_public_key is missing: the minisign public key that signs its artifacts")
		case strings.HasPrefix(b.label, implicit):
			r.fail(b.labelAt, fmt.Sprintf("%q cannot be an identity", b.label), implicit+"… are the identities of plugins that have none: choose another name")
		}
		r.out.Identities[b.label] = zta.IdentitySpec{
			ID: b.label, Vector: b.vector.value, PublicKey: b.publicKey.value, Groups: texts(b.groups.value),
		}
	}
}

func (r *resolver) plugin(b *pluginBlock) {
	p := host.PluginConfig{
		Name: b.label, Version: b.version.value, Origin: b.origin,
		WasmModule: b.wasm.value, NativeLibrary: b.native.value, SHA256: b.sha256.value, Signature: []byte(b.signature.value),
		Engine: b.engine.value, TrustLevel: b.trustLevel.value, State: b.state.value, Sandbox: b.sandbox.value, ABI: b.abi.value, Config: b.config.value,
		Autostart: b.autostart.value || !b.autostart.given,
	}
	if strings.ContainsAny(b.label, "/\\ \t\n\x00*") {
		r.fail(b.labelAt, fmt.Sprintf("%q cannot name a plugin", b.label), "want a name without slashes, stars and spaces")
	}
	r.kindOfPlugin(b)
	if b.engine.ok && !slices.ContainsFunc(r.file.engines, func(e *engineBlock) bool { return e.label == b.engine.value }) {
		var names []string
		for _, e := range r.file.engines {
			names = append(names, e.label)
		}
		r.fail(b.engine.at, fmt.Sprintf("engine %q is not declared", b.engine.value),
			fmt.Sprintf("%sdeclare it: engine %q {}", didYouMean(b.engine.value, names), b.engine.value))
	}
	p.Identity = r.identityOf(b)
	r.artifact(b, p.Identity)
	p.Capabilities = r.capabilities(b)
	for _, m := range b.mounts {
		if !path.IsAbs(m.label) || path.Clean(m.label) != m.label {
			r.fail(m.labelAt, fmt.Sprintf("%q is no path of a guest", m.label), `want an absolute, clean path such as "/data"`)
		}
		p.Mounts = append(p.Mounts, host.Mount{Guest: m.label, Host: m.host.value, ReadOnly: !m.writable.value})
	}
	l := first(b.limits)
	p.Limits = host.Limits{Memory: l.memory.value, Timeout: l.timeout.value, Fuel: l.fuel.value, CallDepth: l.callDepth.value, Instances: l.instances.value}
	p.Pool = r.pool(b)
	r.out.Plugins = append(r.out.Plugins, p)
}

// pool is which instances of a plugin wait for calls.
func (r *resolver) pool(b *pluginBlock) host.Pool {
	o := first(b.pool)
	p := host.Pool{MinIdle: o.minIdle.value, MaxIdle: o.maxIdle.value, IdleTimeout: o.idleTimeout.value}
	if o.maxIdle.ok && p.MinIdle > p.MaxIdle {
		r.fail(o.minIdle.at, fmt.Sprintf("pool.min_idle is %d, pool.max_idle %d", p.MinIdle, p.MaxIdle), "want at most max_idle")
	}
	if o.maxIdle.ok && p.MaxIdle == 0 {
		p.MaxIdle = host.NoIdle
	}
	return p
}

// kindOfPlugin checks what a WASM plugin and a native one may each have.
func (r *resolver) kindOfPlugin(b *pluginBlock) {
	l := first(b.limits)
	pooled := len(b.pool) > 0
	refuse := func(given bool, at hcl.Range, option, why string) {
		if given {
			r.fail(at, fmt.Sprintf("%s is not for this plugin", option), why)
		}
	}
	need := func(given bool, option, why string) {
		if !given {
			r.fail(b.at, fmt.Sprintf("plugin.%s is missing", option), why)
		}
	}
	switch {
	case b.wasm.given && b.native.given:
		r.fail(b.at, fmt.Sprintf("plugin %q has two artifacts", b.label), "set either wasm or native")
	case b.native.given:
		need(b.sha256.given, "sha256", "a native plugin is loaded only as the very file that was meant: take it with sha256sum")
		need(b.sandbox.given, "sandbox", `the default, "strict", is not built yet, and a native plugin never runs with less than was asked for: sandbox = "none" runs it with the rights of the kernel's user`)
		refuse(b.state.given, b.state.at, "state", "a native process keeps its own")
		refuse(b.engine.given, b.engine.at, "engine", "a native plugin runs on none")
		refuse(b.abi.given, b.abi.at, "abi", "a native plugin has its own")
		refuse(b.config.given, b.config.at, "config", "it is for Extism plugins")
		refuse(l.memory.given, l.memory.at, "limits.memory", "it is not built yet for native plugins")
		refuse(l.callDepth.given, l.callDepth.at, "limits.call_depth", "the calls of a process are not counted")
		refuse(l.fuel.given, l.fuel.at, "limits.fuel", "the instructions of a process are not counted: use limits.timeout")
		refuse(pooled, first(b.pool).at, "pool", "a native plugin has one process")
	case b.wasm.given:
		refuse(b.sandbox.given, b.sandbox.at, "sandbox", "a WASM plugin is always sandboxed")
		refuse(b.state.value == host.StateKeep && pooled, first(b.pool).at, "pool", `with state = "keep" one instance serves all calls`)
		refuse(b.state.value == host.StateKeep && l.instances.value > 1, l.instances.at, "limits.instances", `with state = "keep" one instance serves all calls: leave it out, or write 1`)
	default:
		r.fail(b.at, fmt.Sprintf("plugin %q has no artifact", b.label), "set wasm or native to its path")
	}
}

func (r *resolver) identityOf(b *pluginBlock) zta.IdentitySpec {
	if !b.identity.given {
		return zta.IdentitySpec{ID: implicit + b.label, Vector: zta.Unverified}
	}
	spec, ok := r.out.Identities[b.identity.value]
	if b.identity.ok && !ok {
		known := slices.Sorted(maps.Keys(r.out.Identities))
		r.fail(b.identity.at, fmt.Sprintf("identity %q is not declared", b.identity.value),
			fmt.Sprintf("%sdeclare it: identity %q { … }", didYouMean(b.identity.value, known), b.identity.value))
	}
	return spec
}

// artifact holds the artifact against its checksum and its signature. The host
// does so again with what it loads.
func (r *resolver) artifact(b *pluginBlock, id zta.IdentitySpec) {
	file := b.wasm
	if b.native.given {
		file = b.native
	}
	claims := id.Vector == zta.Signed || id.Vector == zta.Root
	switch {
	case claims && !b.signature.given:
		r.fail(b.identity.at, fmt.Sprintf("identity %q needs a signature of the artifact", id.ID),
			`sign it with minisign -S and write signature = file("….minisig")`)
	case !claims && b.signature.ok && id.PublicKey == "":
		r.fail(b.signature.at, "a signature that nothing can verify", "give the plugin an identity with the public_key that made it")
	}
	if !file.ok || !b.sha256.ok && !b.signature.ok {
		return
	}
	artifact, err := os.ReadFile(file.value)
	if err != nil {
		r.fail(file.at, plain(err, file.value).Error(), "the artifact must be readable")
		return
	}
	if actual := fmt.Sprintf("%x", sha256.Sum256(artifact)); b.sha256.ok && actual != b.sha256.value {
		r.fail(b.sha256.at, "the artifact has another SHA-256", fmt.Sprintf("%s has %s: if that is the file you mean, write this", file.value, actual))
	}
	if b.signature.ok && (id.PublicKey != "" || id.Vector == zta.Root) {
		if _, err := zta.Verify(id, artifact, []byte(b.signature.value), r.out.Kernel.RootPublicKey); err != nil {
			r.fail(b.signature.at, "the signature does not hold", err.Error())
		}
	}
}

func (r *resolver) capabilities(b *pluginBlock) capability.Set {
	c := first(b.capabilities)
	bad := len(r.diags)
	for _, e := range c.syscalls.value {
		if r.syscall(e) && b.trustLevel.ok {
			r.belowCeiling(e, b.trustLevel.value)
		}
	}
	r.patterns(c.resources.value)
	for _, e := range c.apis.value {
		plugin, function, ok := strings.Cut(e.text, "/")
		switch {
		case e.text == "*":
		case !ok || plugin == "" || function == "":
			r.fail(e.at, fmt.Sprintf("%q is no function of a plugin", e.text), "want plugin/function, in which both may hold *")
		default:
			r.known(item{plugin, e.at}, "plugin", r.pluginNames())
		}
	}
	if len(r.diags) > bad {
		return capability.Set{}
	}
	set, err := capability.New(capability.Grant{
		Syscalls: texts(c.syscalls.value), Resources: texts(c.resources.value), APIs: texts(c.apis.value), Custom: c.custom.value,
	})
	if err != nil {
		r.fail(c.at, "capabilities that cannot be granted", err.Error())
	}
	return set
}

// syscall reports whether an entry stands for a syscall that there is.
func (r *resolver) syscall(e item) bool {
	set, err := capability.New(capability.Grant{Syscalls: []string{e.text}})
	switch {
	case err != nil:
		r.fail(e.at, fmt.Sprintf("%q is no syscall", e.text), "want the name of a syscall, in which * stands for any run of characters")
	case len(set.Unknown(r.opts.Syscalls)) == 0:
		return true
	case strings.Contains(e.text, "*"):
		r.fail(e.at, fmt.Sprintf("%q matches no syscall", e.text), "the syscalls are: "+strings.Join(r.syscalls(), ", "))
	default:
		detail := didYouMean(e.text, r.syscalls())
		if detail == "" {
			detail = "the syscalls are: " + strings.Join(r.syscalls(), ", ")
		}
		r.fail(e.at, fmt.Sprintf("there is no syscall %q", e.text), strings.TrimSpace(detail))
	}
	return false
}

func (r *resolver) syscalls() []string { return slices.Sorted(maps.Keys(r.opts.Syscalls)) }

// belowCeiling checks that a plugin of the level may hold what the entry grants.
func (r *resolver) belowCeiling(e item, level capability.TrustLevel) {
	set, err := capability.New(capability.Grant{Syscalls: []string{e.text}})
	if err != nil || len(set.Above(level, r.opts.Syscalls)) == 0 {
		return
	}
	need := level + 1
	for need < capability.Core && len(set.Above(need, r.opts.Syscalls)) > 0 {
		need++
	}
	r.fail(e.at, fmt.Sprintf("%q is above trust level %q", e.text, level), fmt.Sprintf("it needs %q: raise trust_level, or do not grant it", need))
}

// patterns checks patterns of resources and returns those that are right.
func (r *resolver) patterns(items []item) []string {
	var out []string
	for _, e := range items {
		if _, err := capability.ParsePattern(e.text); err != nil {
			r.fail(e.at, "a pattern that matches no resource", err.Error())
			continue
		}
		out = append(out, e.text)
	}
	return out
}

// known checks that a name, unless it holds a *, is one there is.
func (r *resolver) known(e item, what string, names []string) {
	if strings.Contains(e.text, "*") || slices.Contains(names, e.text) {
		return
	}
	r.fail(e.at, fmt.Sprintf("there is no %s %q", what, e.text), didYouMean(e.text, names)+"a rule about nobody would be no rule, and nobody would notice")
}

func (r *resolver) pluginNames() []string {
	var names []string
	for _, b := range r.file.plugins {
		names = append(names, b.label)
	}
	return names
}

// policies resolves the policies and has them compiled, which checks the rest.
func (r *resolver) policies() {
	identities := slices.Collect(maps.Keys(r.out.Identities))
	var groups []string
	for _, b := range r.file.plugins {
		identities = append(identities, implicit+b.label)
	}
	for _, b := range r.file.identities {
		groups = append(groups, texts(b.groups.value)...)
	}
	compiled := map[string]*policyBlock{} // by origin
	for _, b := range r.file.policies {
		for _, list := range []struct {
			opt[[]item]
			what  string
			names []string
			empty string
		}{
			{b.syscalls, "", nil, `for all syscalls write ["*"]`},
			{b.plugins, "plugin", r.pluginNames(), "an empty list would mean all: leave the option out if all are meant"},
			{b.identities, "identity", identities, "an empty list would mean all: leave the option out if all are meant"},
			{b.groups, "group", groups, "an empty list would mean all: leave the option out if all are meant"},
			{b.resources, "", nil, "an empty list would mean all: leave the option out if all are meant"},
			{b.allowIdentities, "identity", identities, ""},
			{b.denyIdentities, "identity", identities, ""},
		} {
			if list.ok && len(list.value) == 0 && list.empty != "" {
				r.fail(list.at, "an empty list is no scope", list.empty)
			}
			for _, e := range list.value {
				if list.what != "" {
					r.known(e, list.what, list.names)
				}
			}
		}
		p := zta.Policy{
			Name: b.label, Origin: b.origin,
			Plugins: texts(b.plugins.value), Identities: texts(b.identities.value), Groups: texts(b.groups.value),
			Resources:     r.patterns(b.resources.value),
			MinTrustLevel: b.minTrustLevel.value, MinTrustScore: b.minTrustScore.value,
			DenyIdentities: texts(b.denyIdentities.value), Args: r.args(b),
			When: b.when.value, DenyWhen: b.denyWhen.value, OnViolation: b.onViolation.value, Mode: b.mode.value,
		}
		for _, e := range b.syscalls.value {
			if r.syscall(e) {
				p.Syscalls = append(p.Syscalls, e.text)
			}
		}
		if b.allowIdentities.given { // nil means all, empty means none
			p.AllowIdentities = texts(b.allowIdentities.value)
		}
		r.out.Policies = append(r.out.Policies, p)
		compiled[b.origin] = b
	}
	_, err := zta.Compile(r.out.Policies, zta.CompileOptions{Mode: r.out.Kernel.Enforcement, Syscalls: r.syscalls()})
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) {
		return
	}
	for _, err := range all.Unwrap() {
		var pe *zta.PolicyError
		if !errors.As(err, &pe) {
			r.fail(first(r.file.kernels).at, "the policies do not compile", err.Error())
			continue
		}
		b := compiled[pe.Origin]
		if pe.Field == "name" && (b.twin || b.label == "") {
			continue // reported when it was decoded
		}
		r.fail(b.rangeOf(pe.Field), fmt.Sprintf("policy %q: %s is wrong", pe.Policy, pe.Field), pe.Err.Error())
	}
}

func (r *resolver) args(b *policyBlock) map[int]zta.ArgConstraint {
	args := map[int]zta.ArgConstraint{}
	for _, a := range b.args {
		pos, err := strconv.Atoi(a.label)
		if err != nil || pos < 0 || strconv.Itoa(pos) != a.label {
			r.fail(a.labelAt, fmt.Sprintf("%q is no position of an argument", a.label), `positions count from "0"`)
			continue
		}
		args[pos] = zta.ArgConstraint{Match: a.match.value, Deny: a.deny.value}
	}
	return args
}

// rangeOf is where a field of a [zta.PolicyError] stands.
func (b *policyBlock) rangeOf(field string) hcl.Range {
	at := b.labelAt
	switch field {
	case "identities":
		at = b.identities.at
	case "allow_identities":
		at = b.allowIdentities.at
	case "deny_identities":
		at = b.denyIdentities.at
	case "plugins":
		at = b.plugins.at
	case "groups":
		at = b.groups.at
	case "when":
		at = b.when.at
	case "deny_when":
		at = b.denyWhen.at
	}
	for _, a := range b.args {
		switch strings.TrimPrefix(field, "arg."+a.label) {
		case ".match":
			at = a.match.at
		case ".deny":
			at = a.deny.at
		}
	}
	return at
}
