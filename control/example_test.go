//go:build linux || darwin

package control_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"forgeone.dev/forgeone/audit"
	"forgeone.dev/forgeone/config"
	"forgeone.dev/forgeone/control"
	"forgeone.dev/forgeone/host"
)

// A kernel serves its control API, and a client asks how it is.
func Example() {
	dir, err := os.MkdirTemp("", "f1-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	evidence, err := audit.Open(audit.Options{Dir: filepath.Join(dir, "audit"), Name: "edge-1", AllowGenerate: true})
	if err != nil {
		log.Fatal(err)
	}
	plugins, err := host.NewPluginHost(host.WithLog(evidence))
	if err != nil {
		log.Fatal(err)
	}
	cfg := &config.Config{Kernel: config.Kernel{Name: "edge-1", StateDir: dir}}

	l, err := control.Listen(filepath.Join(dir, "control.sock"))
	if err != nil {
		log.Fatal(err)
	}
	server := control.NewServer(control.Options{
		Host: plugins, Log: evidence, AuditDir: filepath.Join(dir, "audit"), Version: "1.0.0",
		Config: func() control.Configuration { return control.Configuration{Path: "forgeone.hcl", Config: cfg} },
		Kind:   func(error) control.Kind { return control.Failed },
	})
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- server.Serve(ctx, l) }()

	client, err := control.Dial(ctx, l.Path())
	if err != nil {
		log.Fatal(err)
	}
	status, err := client.Status(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Name, status.Phase)

	_, err = client.Plugin(ctx, "summarise")
	var e *control.Error
	fmt.Println(errors.As(err, &e), e.Kind)

	client.Close()
	stop()
	if err := errors.Join(<-served, plugins.Close(context.Background()), evidence.Close()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// edge-1 ready
	// true failed
}
