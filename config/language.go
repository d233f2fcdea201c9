package config

import (
	"time"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// What a file decodes to, before references are resolved.
type (
	file struct {
		header
		kernels    []*kernelBlock
		engines    []*engineBlock
		compiles   []*compileBlock
		audits     []*auditBlock
		identities []*identityBlock
		policies   []*policyBlock
		plugins    []*pluginBlock
		secrets    []*secretBlock
		keys       []*keyBlock
	}
	kernelBlock struct {
		header
		name, stateDir, socket, rootPublicKey opt[string]
		enforcement                           opt[zta.Mode]
		idleMemory                            opt[uint64]
	}
	engineBlock struct {
		header
		standard  opt[bool]
		isolation opt[Isolation]
	}
	compileBlock struct {
		header
		cache             opt[bool]
		cacheDir          opt[string]
		cacheSize, memory opt[uint64]
		timeout           opt[time.Duration]
	}
	auditBlock struct {
		header
		dir, key, keyFile  opt[string]
		generateKey        opt[bool]
		durability         opt[audit.Durability]
		segmentSize        opt[uint64]
		checkpointEvery    opt[int]
		checkpointInterval opt[time.Duration]
	}
	identityBlock struct {
		header
		vector    opt[zta.TrustVector]
		publicKey opt[string]
		groups    opt[[]item]
	}
	policyBlock struct {
		header
		syscalls, plugins, identities, groups, resources opt[[]item]
		minTrustLevel                                    opt[capability.TrustLevel]
		minTrustScore                                    opt[float64]
		allowIdentities, denyIdentities                  opt[[]item]
		args                                             []*argBlock
		when, denyWhen                                   opt[string]
		onViolation                                      opt[zta.Outcome]
		mode                                             opt[zta.Mode]
	}
	argBlock struct {
		header
		match, deny opt[string]
	}
	pluginBlock struct {
		header
		wasm, native, sha256, version, engine, identity, signature opt[string]
		trustLevel                                                 opt[capability.TrustLevel]
		state                                                      opt[host.State]
		sandbox                                                    opt[host.Sandbox]
		abi                                                        opt[host.ABI]
		config                                                     opt[map[string]string]
		autostart                                                  opt[bool]
		capabilities                                               []*capabilitiesBlock
		mounts                                                     []*mountBlock
		limits                                                     []*limitsBlock
		pool                                                       []*poolBlock
	}
	secretBlock struct {
		header
		env, file opt[string]
	}
	keyBlock struct {
		header
		private, public opt[string]
	}
	capabilitiesBlock struct {
		header
		syscalls, resources, apis opt[[]item]
		custom                    opt[map[string]string]
	}
	mountBlock struct {
		header
		host     opt[string]
		writable opt[bool]
	}
	limitsBlock struct {
		header
		memory    opt[uint64]
		timeout   opt[time.Duration]
		fuel      opt[uint64]
		callDepth opt[uint32]
		instances opt[int]
	}
	poolBlock struct {
		header
		minIdle, maxIdle opt[int]
		idleTimeout      opt[time.Duration]
	}
)

// language is everything that can be written, option by option.
func language() *block {
	return &block{
		doc: "One file configures one kernel. What is left out is denied, off, or the default given here. " +
			"Relative paths are relative to the directory of the file.",
		blocks: []block{kernelLanguage(), engineLanguage(), compileLanguage(), auditLanguage(), identityLanguage(), policyLanguage(), pluginLanguage(), secretLanguage(), keyLanguage()},
		unbuilt: []unbuilt{
			{"node", "a node of the policy graph: a named group of plugins, identities or resources", "use the lists of a policy"},
			{"edge", "an edge of the policy graph: what one node may do to another", "use a policy whose lists name both sides"},
			{"group", "a group of identities declared by itself", "use groups of an identity"},
		},
	}
}

func kernelLanguage() block {
	return block{
		name: "kernel", required: true, add: into(func(f *file) *[]*kernelBlock { return &f.kernels }),
		doc: "The kernel as a whole.",
		options: []option{
			field("name", text, "names the kernel in its log's checkpoints; without spaces and plus signs",
				func(b *kernelBlock) *opt[string] { return &b.name }, required),
			field("state_dir", anyPath, "holds the histories and quarantine cases, and the lock that keeps a second kernel out; made if it is missing",
				func(b *kernelBlock) *opt[string] { return &b.stateDir }, required),
			field("socket", anyPath, "where the control API listens",
				func(b *kernelBlock) *opt[string] { return &b.socket }, standard("control.sock in state_dir")),
			field("enforcement", choice(
				word[zta.Mode]{text: "enforce", value: zta.Enforce},
				word[zta.Mode]{text: "audit", value: zta.Audit},
				word[zta.Mode]{text: "permissive", value: zta.Permissive},
			), "what a violation does: enforce denies the call; audit lets it proceed, on record as blocked, and counts it in the plugin's history; permissive does not count it either",
				func(b *kernelBlock) *opt[zta.Mode] { return &b.enforcement }, standard("enforce")),
			field("idle_memory", size, "memory that the idle instances of all plugins may have together; what is beyond it does not wait for a call",
				func(b *kernelBlock) *opt[uint64] { return &b.idleMemory }, standard("1GiB")),
			field("root_public_key", text, "minisign public key that signs the artifacts of identities with the root trust vector",
				func(b *kernelBlock) *opt[string] { return &b.rootPublicKey }),
		},
	}
}

func engineLanguage() block {
	return block{
		name: "engine", label: "the engine's name", many: true, add: into(func(f *file) *[]*engineBlock { return &f.engines }),
		doc: "A WASM engine that plugins may use. With no engine block there is the one that is built in.",
		options: []option{
			field("default", boolean, "plugins that name no engine use this one; needed where there are several engines",
				func(b *engineBlock) *opt[bool] { return &b.standard }, standard("true for a single engine")),
			field("isolation", choice(
				word[Isolation]{text: "in-process", value: InProcess},
				word[Isolation]{text: "process", value: Process},
			), "whether the engine runs in the kernel's process or, by forgeone-engine-NAME beside the binary, in one of its own, where its crash is not the kernel's",
				func(b *engineBlock) *opt[Isolation] { return &b.isolation }, standard("in-process for wazero, process for the others")),
		},
	}
}

func compileLanguage() block {
	return block{
		name: "compile", add: into(func(f *file) *[]*compileBlock { return &f.compiles }),
		doc: "How WASM modules are compiled: each in a process of its own, within limits, unless it is tiny; and what becomes of the machine code.",
		options: []option{
			field("timeout", duration, "time that compiling a module may take, after which it does not load",
				func(b *compileBlock) *opt[time.Duration] { return &b.timeout }, standard("1m")),
			field("memory", size, "memory that compiling a module may take, beyond which it does not load; outside Linux it holds for wazero alone",
				func(b *compileBlock) *opt[uint64] { return &b.memory }, standard("2GiB")),
			field("cache", boolean, "keeps the machine code of modules, authenticated by a key in state_dir, so that a module is compiled once",
				func(b *compileBlock) *opt[bool] { return &b.cache }, standard("true")),
			field("cache_dir", anyPath, "where the machine code is kept, in a directory for each engine; made if it is missing, not used if others can write to it",
				func(b *compileBlock) *opt[string] { return &b.cacheDir }, standard("cache in state_dir")),
			field("cache_size", size, "of what is kept for an engine; what was used longest ago goes first",
				func(b *compileBlock) *opt[uint64] { return &b.cacheSize }, standard("1GiB")),
		},
	}
}

func auditLanguage() block {
	return block{
		name: "audit", required: true, add: into(func(f *file) *[]*auditBlock { return &f.audits }),
		doc: "The log of everything that was asked for and decided. It needs exactly one of key, key_file and generate_key.",
		options: []option{
			field("dir", anyPath, "the directory of the log; made if it is missing",
				func(b *auditBlock) *opt[string] { return &b.dir }, required),
			field("key", text, "the signer key of checkpoints",
				func(b *auditBlock) *opt[string] { return &b.key }, secret),
			field("key_file", filePath, "the file that holds the signer key of checkpoints",
				func(b *auditBlock) *opt[string] { return &b.keyFile }),
			field("generate_key", boolean, "lets the log make its own key, in its directory: whoever owns the directory can then rewrite the whole log unseen",
				func(b *auditBlock) *opt[bool] { return &b.generateKey }, standard("false")),
			field("durability", choice(
				word[audit.Durability]{text: "process", value: audit.Process},
				word[audit.Durability]{text: "disk", value: audit.Disk},
			), "what each record survives before its effect happens: process, the death of the kernel; disk, the loss of power. Privileged effects wait for the disk with either",
				func(b *auditBlock) *opt[audit.Durability] { return &b.durability }, standard("process")),
			field("segment_size", size, "size of a file of the log, reserved when it is made",
				func(b *auditBlock) *opt[uint64] { return &b.segmentSize }, standard("16MiB")),
			field("checkpoint_every", count, "records after which a checkpoint is signed",
				func(b *auditBlock) *opt[int] { return &b.checkpointEvery }, standard("65536")),
			field("checkpoint_interval", duration, "time after which new records are covered by a checkpoint",
				func(b *auditBlock) *opt[time.Duration] { return &b.checkpointInterval }, standard("1s")),
		},
		unbuilt: []unbuilt{
			{"sink", "a place that records are sent to as well", "ship the files of dir, which are JSON lines"},
			{"witness", "a witness that cosigns checkpoints", ""},
		},
	}
}

func identityLanguage() block {
	return block{
		name: "identity", label: "the identity: a SPIFFE ID or a name of your own", many: true, add: into(func(f *file) *[]*identityBlock { return &f.identities }),
		doc: "Who a plugin is. A plugin without an identity is plugin:NAME, unverified.",
		options: []option{
			field("trust_vector", choice(
				word[zta.TrustVector]{text: "root", value: zta.Root},
				word[zta.TrustVector]{text: "signed", value: zta.Signed},
				word[zta.TrustVector]{text: "unverified", value: zta.Unverified},
				word[zta.TrustVector]{text: "compromised", value: zta.Compromised},
				word[zta.TrustVector]{text: "enclave", unbuilt: "this version cannot verify the attestation of an enclave"},
				word[zta.TrustVector]{text: "edge_gateway", unbuilt: "this version cannot verify the certificate of an edge gateway"},
			), "how the identity is known: root and signed are verified by a minisign signature of the artifact; compromised may do nothing",
				func(b *identityBlock) *opt[zta.TrustVector] { return &b.vector }, required),
			field("public_key", text, "minisign public key that signs the identity's artifacts; required for signed",
				func(b *identityBlock) *opt[string] { return &b.publicKey }),
			field("groups", list, "groups of the identity, which policies may name",
				func(b *identityBlock) *opt[[]item] { return &b.groups }),
		},
	}
}

func policyLanguage() block {
	return block{
		name: "policy", label: "the policy's name", many: true, add: into(func(f *file) *[]*policyBlock { return &f.policies }),
		doc: "A rule. syscalls, plugins, identities, groups and resources are its scope; all else is a requirement. " +
			"A call is allowed if a policy is in scope and every requirement of every policy in scope holds. Names may hold *.",
		options: []option{
			field("syscalls", list, "the syscalls it is about; [\"*\"] for all",
				func(b *policyBlock) *opt[[]item] { return &b.syscalls }, required),
			field("plugins", list, "the plugins it is about", func(b *policyBlock) *opt[[]item] { return &b.plugins }, standard("all")),
			field("identities", list, "the identities it is about", func(b *policyBlock) *opt[[]item] { return &b.identities }, standard("all")),
			field("groups", list, "the groups it is about; an identity needs to be in one", func(b *policyBlock) *opt[[]item] { return &b.groups }, standard("all")),
			field("resources", list, "patterns of the resources it is about", func(b *policyBlock) *opt[[]item] { return &b.resources }, standard("all")),
			field("min_trust_level", level, "lowest trust level that meets it", func(b *policyBlock) *opt[capability.TrustLevel] { return &b.minTrustLevel }),
			field("min_trust_score", fraction, "lowest trust score that meets it", func(b *policyBlock) *opt[float64] { return &b.minTrustScore }),
			field("allow_identities", list, "identities that meet it; [] for none", func(b *policyBlock) *opt[[]item] { return &b.allowIdentities }, standard("all")),
			field("deny_identities", list, "identities that do not meet it", func(b *policyBlock) *opt[[]item] { return &b.denyIdentities }),
			field("when", text, "a CEL condition that must be true", func(b *policyBlock) *opt[string] { return &b.when }),
			field("deny_when", text, "a CEL condition that must be false", func(b *policyBlock) *opt[string] { return &b.denyWhen }),
			field("on_violation", choice(
				word[zta.Outcome]{text: "block", value: zta.Block},
				word[zta.Outcome]{text: "freeze", value: zta.Freeze},
				word[zta.Outcome]{text: "quarantine", value: zta.Quarantine},
			), "what a call that does not meet it brings about: block denies the call, freeze pauses the plugin for review, quarantine stops it",
				func(b *policyBlock) *opt[zta.Outcome] { return &b.onViolation }, standard("block")),
			field("mode", choice(
				word[zta.Mode]{text: "enforce", value: zta.Enforce},
				word[zta.Mode]{text: "audit", value: zta.Audit},
			), "audit reports violations and changes nothing: such a policy never counts as the one that allows",
				func(b *policyBlock) *opt[zta.Mode] { return &b.mode }, standard("enforce")),
		},
		blocks: []block{{
			name: "arg", label: `the argument's position, from "0"`, many: true, add: into(func(b *policyBlock) *[]*argBlock { return &b.args }),
			doc: "What an argument must look like; one that is missing violates. Argument 0 of every file_* is the absolute path in the guest. Expressions are RE2, unanchored.",
			options: []option{
				field("match", text, "a regular expression that must match", func(b *argBlock) *opt[string] { return &b.match }),
				field("deny", text, "a regular expression that must not match", func(b *argBlock) *opt[string] { return &b.deny }),
			},
		}},
		unbuilt: []unbuilt{
			{"rate", "how many calls in what time", "deny_when can bound dna.calls and dna.denials_1m"},
			{"window", "the times of day in which calls are allowed", "when can compare now"},
			{"obligations", "what must be done with an allowed call", ""},
			{"contain", "which families of syscalls a violation denies for as long as the container lives", `use on_violation = "freeze"`},
		},
	}
}

func pluginLanguage() block {
	return block{
		name: "plugin", label: "the plugin's name", many: true, add: into(func(f *file) *[]*pluginBlock { return &f.plugins }),
		doc: "A plugin: exactly one of wasm and native, and what it may do.",
		options: []option{
			field("wasm", filePath, "the WASM module", func(b *pluginBlock) *opt[string] { return &b.wasm }),
			field("native", filePath, "the executable of a native plugin", func(b *pluginBlock) *opt[string] { return &b.native }),
			field("sha256", digest, "of the artifact, which is not loaded if it is another; required for native",
				func(b *pluginBlock) *opt[string] { return &b.sha256 }),
			field("version", text, "the author's own version, for people", func(b *pluginBlock) *opt[string] { return &b.version }),
			field("engine", text, "the engine of a WASM plugin", func(b *pluginBlock) *opt[string] { return &b.engine }, standard("the default engine")),
			field("abi", choice(
				word[host.ABI]{text: "forge/1", value: host.ABIForge},
				word[host.ABI]{text: "extism", value: host.ABIExtism},
				word[host.ABI]{text: "core", value: host.ABICore},
			), "how a WASM plugin is spoken to: Extism plugins that import nothing of Extism's need it", func(b *pluginBlock) *opt[host.ABI] { return &b.abi }, standard("what the module shows")),
			field("identity", text, "the identity block that says who it is", func(b *pluginBlock) *opt[string] { return &b.identity }, standard("plugin:NAME, unverified")),
			field("trust_level", level, "ceiling of its trust: its score can only lower it, and it bounds what capabilities may grant",
				func(b *pluginBlock) *opt[capability.TrustLevel] { return &b.trustLevel }, required),
			field("signature", text, "the minisign signature of the artifact: file(\"….minisig\")", func(b *pluginBlock) *opt[string] { return &b.signature }),
			field("state", choice(
				word[host.State]{text: "pristine", value: host.StatePristine},
				word[host.State]{text: "keep", value: host.StateKeep},
			), "of a WASM plugin: pristine gives each call an instance of its own, as initialisation left it; keep lets one instance serve all calls, one after the other",
				func(b *pluginBlock) *opt[host.State] { return &b.state }, standard("pristine for forge/1, keep for Extism plugins and plain exports")),
			field("sandbox", choice(
				word[host.Sandbox]{text: "none", value: host.SandboxNone},
				word[host.Sandbox]{text: "strict", unbuilt: "this version has no jail for native plugins"},
				word[host.Sandbox]{text: "standard", unbuilt: "this version has no jail for native plugins"},
			), "how a native plugin is jailed; required for native, because none gives it the rights of the kernel's user",
				func(b *pluginBlock) *opt[host.Sandbox] { return &b.sandbox }),
			field("config", table, "what an Extism plugin reads by config_get", func(b *pluginBlock) *opt[map[string]string] { return &b.config }),
			field("autostart", boolean, "starts it when the kernel comes up", func(b *pluginBlock) *opt[bool] { return &b.autostart }, standard("true")),
		},
		blocks: []block{
			{
				name: "capabilities", add: into(func(b *pluginBlock) *[]*capabilitiesBlock { return &b.capabilities }),
				doc: "What the plugin may ever do; policies allow within it. Without the block it may do nothing.",
				options: []option{
					field("syscalls", list, "syscalls, which may hold *; none above trust_level", func(b *capabilitiesBlock) *opt[[]item] { return &b.syscalls }, standard("none")),
					field("resources", list, "patterns of resources: file:///data/** (paths in the guest), env://NAME", func(b *capabilitiesBlock) *opt[[]item] { return &b.resources }, standard("none")),
					field("apis", list, "functions of other plugins, plugin/function", func(b *capabilitiesBlock) *opt[[]item] { return &b.apis }, standard("none")),
					field("custom", table, "attributes that conditions of policies read as custom", func(b *capabilitiesBlock) *opt[map[string]string] { return &b.custom }),
				},
			},
			{
				name: "mount", label: "the absolute path in the guest", many: true, add: into(func(b *pluginBlock) *[]*mountBlock { return &b.mounts }),
				doc: "Lends a directory of the host to the plugin. What it may open in it is for capabilities to say.",
				options: []option{
					field("host", dirPath, "the directory", func(b *mountBlock) *opt[string] { return &b.host }, required),
					field("mode", choice(word[bool]{text: "ro"}, word[bool]{text: "rw", value: true}), "ro for reading only, rw for writing too",
						func(b *mountBlock) *opt[bool] { return &b.writable }, standard("ro")),
				},
			},
			{
				name: "limits", add: into(func(b *pluginBlock) *[]*limitsBlock { return &b.limits }),
				doc: "Bounds of the plugin.",
				options: []option{
					field("memory", size, "linear memory of an instance of a WASM plugin", func(b *limitsBlock) *opt[uint64] { return &b.memory }, standard("256MiB")),
					field("timeout", timeout, "time that a call may take", func(b *limitsBlock) *opt[time.Duration] { return &b.timeout }, standard("30s")),
					field("fuel", fuel, "instructions that a call of a WASM plugin may take; a length of memory costs a unit for 8 bytes", func(b *limitsBlock) *opt[uint64] { return &b.fuel }, standard("no limit")),
					field("call_depth", callDepth, "how deep calls of functions of a WASM plugin that call themselves, directly or by others, may be nested", func(b *limitsBlock) *opt[uint32] { return &b.callDepth }, standard("what the engine's stack holds; 10000 on wasmer")),
					field("instances", count, "calls at the same time", func(b *limitsBlock) *opt[int] { return &b.instances }, standard("4 for pristine, 1 for kept state, 64 for native")),
				},
			},
			{
				name: "pool", add: into(func(b *pluginBlock) *[]*poolBlock { return &b.pool }),
				doc: "Instances of a pristine plugin that wait for a call. One that served a call is put back to how initialisation left it first, where the engine can; what cannot be put back does not wait.",
				options: []option{
					field("min_idle", anyCount, "instances that are made ahead", func(b *poolBlock) *opt[int] { return &b.minIdle }, standard("0")),
					field("max_idle", anyCount, "instances that wait at most; 0 makes a new one for each call", func(b *poolBlock) *opt[int] { return &b.maxIdle }, standard("limits.instances, or min_idle if that is more")),
					field("idle_timeout", duration, "time after which one that waits above min_idle is closed", func(b *poolBlock) *opt[time.Duration] { return &b.idleTimeout }, standard("1m")),
				},
			},
		},
		unbuilt: []unbuilt{
			{"runtime", "files that the jail of a native plugin shows it", ""},
			{"audit", "whether repeated records are folded", ""},
		},
	}
}

func secretLanguage() block {
	return block{
		name: "secret", label: "the name that a plugin asks for", many: true, add: into(func(f *file) *[]*secretBlock { return &f.secrets }),
		doc: "A secret that plugins may get by secret_get: exactly one of env and file. A plugin needs the resource secret://NAME. It is read each time that it is asked for.",
		options: []option{
			field("env", text, "the environment variable of the kernel that holds it", func(b *secretBlock) *opt[string] { return &b.env }),
			field("file", anyPath, "the file that holds it; a line end at its end is not part of it", func(b *secretBlock) *opt[string] { return &b.file }),
		},
	}
}

func keyLanguage() block {
	return block{
		name: "key", label: "the name that a plugin asks for", many: true, add: into(func(f *file) *[]*keyBlock { return &f.keys }),
		doc: "An Ed25519 key that plugins sign or verify with and never see. A plugin needs the resource key://NAME. Made by openssl genpkey -algorithm ed25519.",
		options: []option{
			field("private", text, "the private key, PKCS #8 in PEM, to sign with", func(b *keyBlock) *opt[string] { return &b.private }, secret),
			field("public", text, "the public key, SubjectPublicKeyInfo in PEM, to verify with", func(b *keyBlock) *opt[string] { return &b.public }, standard("that of private")),
		},
	}
}
