//go:build unix

package native_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"forgeone.dev/forgeone/native"
	"forgeone.dev/forgeone/sdk"
	sdknative "forgeone.dev/forgeone/sdk/native"
	"forgeone.dev/forgeone/sdk/wire"
)

// The test binary is its own plugin: this variable says which.
const roleEnv = "NATIVE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "plugin":
		sdknative.Serve(testPlugin)
	case "bare":
		serveBare(&bare{description: &wire.DescribeResponse{Name: "bare", Functions: []string{"echo"}}})
	default: // a description, as JSON
		var d wire.DescribeResponse
		if err := json.Unmarshal([]byte(role), &d); err != nil {
			panic(err)
		}
		serveBare(&bare{description: &d})
	}
}

// testPlugin is written as an author would write it.
var testPlugin = sdk.Plugin{
	Name: "test", Version: "1.2.3",
	Functions: map[string]sdk.Function{
		"echo": func(_ context.Context, _ *sdk.Kernel, in []byte) ([]byte, error) { return in, nil },
		"fail": func(_ context.Context, _ *sdk.Kernel, in []byte) ([]byte, error) {
			return []byte("ignored"), errors.New(string(in))
		},
		"panic": func(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
			panic("a mistake")
		},
		"exit": func(context.Context, *sdk.Kernel, []byte) ([]byte, error) {
			os.Exit(7)
			return nil, nil
		},
		"crash": func(ctx context.Context, _ *sdk.Kernel, _ []byte) ([]byte, error) {
			go panic("beyond recovery")
			<-ctx.Done()
			return nil, nil
		},
		"env": func(_ context.Context, _ *sdk.Kernel, in []byte) ([]byte, error) {
			return []byte(os.Getenv(string(in))), nil
		},
		"deadline": func(ctx context.Context, _ *sdk.Kernel, _ []byte) ([]byte, error) {
			d, ok := ctx.Deadline()
			return fmt.Append(nil, ok, " ", time.Until(d) > 0), nil
		},
		// wait says that it waits, and then that it does no longer.
		"wait": func(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
			_, _ = k.Syscall(ctx, "waiting", nil, 0, nil) // cancelled before it is answered, perhaps
			<-ctx.Done()
			fmt.Fprintln(os.Stderr, "no longer waiting:", ctx.Err())
			return nil, ctx.Err()
		},
		// stubborn does not care for its context.
		"stubborn": func(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
			_, _ = k.Syscall(ctx, "waiting", nil, 0, nil)
			time.Sleep(time.Hour)
			return nil, nil
		},
		// desert returns while a syscall of its own is under way.
		"desert": func(_ context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
			go func() { _, _ = k.Syscall(context.Background(), "block", nil, 0, nil) }()
			_, err := k.Syscall(context.Background(), "blocked?", nil, 0, nil)
			return nil, err
		},
		// impatient gives a syscall up.
		"impatient": func(ctx context.Context, k *sdk.Kernel, _ []byte) ([]byte, error) {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			return k.Syscall(ctx, "block", nil, 0, nil)
		},
		"big": func(_ context.Context, _ *sdk.Kernel, in []byte) ([]byte, error) {
			n, err := strconv.Atoi(string(in))
			return make([]byte, n), err
		},
		"bigpayload": func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
			n, err := strconv.Atoi(string(in))
			if err != nil {
				return nil, err
			}
			return k.Syscall(ctx, "big", nil, 0, make([]byte, n))
		},
		// ask makes the syscall that the input names and tells its result.
		"ask": func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
			b, err := k.Syscall(ctx, string(in), []string{"a", "", "\xff\x00"}, 1<<63, []byte{0, 1, 2})
			var failed *sdk.SyscallError
			var blocked *sdk.BlockedError
			var quarantined *sdk.QuarantinedError
			switch {
			case errors.As(err, &failed):
				return fmt.Appendf(nil, "failed %s %d %s %v", failed.Syscall, failed.Code, failed.Message, failed.Context), nil
			case errors.As(err, &blocked):
				return fmt.Appendf(nil, "blocked %s %s", blocked.Syscall, blocked.Reason), nil
			case errors.As(err, &quarantined):
				return fmt.Appendf(nil, "quarantined %s %s", quarantined.Syscall, quarantined.Reason), nil
			}
			return fmt.Appendf(nil, "done %s", b), err
		},
		// pass makes a syscall and fails as that does.
		"pass": func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
			if _, err := k.Syscall(ctx, string(in), nil, 0, nil); err != nil {
				return nil, fmt.Errorf("pass: %w", err)
			}
			return nil, nil
		},
	},
	Init: hook("init"), Start: hook("start"), Pause: hook("pause"), Resume: hook("resume"), Stop: hook("stop"),
}

func hook(name string) sdk.Hook {
	return func(ctx context.Context, k *sdk.Kernel) error {
		_, err := k.Syscall(ctx, "hook", []string{name}, 0, nil)
		return err
	}
}

// bare is the plugin service without sdk/native, as another library would have
// it; it keeps to nothing.
type bare struct {
	plugin.NetRPCUnsupportedPlugin
	wire.UnimplementedPluginServer
	description *wire.DescribeResponse
}

func (b *bare) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	wire.RegisterPluginServer(s, b)
	return nil
}

func (b *bare) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return wire.NewPluginClient(c), nil
}

func (b *bare) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	return b.description, nil
}

func (b *bare) Call(_ context.Context, r *wire.CallRequest) (*wire.CallResponse, error) {
	if r.Function == "curse" {
		return &wire.CallResponse{Error: &wire.FunctionError{Code: -1, Message: "\x1b[2J" + strings.Repeat("é", 64<<10)}}, nil
	}
	return &wire.CallResponse{Output: r.Input}, nil
}

func serveBare(b *bare) {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{wire.ProtocolVersion: {"plugin": b}},
		Logger:           hclog.NewNullLogger(),
		GRPCServer:       plugin.DefaultGRPCServer,
	})
}

// executable is the test binary and its checksum.
var executable = sync.OnceValues(func() (path, sum string) {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		panic(err)
	}
	return path, hex.EncodeToString(h.Sum(nil))
})

func config(role string, gate native.Gate) native.Config {
	path, sum := executable()
	return native.Config{
		Name: "test", Path: path, SHA256: sum, Env: map[string]string{roleEnv: role},
		Gate: gate, StartTimeout: 30 * time.Second,
	}
}

// refuse is a gate that lets nothing pass.
func refuse(context.Context, native.Syscall) native.Result {
	return native.Result{Message: "nothing passes"}
}

// start starts a plugin, which is stopped with the test.
func start(t testing.TB, cfg native.Config) *native.Plugin {
	t.Helper()
	p, err := native.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}
