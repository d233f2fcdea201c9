//go:build unix

package native_test

import (
	"context"
	"fmt"
	"slices"

	"forgeone.dev/forgeone/native"
)

// A plugin is started, called and stopped. Whatever it asks for comes to the
// gate.
func Example() {
	path, sum := executable() // of the plugin: here, this test's own
	ctx := context.Background()
	p, err := native.Start(ctx, native.Config{
		Name: "test", Path: path, SHA256: sum,
		Env: map[string]string{roleEnv: "plugin"}, // all the environment that it has
		Gate: func(_ context.Context, s native.Syscall) native.Result {
			if s.Name == "time_get" {
				return native.Result{Status: native.Success, Data: []byte("1700000000000000000")}
			}
			return native.Result{Status: native.Blocked, Message: "no policy allows it"}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = p.Stop(ctx) }()

	d := p.Description()
	fmt.Println(d.Name, d.Version, slices.Contains(d.Functions, "ask"))
	for call, syscall := range []string{"time_get", "net_connect"} {
		out, err := p.Call(ctx, uint64(call), "ask", []byte(syscall))
		fmt.Println(string(out), err)
	}
	// Output:
	// test 1.2.3 true
	// done 1700000000000000000 <nil>
	// blocked net_connect no policy allows it <nil>
}
