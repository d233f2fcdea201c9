// Package rogue is what the example plugins rogue-wasm and rogue-native do:
// things that a kernel must not let them. Each function returns what it got,
// if it got anything.
package rogue

import (
	"context"
	"fmt"

	"forgeone.dev/forgeone/sdk"
)

// Write overwrites a document that it was lent for reading.
func Write(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
	return nil, k.WriteFile(ctx, "/data/report.txt", []byte("all is well"))
}

// Escape reads a file of the host by way of a directory it was lent.
func Escape(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
	return k.ReadFile(ctx, "/data/../etc/passwd")
}

// Env reads a variable of the host that nobody granted.
func Env(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
	v, err := k.Getenv(ctx, "FORGEONE_AUDIT_KEY")
	return []byte(v), err
}

// Loop never returns.
func Loop(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
	for turns := uint64(0); ; {
		turns++
	}
}

// Crash ends the plugin by a panic that nobody can recover from.
func Crash(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
	go panic("rogue: crashing")
	select {}
}

// Flood asks for the same thing a hundred thousand times.
func Flood(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
	const n = 100_000
	for i := range n {
		if _, err := k.Now(ctx); err != nil {
			return nil, fmt.Errorf("after %d: %w", i, err)
		}
	}
	return fmt.Appendf(nil, "asked %d times", n), nil
}
