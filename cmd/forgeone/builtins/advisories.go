package builtins

import "slices"

// Reach says what an advisory means for a kernel.
type Reach string

// How far an advisory reaches.
const (
	Open        Reach = "open"        // a guest can run into it
	Mitigated   Reach = "mitigated"   // ForgeOne keeps guests from it
	Unreachable Reach = "unreachable" // it is in a part of the engine that is not used
)

// Advisory is a known fault of an engine's version.
type Advisory struct {
	ID      string `json:"id"` // of the upstream advisory, issue or this project's own finding
	Engine  string `json:"engine"`
	Version string `json:"version"` // of the engine that has it
	Fixed   string `json:"fixed"`   // the first version without it; empty: none yet
	Reach   Reach  `json:"reach"`
	Summary string `json:"summary"`
	// Advice is why it does not matter, or what to do about it.
	Advice string `json:"advice"`
	URL    string `json:"url,omitempty"`
}

// reviewed are the versions that the list of advisories was made for.
var reviewed = map[string]string{"wazero": "1.12.0", "wasmer": "1.0.4", "wasmtime": "44.0.0"}

// ReviewedOn is the day on which the public advisories were last read.
const ReviewedOn = "2026-11-24"

// Advisories lists what is known of a version of an engine, what is open first.
// False says that this version was not looked at.
func Advisories(engine, version string) ([]Advisory, bool) {
	var found []Advisory
	for _, a := range advisories {
		if a.Engine == engine && a.Version == version {
			found = append(found, a)
		}
	}
	order := []Reach{Open, Mitigated, Unreachable}
	slices.SortStableFunc(found, func(a, b Advisory) int {
		return slices.Index(order, a.Reach) - slices.Index(order, b.Reach)
	})
	return found, reviewed[engine] == version
}

const (
	noWASI = "no engine's own WASI is linked: guests get ForgeOne's, through the gate"
	inOwn  = "run it in a process of its own, which is the default"
)

var advisories = []Advisory{
	{
		ID: "wazero#2534", Engine: "wazero", Version: "1.12.0", Reach: Open,
		Summary: "on amd64 a select of two floats can yield neither of them, where registers run short",
		Advice:  "a guest then computes wrong numbers, and harms nobody else; mended upstream, not released yet: run guests that depend on floats on wasmtime",
		URL:     "https://github.com/wazero/wazero/issues/2534",
	},
	{
		ID: "wazero-compare-branch", Engine: "wazero", Version: "1.12.0", Reach: Open,
		Summary: "on amd64 a branch on 0 < x&y, with a constant 0 on the left, goes the wrong way (and likewise for other orders of integers)",
		Advice:  "a guest then computes wrongly, and harms nobody else; compilers put the constant on the right: run guests that depend on the last bit on wasmtime. Found by this project's random modules",
	},
	{
		ID: "wazero-active-segments", Engine: "wazero", Version: "1.12.0", Reach: Mitigated,
		Summary: "active data segments stay readable by memory.init after instantiation, where WebAssembly 2.0 has it trap",
		Advice:  "the meter empties such segments",
	},
	{
		ID: "CVE-2022-31104", Engine: "wasmer", Version: "1.0.4", Reach: Open,
		Summary: "Cranelift before 0.85.1, of which this Wasmer 2.0 has 0.74, miscompiles i8x16.swizzle and select of vectors on x86-64",
		Advice:  "run guests that use SIMD on wazero or wasmtime; wasmer-go has no newer release",
		URL:     "https://github.com/bytecodealliance/wasmtime/security/advisories/GHSA-jqwc-c49r-4w2x",
	},
	{
		ID: "wasmer-go-aborts", Engine: "wasmer", Version: "1.0.4", Reach: Mitigated,
		Summary: "the process aborts on a v128 or externref that crosses to the host, and on some uses of an imported table",
		Advice:  "the adapter refuses what is known to do so; " + inOwn,
	},
	{
		ID: "wasmer-go-leaks", Engine: "wasmer", Version: "1.0.4", Reach: Mitigated,
		Summary: "each module compiled leaks about 200 KB",
		Advice:  "a worker is replaced by age and memory; " + inOwn,
	},
	{
		ID: "CVE-2024-38358", Engine: "wasmer", Version: "1.0.4", Fixed: "Wasmer 4.3.2", Reach: Unreachable,
		Summary: "WASI follows symbolic links out of a preopened directory", Advice: noWASI,
		URL: "https://github.com/wasmerio/wasmer/security/advisories/GHSA-55f3-3qvg-8pv5",
	},
	{
		ID: "CVE-2026-44216", Engine: "wasmtime", Version: "44.0.0", Fixed: "44.0.1", Reach: Mitigated,
		Summary: "the process panics on a table larger than the address space",
		Advice:  "tables are clamped before the engine sees them; " + inOwn,
		URL:     "https://github.com/bytecodealliance/wasmtime/security/advisories/GHSA-p8xm-42r7-89xg",
	},
	{
		ID: "GHSA-hgjw-h833-99q9", Engine: "wasmtime", Version: "44.0.0", Fixed: "46.0.2", Reach: Mitigated,
		Summary: "a store that is given types of another engine mixes them up",
		Advice:  "the adapter links instances of one engine only",
		URL:     "https://github.com/bytecodealliance/wasmtime/security/advisories/GHSA-hgjw-h833-99q9",
	},
	{
		ID: "CVE-2026-47261", Engine: "wasmtime", Version: "44.0.0", Fixed: "44.0.2", Reach: Unreachable,
		Summary: "WASI truncates files without the right to write", Advice: noWASI,
		URL: "https://github.com/bytecodealliance/wasmtime/security/advisories/GHSA-2r75-cxrj-cmph",
	},
	{
		ID: "GHSA-3p27-qvp9-27qf", Engine: "wasmtime", Version: "44.0.0", Fixed: "44.0.3", Reach: Unreachable,
		Summary: "WASI leaks descriptors in fd_renumber", Advice: noWASI,
		URL: "https://github.com/bytecodealliance/wasmtime/security/advisories/GHSA-3p27-qvp9-27qf",
	},
	{
		ID: "CVE-2026-58494", Engine: "wasmtime", Version: "44.0.0", Fixed: "45.0.3", Reach: Unreachable,
		Summary: "WASI lets hard links and renames pass by a directory's rights", Advice: noWASI,
		URL: "https://github.com/bytecodealliance/wasmtime/security/advisories/GHSA-4ch3-9j33-3pmj",
	},
	{
		ID: "GHSA-vqjp-4c8c-hfgg", Engine: "wasmtime", Version: "44.0.0", Fixed: "46.0.3", Reach: Unreachable,
		Summary: "WASI leaves a preopened directory by a symbolic link with a trailing slash", Advice: noWASI,
		URL: "https://github.com/bytecodealliance/wasmtime/security/advisories/GHSA-vqjp-4c8c-hfgg",
	},
}
