package cache

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/cpu"

	"forgeone.dev/forgeone/engines"
)

// format is the version of names and entries.
const format = "forgeone code 1\n"

// name is what code is kept under: a hash of all that it was made of and for.
type name [sha256.Size]byte

// String is the name of the entry's file.
func (n name) String() string { return hex.EncodeToString(n[:]) }

// entryName is the name of a module's code.
func entryName(origin, wasm []byte, opts engines.CompileOptions) name {
	module := sha256.Sum256(wasm)
	h := sha256.New()
	h.Write(origin) // of one size
	h.Write(module[:])
	fmt.Fprintf(h, "%+v", opts) // all of them, and those to come
	return name(h.Sum(nil))
}

// origin is a hash of what makes the code, and of the machine that it is for.
func origin(info engines.Info) ([]byte, error) {
	build, err := buildID()
	if err != nil {
		return nil, fmt.Errorf("cache: which build this is: %w", err)
	}
	h := sha256.New()
	for _, part := range []string{format, info.Name, info.Version, build, runtime.Version(), runtime.GOOS, runtime.GOARCH, cpuFeatures()} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return h.Sum(nil), nil
}

// buildID identifies the program that runs, with its adapters and engines.
var buildID = sync.OnceValues(func() (string, error) {
	f, err := os.Open(self())
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	if id := elfBuildID(f); id != "" {
		return id, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
})

// elfBuildID is what the Go linker noted of the inputs of an ELF file, empty if
// it is another kind of file or was linked without: then its whole content says
// what it is.
func elfBuildID(r io.ReaderAt) string {
	f, err := elf.NewFile(r)
	if err != nil {
		return ""
	}
	note := f.Section(".note.go.buildid")
	if note == nil {
		return ""
	}
	b, err := note.Data()
	if err != nil || len(b) <= 16 { // the header of a note, and the owner "Go"
		return ""
	}
	return string(bytes.TrimRight(b[16:], "\x00"))
}

// self is the program that runs, even after its file was replaced where the
// system knows it then.
func self() string {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe"
	}
	path, _ := os.Executable() // the error of opening "" is as good
	return path
}

// cpuFeatures tells kinds of CPU apart: code may use all that this one has.
func cpuFeatures() string {
	features := fmt.Sprintf("%+v%+v", cpu.X86, cpu.ARM64)
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return features // another system
	}
	defer func() { _ = f.Close() }()
	head, _ := io.ReadAll(io.LimitReader(f, 16<<10))
	for line := range bytes.Lines(head) {
		if bytes.HasPrefix(line, []byte("flags")) || bytes.HasPrefix(line, []byte("Features")) {
			return features + string(line)
		}
	}
	return features
}
