package syscalls

import (
	"context"
	"crypto/rand"
	"fmt"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// MaxRandom is how many bytes one random_get returns at most.
const MaxRandom = 64 << 10

func random() []abi.Registration {
	return []abi.Registration{{
		Name: "random_get", Args: []string{"n"}, MinTrust: capability.Limited,
		Doc:     fmt.Sprintf("Get n bytes, at most %d, from the system's cryptographic generator.", MaxRandom),
		Resolve: fixed("random://system"),
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			n, err := number("n", sc.Args[0])
			if err != nil {
				return nil, abi.Fail(abi.CodeInvalid, "%v", err)
			}
			if err := tooLarge("n", n, MaxRandom); err != nil {
				return nil, err
			}
			p := make([]byte, n)
			_, err = rand.Read(p)
			return p, err
		},
	}}
}
