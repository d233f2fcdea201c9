// Command summarise-native is the summarise example as a native plugin.
package main

import (
	"forgeone.dev/forgeone/plugins/examples/summarise"
	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/native"
)

func main() {
	native.Serve(sdk.Plugin{
		Name:      "summarise",
		Version:   "1.0.0",
		Functions: map[string]sdk.Function{"summarise": summarise.Run},
	})
}
