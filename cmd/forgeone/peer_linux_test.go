package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Another user gets no answer: not for the mode of the socket, and not where
// that was undone.
func TestAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	t.Parallel()
	config := setup(t, baseConfig)
	d := serve(t, config)
	state := filepath.Join(filepath.Dir(config), "state")
	socket := filepath.Join(state, "control.sock")
	asNobody := func() string {
		t.Helper()
		cmd := exec.Command(binary, "status", "--socket", socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
			t.Fatalf("status as another user: %v\n%s", err, out)
		}
		return string(out)
	}
	for _, dir := range []string{filepath.Dir(binary), filepath.Dir(config), state} {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // so that it is the socket that refuses
			t.Fatal(err)
		}
	}
	if out := asNobody(); !strings.Contains(out, "permission denied") {
		t.Errorf("with mode 0600: %s", out)
	}
	if err := os.Chmod(socket, 0o666); err != nil { //nolint:gosec // so that it is the kernel that refuses
		t.Fatal(err)
	}
	if out := asNobody(); !strings.Contains(out, "user 65534 may not control a kernel of user 0") {
		t.Errorf("with mode 0666: %s", out)
	}
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d\n%s", code, d.log)
	}
}
