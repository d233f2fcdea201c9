//go:build (linux || darwin) && !wasmer

package worker_test

// The engine in cmd/forgeone-engine that these tests run.
const engineName, engineTags = "wazero", ""
