package diff_test

import (
	"context"
	"fmt"
	"log"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/enginetest/diff"
	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
)

// An engine is compared with itself: bare, and with its limits in the module.
func Example() {
	newEngine := func() engines.WasmEngine {
		e, err := wazero.New()
		if err != nil {
			log.Fatal(err)
		}
		return e
	}
	subject := diff.Subject{Name: "wazero", Bare: newEngine(), Metered: meter.Wrap(newEngine(), meter.Limits{})}
	defer subject.Bare.Close()
	defer subject.Metered.Close()

	var tally diff.Tally
	for seed := range uint64(10) {
		if err := diff.Check(context.Background(), []diff.Subject{subject}, seed, &tally); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(tally.Modules, "modules do the same")
	// Output: 10 modules do the same
}
