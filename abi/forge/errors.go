package forge

import (
	"fmt"

	"forgeone.dev/forgeone/abi/internal/guest"
)

// Errors that the ABIs of guests share.
type (
	// ABIError is a module that does not keep to the ABI, or a request to one
	// that does not.
	ABIError = guest.ABIError
	// FunctionError is a failure that a guest reported of its own accord, with a
	// message of at most [MaxMessage] bytes. The instance is sound.
	FunctionError = guest.FunctionError
	// LimitError is something larger than the ABI lets pass.
	LimitError = guest.LimitError
)

func abiErrorf(format string, args ...any) *ABIError {
	return &ABIError{ABI: "forge/1", Problems: []string{fmt.Sprintf(format, args...)}}
}

// version is a version as it is spoken of.
func version(v uint32) string { return fmt.Sprintf("forge/%d.%d", v>>16, v&0xffff) }
