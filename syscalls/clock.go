package syscalls

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// MaxSleep is the longest that one time_sleep takes.
const MaxSleep = time.Hour

func clock() []abi.Registration {
	start := time.Now()
	return []abi.Registration{
		{
			Name: "time_get", Args: []string{"clock"}, MinTrust: capability.Limited,
			Doc:     "Read a clock, in nanoseconds, decimal: `wall` since 1970 UTC, `monotonic` since the kernel's start.",
			Resolve: oneOf("clock", "wall", "monotonic"),
			Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
				if sc.Args[0] == "monotonic" {
					return strconv.AppendInt(nil, int64(time.Since(start)), 10), nil
				}
				return strconv.AppendInt(nil, time.Now().UnixNano(), 10), nil
			},
		},
		{
			Name: "time_sleep", Args: []string{"ns"}, MinTrust: capability.Limited,
			Doc: fmt.Sprintf("Wait that many nanoseconds, at most %s, or until the call ends.", MaxSleep),
			// The handler is done at MaxSleep; the rest is for a busy machine.
			Timeout: MaxSleep + time.Minute,
			Resolve: fixed("clock://monotonic"),
			Handler: sleep,
		},
	}
}

func sleep(ctx context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	ns, err := number("ns", sc.Args[0])
	if err != nil {
		return nil, abi.Fail(abi.CodeInvalid, "%v", err)
	}
	if err := tooLarge("ns", ns, uint64(MaxSleep)); err != nil {
		return nil, err
	}
	timer := time.NewTimer(time.Duration(ns))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil, nil
	case <-ctx.Done():
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) {
			return nil, cause
		}
		return nil, abi.Fail(abi.CodeInterrupted, "sleep interrupted: %v", cause)
	}
}
