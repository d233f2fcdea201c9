//go:build race

package enginetest

// raced says that the race detector is on. Its shadow of all memory that was ever
// used stays with the process, so what the process holds says nothing then.
const raced = true
