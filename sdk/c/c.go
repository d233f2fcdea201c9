// Package c holds the SDK for plugins in C and C++, which is one header.
package c

import _ "embed" // for the header

// Header is forge.h, as `forgeone plugin new` puts it beside a plugin.
//
//go:embed forge.h
var Header []byte
