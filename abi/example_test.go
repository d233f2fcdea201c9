package abi_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/zta"
)

// Execute syscalls with zero-trust enforcement.
func ExampleGate_SecureSyscall() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "forgeone-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	// A registry with one syscall and one policy.
	var registry abi.SyscallRegistry
	err = registry.Register(abi.Registration{
		Name: "file_open", Args: []string{"path", "mode"}, MinTrust: capability.Limited,
		Resolve: func(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
			return abi.Resolution{Resources: []string{"file://" + filepath.Clean(sc.Args[0])}}, nil
		},
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			return []byte("opened " + sc.Args[0]), nil
		},
	})
	if err != nil {
		panic(err)
	}
	registry.SetPolicy("data-only", abi.SyscallPolicy{
		Syscall:        "open_file",
		MinTrustLevel:  capability.Standard,
		ArgConstraints: map[int]string{0: "^/data/"},
		OnViolation:    zta.Quarantine,
	})
	policyGraph, err := registry.Compile(nil, zta.Enforce)
	if err != nil {
		panic(err)
	}
	log, err := audit.Open(audit.Options{Dir: dir, Name: "example", AllowGenerate: true})
	if err != nil {
		panic(err)
	}
	defer log.Close()
	gate, err := abi.NewGate(abi.GateOptions{Registry: &registry, Graph: policyGraph, Log: log})
	if err != nil {
		panic(err)
	}

	// Who asks: bound by the host, never by the guest.
	identity := zta.Identity{ID: "reporting", TrustVector: zta.Signed}
	capabilities, err := capability.New(capability.Grant{Syscalls: []string{"open_file"}, Resources: []string{"file:///**"}})
	if err != nil {
		panic(err)
	}
	subject := &abi.Subject{
		Plugin:       "my_plugin",
		Identity:     identity,
		TrustLevel:   capability.Standard,
		Capabilities: capabilities,
		ExecutionDNA: zta.NewExecutionDNA("container-1", identity),
		Container:    abi.NewContainer("container-1"),
	}

	for _, path := range []string{"/data/report.txt", "/etc/passwd"} {
		result := gate.SecureSyscall(ctx, &abi.SyscallContext{
			Subject: subject, Syscall: "open_file", Args: []string{path, "r"}, Timestamp: time.Now(),
		})
		switch result.Status {
		case abi.Success:
			fmt.Printf("Syscall succeeded: %s\n", result.Data)
		case abi.Failure:
			fmt.Printf("Syscall failed: %s\n", result.Err.Message)
		case abi.Blocked:
			fmt.Printf("Syscall blocked: %s\n", result.Reason)
		case abi.Quarantined:
			fmt.Printf("Process quarantined: %s\n", result.Reason)
		}
	}
	fmt.Println("policy in force is the one compiled:", gate.GetPolicyGraph().Digest() == policyGraph.Digest())
	// Output:
	// Syscall succeeded: opened /data/report.txt
	// Process quarantined: policy data-only: argument 0 does not match "^/data/"
	// policy in force is the one compiled: true
}
