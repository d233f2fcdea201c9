package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/engines/bench"
)

// quickBench measures one small thing on wazero.
var quickBench = []string{"bench", "--engines", "wazero", "--where", "in-process", "--time", "1ms"}

func TestBench(t *testing.T) {
	t.Parallel()
	with := func(args ...string) []string { return append(append([]string{}, quickBench...), args...) }

	r := forgeone(t, with("--programs", "add,fib", "--modes", "bare,fuel")...).want(t, 0, "Engines, in-process", "What limits cost", "1 of 2: add\n2 of 2: fib\n")
	if strings.Contains(r.err, "\x1b") || strings.Contains(r.out, "of 2:") {
		t.Errorf("progress is out of place: %q", r.err)
	}

	r = forgeone(t, with("--programs", "add", "--modes", "bare,own", "--format", "json")...).want(t, 0)
	var report bench.Report
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatal(err)
	}
	if report.Schema != bench.Schema || report.ForgeOne == "" || !report.Complete || len(report.Cells) != 2 || len(report.Cells[1].Samples) == 0 {
		t.Errorf("%+v", report)
	}

	page, data, text := filepath.Join(t.TempDir(), "bench.html"), filepath.Join(t.TempDir(), "bench.json"), filepath.Join(t.TempDir(), "bench")
	if r := forgeone(t, with("--programs", "add", "--modes", "bare", "-o", page, "-o", data, "-o", text)...).want(t, 0); r.out != "" {
		t.Errorf("it wrote %q to standard output too", r.out)
	}
	wellFormed(t, page)
	for file, want := range map[string]string{data: `"schema": "forgeone.bench/1"`, text: "Engines, in-process"} {
		if got, err := os.ReadFile(file); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s has no %q: %v", file, want, err)
		}
	}
	forgeone(t, with("--programs", "add", "--modes", "bare", "--format", "markdown")...).want(t, 0, "| add | bare |")
}

// A module of somebody's own, by a hostile name.
func TestBenchModule(t *testing.T) {
	t.Parallel()
	name := "<b>|`\x1b[31m.wasm"
	if runtime.GOOS == "windows" {
		name = "m.wasm"
	}
	module := filepath.Join(t.TempDir(), name)
	write(t, module, toolModule())
	with := func(args ...string) []string {
		return append(append([]string{}, quickBench...), append([]string{"--module", module}, args...)...)
	}
	r := forgeone(t, with("--function", "add", "--modes", "bare", "--", "20", "-22")...).want(t, 0, "call of add[20 -22]")
	if strings.Contains(r.out+r.err, "\x1b") {
		t.Error("a name reaches the terminal as it is")
	}
	file := filepath.Join(t.TempDir(), "bench.html")
	forgeone(t, with("--function", "add", "--modes", "bare", "-o", file, "1", "2")...).want(t, 0)
	wellFormed(t, file)

	forgeone(t, with("--function", "trap", "--modes", "bare")...).want(t, 1, "Not measured", "unreachable", "error: ")
	forgeone(t, with("--function", "spin", "--timeout", "300ms")...).want(t, 1, "bare, deadline, fuel", "did not end within 300ms")
	forgeone(t, with("--function", "add", "1")...).want(t, 2, "takes 2 arguments")
	forgeone(t, with("--function", "absent")...).want(t, 1, `export "absent"`)
}

func TestBenchRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"--engines", "v8"}, 2, `--engines "v8": want some of wazero, wasmer, wasmtime`},
		{[]string{"--engines", ""}, 2, "--engines"},
		{[]string{"--programs", "add,add"}, 2, `names "add" twice`},
		{[]string{"--modes", "none"}, 2, `"none"`},
		{[]string{"--where", "there"}, 2, `"there"`},
		{[]string{"--format", "pdf"}, 2, `"pdf"`},
		{[]string{"--time", "0s"}, 2, "--time"},
		{[]string{"--time", "2s", "--timeout", "1s"}, 2, "--timeout"},
		{[]string{"--module", "m.wasm"}, 2, "go together"},
		{[]string{"--module", "absent.wasm", "--function", "f"}, 1, "absent.wasm"},
		{[]string{"--module", "m.wasm", "--function", "f", "--programs", "add"}, 2, "programs"},
		{[]string{"7"}, 2, `got "7"`},
		{[]string{"serve", "wasmer"}, 1, "not linked"},
		{[]string{"--programs", "add", "-o", "/there/is/no/such"}, 1, "/there/is/no/such"},
		// There are no other engines beside the binary of the tests, and no Go program.
		{[]string{"--engines", "wazero,wasmer", "--programs", "add", "--modes", "bare", "--time", "1ms"}, 1, "forgeone-engine-wasmer"},
		{[]string{"--programs", "add", "--modes", "bare", "--time", "1ms"}, 0, "forgeone-engine-wasmtime"},
		{[]string{"--programs", "go", "--modes", "bare", "--time", "1ms"}, 1, "make examples builds it"},
	} {
		forgeone(t, append([]string{"bench"}, c.args...)...).want(t, c.code, c.text)
	}
}

func TestBenchCompletion(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{"--engines": "wasmtime\n", "--programs": "sha256\n", "--modes": "own\n", "--where": "worker\n", "--format": "html\n"} {
		forgeone(t, "__complete", "bench", flag, "").want(t, 0, want)
	}
}

// An interrupt ends the run, with what there is.
func TestBenchInterrupt(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a test cannot send an interrupt on Windows")
	}
	cmd := exec.Command(binary, "bench", "--engines", "wazero", "--where", "in-process", "--programs", "add,fib", "--modes", "bare", "--time", "2s", "--format", "json")
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var told []byte
	for buf := make([]byte, 256); !strings.Contains(string(told), "2 of 2"); {
		n, err := progress.Read(buf)
		if told = append(told, buf[:n]...); err != nil {
			t.Fatalf("%s: %v", told, err)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	if _, err := io.Copy(io.Discard, progress); err != nil {
		t.Error(err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit code 1", err)
	}
	var report bench.Report
	if err := json.Unmarshal([]byte(out.String()), &report); err != nil {
		t.Fatal(err)
	}
	if report.Complete || !report.Measured() {
		t.Errorf("complete: %v, measured: %v", report.Complete, report.Measured())
	}
}

// wellFormed reads a page to its end.
func wellFormed(t *testing.T, file string) {
	t.Helper()
	page, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = page.Close() }()
	for d := xml.NewDecoder(page); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
