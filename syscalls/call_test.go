package syscalls_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
	"forgeone.dev/forgeone/zta"
)

// guests are plugins whose functions are Go's: what a host is to plugin_call.
type guests struct {
	t        *testing.T
	k        *kernel
	subjects map[string]*abi.Subject
	function func(c *abi.Call, input []byte) ([]byte, error)
}

func newGuests(t *testing.T, policies ...zta.Policy) *guests {
	g := &guests{t: t, subjects: map[string]*abi.Subject{}}
	g.k = newKernel(t, syscalls.Options{CallPlugin: g.call}, policies...)
	return g
}

func (g *guests) add(name string, pristine bool, apis ...string) *plugin {
	p := g.k.plugin(name, capability.Standard, capability.Grant{APIs: apis})
	p.s.CallHandles = pristine
	g.subjects[name] = p.s
	return p
}

func (g *guests) call(ctx context.Context, plugin, function string, input []byte) ([]byte, error) {
	s := g.subjects[plugin]
	if s == nil {
		return nil, abi.Fail(abi.CodeNotFound, "no %s", plugin)
	}
	c, err := g.k.gate.Begin(ctx, s, function, input)
	if err != nil {
		return nil, err
	}
	out, err := g.function(c, input)
	return out, c.End(out, err)
}

// do calls a plugin from outside, which calls another at once.
func (g *guests) do(p *plugin, ctx context.Context, plugin string) abi.SyscallResult {
	g.t.Helper()
	c, err := g.k.gate.Begin(ctx, p.s, "f", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = c.End(nil, nil) }()
	return c.Syscall(c.Context(), "plugin_call", []string{plugin, "f"}, 0, []byte("in"))
}

func TestPluginCall(t *testing.T) {
	g := newGuests(t)
	a := g.add("a", true, "b/f", "gone/*")
	g.add("b", true)
	g.function = func(c *abi.Call, input []byte) ([]byte, error) {
		if c.Subject().Plugin != "b" || abi.CallFrom(c.Context()) != nil {
			t.Errorf("it runs as %s, in another's context", c.Subject().Plugin)
		}
		// Its rights are its own.
		if res := c.Syscall(c.Context(), "plugin_call", []string{"b", "f"}, 0, nil); res.Status != abi.Blocked {
			t.Errorf("%v", res.Status)
		}
		return append([]byte("got "), input...), nil
	}
	ctx := context.Background()
	if res := g.do(a, ctx, "b"); string(res.Data) != "got in" {
		t.Errorf("%q (%v)", res.Data, res.Error())
	}
	a.failed(abi.CodeNotFound, g.do(a, ctx, "gone"))
	for _, name := range []string{"other", "", "b/x", "*", strings.Repeat("b", 300)} {
		if res := g.do(a, ctx, name); res.Status != abi.Blocked {
			t.Errorf("%.20q: %v", name, res.Status)
		}
	}
	a.code(abi.CodeInvalid, "plugin_call", nil, "b", "f") // from no call
	newKernel(t, syscalls.Options{}).plugin("x", capability.Standard, capability.Grant{APIs: []string{"*"}}).code(abi.CodeUnsupported, "plugin_call", nil, "b", "f")
}

func TestPluginCallDepth(t *testing.T) {
	g := newGuests(t)
	a := g.add("a", true, "*")
	deepest := 0
	var deepen func(depth int) func(*abi.Call, []byte) ([]byte, error)
	deepen = func(depth int) func(*abi.Call, []byte) ([]byte, error) {
		return func(c *abi.Call, _ []byte) ([]byte, error) {
			deepest = max(deepest, depth)
			g.function = deepen(depth + 1)
			return nil, c.Syscall(c.Context(), "plugin_call", []string{"a", "f"}, 0, nil).Error()
		}
	}
	g.function = deepen(1)
	a.failed(40, g.do(a, context.Background(), "a"))
	if deepest != syscalls.MaxCallDepth {
		t.Errorf("%d deep, want %d", deepest, syscalls.MaxCallDepth)
	}

	// One whose state is kept would wait for itself.
	kept := g.add("kept", false, "*")
	g.function = func(c *abi.Call, _ []byte) ([]byte, error) {
		return nil, c.Syscall(c.Context(), "plugin_call", []string{"kept", "f"}, 0, nil).Error()
	}
	a.failed(35, g.do(kept, context.Background(), "kept"))
	a.failed(35, g.do(kept, context.Background(), "a")) // by another
}

// The other's call ends with the caller's, which is not its fault, and with the
// caller's container.
func TestPluginCallEnds(t *testing.T) {
	g := newGuests(t)
	a := g.add("a", true, "b/*")
	g.add("b", true)
	begun := make(chan struct{}, 1)
	g.function = func(c *abi.Call, _ []byte) ([]byte, error) {
		begun <- struct{}{}
		<-c.Context().Done()
		if errors.Is(c.Context().Err(), context.DeadlineExceeded) {
			t.Error("the caller's deadline is taken for its own")
		}
		return nil, c.Context().Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	a.failed(abi.CodeTimeout, g.do(a, ctx, "b"))
	<-begun
	done := make(chan abi.SyscallResult)
	go func() { done <- g.do(a, context.Background(), "b") }()
	<-begun
	a.s.Container.Quarantine("test")
	if res := <-done; res.Status == abi.Success {
		t.Error("it went on")
	}
}
