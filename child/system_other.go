//go:build !linux && !darwin

package child

import (
	"fmt"
	"runtime"
	"syscall"
)

// supported refuses: where go-plugin has no unix sockets it listens on a TCP
// port, which any process of the machine can reach.
func supported() error {
	return fmt.Errorf("children need unix sockets and process groups, which are not to be had on %s", runtime.GOOS)
}

func keepFiles() error { return nil }

func attributes() *syscall.SysProcAttr { return nil }

func awaitExit(int) {}

func killGroup(int) {}
