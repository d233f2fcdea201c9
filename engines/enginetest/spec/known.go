package spec

import "slices"

// deviation is something that does not hold, and why.
type deviation struct {
	reason string
	engine string // "" for all
	mode   string // "" for all
	fatal  bool   // it ends the process, or hangs it, and is not tried
	at     []string
}

// known are assertions that do not hold, and modules that do not load, by
// version and file with line. What holds all the same counts as held.
var known = []deviation{
	{
		reason: "wasmer frees an instance whose segments trap, and functions of it stay in the table that it imported: to call one corrupts the heap",
		engine: "wasmer",
		fatal:  true,
		at:     []string{"v1/linking:236", "v1/linking:248", "v2/linking:275", "v2/linking:288"},
	},
	{
		reason: "version 2.0 made it valid: several results, several tables, typing of unreachable code",
		at:     []string{"v1/func:493", "v1/func:497", "v1/imports:310", "v1/imports:314", "v1/imports:318", "v1/type:53", "v1/type:57", "v1/unreached-invalid:539"},
	},
	{
		reason: "version 2.0 keeps what the segments before one that does not fit have written",
		at:     []string{"v1/linking:236", "v1/linking:248", "v1/linking:342", "v1/linking:354"},
	},
	{
		reason: "wazero leaves out an element segment that does not fit an imported table",
		engine: "wazero",
		at: []string{
			"v1/elem:186", "v1/elem:203", "v1/elem:220", "v1/elem:237", "v1/linking:207", "v1/linking:228",
			"v2/elem:281", "v2/elem:298", "v2/elem:315", "v2/elem:332", "v2/linking:244", "v2/linking:267",
		},
	},
	{
		reason: "wazero sees only at instantiation that a constant expression reads a global that is not constant",
		engine: "wazero",
		at:     []string{"v2/data:470", "v2/data:496", "v2/elem:458", "v2/elem:484", "v2/global:371"},
	},
	{
		reason: "wasmer ends the process when a function whose frame is larger than the guard page exhausts the stack",
		engine: "wasmer",
		fatal:  true,
		at: []string{
			"v1/skip-stack-guard-page:2275", "v1/skip-stack-guard-page:2276", "v1/skip-stack-guard-page:2277", "v1/skip-stack-guard-page:2278", "v1/skip-stack-guard-page:2279",
			"v1/skip-stack-guard-page:2280", "v1/skip-stack-guard-page:2281", "v1/skip-stack-guard-page:2282", "v1/skip-stack-guard-page:2283", "v1/skip-stack-guard-page:2284",
			"v2/skip-stack-guard-page:2275", "v2/skip-stack-guard-page:2276", "v2/skip-stack-guard-page:2277", "v2/skip-stack-guard-page:2278", "v2/skip-stack-guard-page:2279",
			"v2/skip-stack-guard-page:2280", "v2/skip-stack-guard-page:2281", "v2/skip-stack-guard-page:2282", "v2/skip-stack-guard-page:2283", "v2/skip-stack-guard-page:2284",
		},
	},
	{
		reason: "wasmer looks each of the hundreds of thousands of frames of an exhausted stack up among all modules that the process ever compiled, which may take minutes: a depth of calls keeps it from it",
		engine: "wasmer",
		mode:   "plain",
		fatal:  true,
		at:     []string{"v1/call:272", "v1/call:273", "v1/call_indirect:556", "v1/call_indirect:557", "v1/fac:89", "v2/call:337", "v2/call:338", "v2/call_indirect:585", "v2/call_indirect:586", "v2/fac:109"},
	},
	{
		reason: "wasmer does not compile vector instructions that came late: extmul, extadd, q15mulr, popcnt, widening of i32x4, conversions of f64x2",
		engine: "wasmer",
		at: []string{
			"v2/simd_conversions:3", "v2/simd_i16x8_extadd_pairwise_i8x16:4", "v2/simd_i16x8_extmul_i8x16:4", "v2/simd_i16x8_q15mulr_sat_s:4", "v2/simd_i32x4_extadd_pairwise_i16x8:4",
			"v2/simd_i32x4_extmul_i16x8:4", "v2/simd_i32x4_trunc_sat_f64x2:3", "v2/simd_i64x2_extmul_i32x4:4", "v2/simd_i8x16_arith2:3", "v2/simd_i8x16_arith2:494", "v2/simd_int_to_int_extend:3",
		},
	},
	{
		reason: "wasmer selects lanes of both vectors",
		engine: "wasmer",
		at:     []string{"v2/simd_select:10", "v2/simd_select:28", "v2/simd_select:46"},
	},
	{
		reason: "wasmer takes a constant expression that reads a global that is not imported",
		engine: "wasmer",
		at:     []string{"v2/data:89", "v2/data:93", "v2/elem:171", "v2/elem:175", "v2/global:352", "v2/global:356"},
	},
	{
		reason: "wasmer lets code refer to a function that nothing declares",
		engine: "wasmer",
		at:     []string{"v2/ref_func:113"},
	},
	{
		reason: "wasmer refuses a br_table in code that is not reached whose targets differ in type",
		engine: "wasmer",
		at:     []string{"v2/unreached-valid:49"},
	},
	{
		reason: "wasmer does not compile element segments of external references",
		engine: "wasmer",
		at:     []string{"v2/elem:664"},
	},
	{
		reason: "wasmer links a table by the size that it began with",
		engine: "wasmer",
		at:     []string{"v2/table_grow:117", "v2/table_grow:124"},
	},
	{
		reason: "wasmer does not find a table beside an imported one, and the adapter refuses it",
		engine: "wasmer",
		at:     []string{"v2/imports:381", "v2/table:12"},
	},
	{
		reason: "an external reference that could not cross the boundary is missed",
		engine: "wasmer",
		at:     []string{"v2/ref_is_null:41", "v2/table_get:31", "v2/table_grow:29"},
	},
}

// knownDeviation is what is known of an engine at a place, nil if nothing is.
func knownDeviation(engine, mode, at string) *deviation {
	for i := range known {
		k := &known[i]
		if (k.engine == "" || k.engine == engine) && (k.mode == "" || k.mode == mode) && slices.Contains(k.at, at) {
			return k
		}
	}
	return nil
}
