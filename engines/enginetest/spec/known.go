package spec

// known are assertions that do not hold for a reason that is known, by engine
// ("" for all), version and file with line. One that holds all the same counts
// as passed.
var known = []struct {
	reason string
	engine string
	at     []string
}{
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
}

// knownReason says why the assertion at a place is known not to hold.
func knownReason(engine, at string) (reason string, ok bool) {
	for _, k := range known {
		for _, a := range k.at {
			if a == at && (k.engine == "" || k.engine == engine) {
				return k.reason, true
			}
		}
	}
	return "", false
}
