package host_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/host"
	"forgeone.dev/forgeone/zta"
)

// slow is an engine whose images take longer than any call may.
type slow struct{ engines.WasmEngine }

func (s slow) Compile(ctx context.Context, wasm []byte, opts engines.CompileOptions) (engines.Module, error) {
	m, err := s.WasmEngine.Compile(ctx, wasm, opts)
	return slowModule{m}, err
}

type slowModule struct{ engines.Module }

func (m slowModule) Snapshot(inst engines.Instance) (engines.Snapshot, error) {
	s, err := m.Module.(engines.Snapshotter).Snapshot(inst)
	return slowSnapshot{s}, err
}

type slowSnapshot struct{ engines.Snapshot }

func (slowSnapshot) Instantiate(ctx context.Context, _ engines.Imports) (engines.Instance, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestWhoseTimeItWas: a plugin's history has the timeouts of its own code, and
// neither those of its caller nor those of its engine.
func TestWhoseTimeItWas(t *testing.T) {
	for _, tc := range []struct {
		name   string
		engine host.NewEngine
		caller time.Duration // 0: the plugin's own limit ends the call
		blamed bool
	}{
		{"the plugin's", sharedEngine, 0, true},
		{"the caller's", sharedEngine, 50 * time.Millisecond, false},
		{"the engine's", func() (engines.WasmEngine, error) {
			e, err := sharedEngine()
			return slow{e}, err
		}, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newKernelOn(t, tc.engine)
			cfg := k.hoarder(plain)
			cfg.Limits.Timeout = 10 * time.Second
			if tc.caller == 0 {
				cfg.Limits.Timeout = 100 * time.Millisecond
			}
			id := k.start(cfg)
			ctx, cancel := context.WithCancel(t.Context())
			if tc.caller != 0 {
				ctx, cancel = context.WithTimeout(t.Context(), tc.caller)
			}
			defer cancel()
			var limit *host.LimitError
			if _, err := k.Call(ctx, id, "spin", nil); !errors.As(err, &limit) || limit.Limit != "timeout" {
				t.Fatalf("got %v", err)
			}
			p, err := k.Plugin(id)
			if err != nil {
				t.Fatal(err)
			}
			if blamed := p.Integrity < zta.FullIntegrity; blamed != tc.blamed {
				t.Errorf("integrity %v", p.Integrity)
			}
		})
	}
}
