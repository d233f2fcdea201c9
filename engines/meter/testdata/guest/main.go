//go:build wasip1

// Command guest is a Go program whose instances are captured: a reactor, whose
// exports are called after _initialize.
package main

import "fmt"

func main() {}

//go:wasmexport add
func add(a, b int32) int32 { return a + b }

var kept []string

// keep leaves something behind, and returns how much there is.
//
//go:wasmexport keep
func keep(n int32) int32 {
	kept = append(kept, fmt.Sprintf("%d after %v", n, kept))
	return int32(len(kept))
}

// fill leaves n bytes behind.
//
//go:wasmexport fill
func fill(n int32) int32 {
	s := make([]byte, n)
	for i := range s {
		s[i] = byte(i)
	}
	kept = append(kept, string(s))
	return int32(len(kept))
}
