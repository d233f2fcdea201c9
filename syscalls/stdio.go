package syscalls

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// MaxStdio is how many bytes one stdio_write takes.
const MaxStdio = 1 << 20

func stdio(out func(plugin, stream string, p []byte)) []abi.Registration {
	return []abi.Registration{{
		Name: "stdio_write", Args: []string{"stream"}, MinTrust: capability.Limited, World: true, Fold: true,
		Doc:     fmt.Sprintf("Write the payload, at most %d bytes, to `stdout` or `stderr`.", MaxStdio),
		Resolve: oneOf("stdio", "stdout", "stderr"),
		Handler: func(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
			if err := tooLarge("payload", len(sc.Payload), MaxStdio); err != nil {
				return nil, err
			}
			out(sc.Plugin, sc.Args[0], sc.Payload)
			return nil, nil
		},
	}}
}

// logStdio logs what plugins print, a line a record, at the level info: what a
// plugin prints is no warning of the kernel's. Lines over the rate are dropped.
func logStdio(l hclog.Logger, rate *lineRate) func(plugin, stream string, p []byte) {
	return func(plugin, stream string, p []byte) {
		if !l.IsInfo() {
			return
		}
		for line := range bytes.SplitSeq(bytes.TrimSuffix(p, []byte("\n")), []byte("\n")) {
			dropped, ok := rate.take(plugin, time.Now())
			if !ok {
				continue
			}
			fields := []any{"plugin", printable(plugin, MaxFieldValue), "stream", stream}
			if dropped > 0 {
				fields = append(fields, "dropped", dropped)
			}
			l.Info(printable(string(line), MaxMessage), fields...)
		}
	}
}
