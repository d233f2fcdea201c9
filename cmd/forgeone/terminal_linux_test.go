package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// On a terminal a result is escaped, since a plugin chose it.
func TestResultOnATerminal(t *testing.T) {
	t.Parallel()
	module := filepath.Join(newDir(t), "echo.wasm")
	write(t, module, echoModule())
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no pseudoterminals: ", err)
	}
	defer func() { _ = ptmx.Close() }()
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tty.Close() }()
	cmd := exec.Command(binary, "call", module, "echo", "--input", "\x1b]0;title\x07one\n\ttwo")
	cmd.Stdout = tty
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	m, err := ptmx.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(string(buf[:m]), "\r\n", "\n") // as terminals do
	if want := `\x1b]0;title\aone` + "\n\ttwo\n"; strings.ReplaceAll(got, "        ", "\t") != want {
		t.Errorf("the terminal got %q, want %q", got, want)
	}
}
