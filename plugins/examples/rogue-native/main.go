// Command rogue-native is the rogue example as a native plugin.
package main

import (
	"forgeone.dev/forgeone/plugins/examples/rogue"
	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/native"
)

func main() {
	native.Serve(sdk.Plugin{
		Name:    "rogue",
		Version: "1.0.0",
		Functions: map[string]sdk.Function{
			"write":  rogue.Write,
			"escape": rogue.Escape,
			"env":    rogue.Env,
			"crash":  rogue.Crash,
			"loop":   rogue.Loop,
			"flood":  rogue.Flood,
		},
	})
}
