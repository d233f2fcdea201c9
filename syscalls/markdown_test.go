package syscalls_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"forgeone.dev/forgeone/syscalls"
)

//go:generate go test -run ^TestDocs$ -update .

var update = flag.Bool("update", false, "write docs/syscalls.md anew")

func TestDocs(t *testing.T) {
	name := filepath.Join("..", "docs", "syscalls.md")
	want := syscalls.Markdown(syscalls.Registrations(syscalls.Options{}))
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/syscalls.md is not what the registrations say; run go generate ./syscalls")
	}
}
