package native_test

import (
	"context"
	"fmt"

	"forgeone.dev/forgeone/sdk"
	"forgeone.dev/forgeone/sdk/native"
)

// The main function of a plugin that greets, and counts whom it has greeted.
func ExampleServe() {
	native.Serve(sdk.Plugin{
		Name: "greet", Version: "1.0.0",
		Functions: map[string]sdk.Function{
			"greet": func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
				if err := k.Log(ctx, "info", "greeting", "whom", string(in)); err != nil {
					return nil, err
				}
				return fmt.Appendf(nil, "hello, %s", in), nil
			},
		},
	})
}
