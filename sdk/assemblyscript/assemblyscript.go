// Package assemblyscript holds the SDK for plugins in AssemblyScript, which is
// an npm package: @forgeone/sdk.
package assemblyscript

import "embed"

// Package is the npm package, as `forgeone plugin new` puts it beside a plugin.
//
//go:embed package.json assembly
var Package embed.FS
