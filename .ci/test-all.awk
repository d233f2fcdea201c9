# Counts what the engines' suites say that they ran, and fails when a test
# failed or when one of the engines did not run all of a suite.

/^(FAIL|panic|--- FAIL)/ { failed = 1 }

/enginetest: engine=.* cases=/ { cases[field("engine")] += field("cases") }

/enginetest: engine=.* spec=/ {
	e = field("engine")
	ran[e, field("mode"), field("spec")] = 1
	assertions[e] += field("assertions")
	held[e] += field("held")
}

/enginetest\/diff: engine=/ { compared[field("engine")] = 1 }

END {
	engines = split("wazero wasmer wasmtime", name)
	modes = split("plain deadline fuel", mode)
	for (i = 1; i <= engines; i++) {
		e = name[i]
		printf "%s: %d cases of the conformance suite, %d assertions of the specification, of which %d held\n", e, cases[e], assertions[e], held[e]
		if (!cases[e]) missing(e " did not run the conformance suite")
		if (!compared[e]) missing(e " was not compared with another engine")
		for (m = 1; m <= modes; m++)
			for (v = 1; v <= 2; v++)
				if (!((e, mode[m], "v" v) in ran)) missing(e " did not run the specification's v" v " in the mode " mode[m])
		total += assertions[e]
	}
	printf "%d assertions on %d engines\n", total, engines
	exit failed
}

# field is the value after a name and an equals sign.
function field(name) {
	match($0, " " name "=[^ ]*")
	return substr($0, RSTART + length(name) + 2, RLENGTH - length(name) - 2)
}

function missing(what) {
	print "missing: " what
	failed = 1
}
