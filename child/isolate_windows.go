package child

import (
	"errors"
	"os/exec"
)

// supported refuses: on Windows go-plugin listens on TCP, which any process of
// the machine can reach.
func supported() error {
	return errors.New("child processes are not supported on windows: go-plugin offers no unix sockets there, and a TCP port is open to every process; use a WASM plugin")
}

func isolate(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = cmd.Process.Kill()
	}
}
