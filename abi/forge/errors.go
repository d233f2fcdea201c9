package forge

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// ABIError is a module that does not keep to the ABI, or a request to one that
// does not.
type ABIError struct {
	Problems []string // for people, one of each kind of trouble; never empty
}

func (e *ABIError) Error() string { return "abi forge/1: " + strings.Join(e.Problems, "; ") }

func abiErrorf(format string, args ...any) *ABIError {
	return &ABIError{Problems: []string{fmt.Sprintf(format, args...)}}
}

// FunctionError is a failure that a guest reported of its own accord. The
// instance is sound.
type FunctionError struct {
	Function string
	Code     int32  // the guest's own; the status it returned if it gave none
	Message  string // the guest's own bytes, at most MaxMessage
}

// Error quotes a message that is not plain text, since a guest is free to aim
// it at the reader's terminal.
func (e *FunctionError) Error() string {
	message := e.Message
	switch {
	case message == "":
		message = "it gave no reason"
	case strings.ContainsFunc(message, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }):
		message = strconv.Quote(message)
	}
	return fmt.Sprintf("function %q failed: %s (code %d)", e.Function, message, e.Code)
}

// LimitError is something larger than the ABI lets pass.
type LimitError struct {
	What       string // such as "output"
	Limit, Got uint64 // bytes
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s of %d bytes is above the limit of %d", e.What, e.Got, e.Limit)
}

// version is a version as it is spoken of.
func version(v uint32) string { return fmt.Sprintf("forge/%d.%d", v>>16, v&0xffff) }
