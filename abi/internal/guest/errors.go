package guest

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// ABIError is a module that does not keep to an ABI, or a request to one that
// does not.
type ABIError struct {
	ABI      string   // such as "forge/1"
	Problems []string // for people, one of each kind of trouble; never empty
}

func (e *ABIError) Error() string { return "abi " + e.ABI + ": " + strings.Join(e.Problems, "; ") }

// FunctionError is a failure that a guest reported of its own accord. It can be
// called again.
type FunctionError struct {
	Function string
	Code     int32  // the guest's own; the status it returned if it gave none
	Message  string // the guest's own bytes, of a length that its ABI limits
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

// LimitError is something larger than an ABI lets pass.
type LimitError struct {
	What       string // such as "output"
	Limit, Got uint64 // bytes
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s of %d bytes is above the limit of %d", e.What, e.Got, e.Limit)
}
