package extism

import "forgeone.dev/forgeone/engines"

// MemoryWasm and MemoryImports are the memory and what it is linked to.
func MemoryWasm() []byte { return memoryWasm }

func MemoryImports() engines.Imports { return memoryImports }

// Env is env.
func Env() map[string][2]string { return env }
