// Command guest is a Go program, to be compiled: nearly all of it is Go's runtime.
package main

import (
	"os"
	"strconv"
)

func main() {
	_, _ = os.Stdout.WriteString(strconv.Itoa(len(os.Args)))
}
