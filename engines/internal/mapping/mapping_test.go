//go:build linux || darwin

package mapping_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/internal/mapping"
)

const page = engines.PageSize

func fileOf(t testing.TB, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func reserve(t testing.TB, committed, size uint64) *mapping.Reservation {
	t.Helper()
	r, err := mapping.Reserve(committed, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Free(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Whatever is committed, mapped, written and reset, in any order: the memory is
// as a copy that is kept by hand, it does not move, and the files are as they were.
func TestModel(t *testing.T) {
	const pages = 6
	contents := [][]byte{bytes.Repeat([]byte{1}, 2*page), bytes.Repeat([]byte{2}, pages*page)}
	files := []*os.File{fileOf(t, contents[0]), fileOf(t, contents[1])}
	rapid.Check(t, func(rt *rapid.T) {
		r, err := mapping.Reserve(page, pages*page)
		if err != nil {
			rt.Fatal(err)
		}
		defer r.Free()
		var overlay mapping.Overlay
		defer overlay.Close()
		memory := r.Commit(page)
		base := &memory[0]
		model := make([]byte, page)
		var under []byte // what a reset gives back
		rt.Repeat(map[string]func(*rapid.T){
			"grow": func(rt *rapid.T) {
				size := uint64(rapid.IntRange(len(model)/page, pages+1).Draw(rt, "pages")) * page
				grown := r.Commit(size)
				if size > pages*page {
					if grown != nil {
						rt.Fatalf("%d bytes of %d are committed", size, pages*page)
					}
					return
				}
				memory = grown
				model = append(model, make([]byte, int(size)-len(model))...)
			},
			"map": func(rt *rapid.T) {
				n := rapid.IntRange(0, pages).Draw(rt, "pages") * page
				which := rapid.IntRange(0, 1).Draw(rt, "file")
				err := overlay.Map(memory, files[which], uint64(n))
				if fits := n <= len(memory) && n <= len(contents[which]); fits != (err == nil) {
					rt.Fatalf("Map(%d bytes of %d over %d) = %v", n, len(contents[which]), len(memory), err)
				}
				if err == nil && n > 0 {
					under = contents[which][:n]
					copy(model, under)
				}
			},
			"write": func(rt *rapid.T) {
				at := rapid.IntRange(0, len(model)-1).Draw(rt, "offset")
				data := rapid.SliceOfN(rapid.Byte(), 1, 5000).Draw(rt, "data")
				copy(memory[at:], data)
				copy(model[at:], data)
			},
			"reset": func(rt *rapid.T) {
				if err := overlay.Reset(memory); err != nil {
					rt.Fatal(err)
				}
				copy(model, under)
			},
			"": func(rt *rapid.T) {
				if !bytes.Equal(memory, model) {
					rt.Fatal("the memory is not what it must be")
				}
				if &memory[0] != base || !r.Holds(memory) || cap(memory) != len(memory) {
					rt.Fatal("the memory has moved, or reaches beyond what is committed")
				}
			},
		})
	})
	for i, file := range files {
		if got, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(got, contents[i]) {
			t.Errorf("a file has changed (%v)", err)
		}
	}
}

// However much of a memory was written to, a reset undoes it all, and a second
// one what was written since.
func TestResetOfMuch(t *testing.T) {
	const size = 64 * page
	content := bytes.Repeat([]byte{7}, size)
	memory := reserve(t, size, size).Commit(size)
	var overlay mapping.Overlay
	defer overlay.Close()
	if err := overlay.Map(memory, fileOf(t, content), size); err != nil {
		t.Fatal(err)
	}
	for _, pages := range []int{1, 40, 255, 256, 257, size / 4096} {
		for _, stride := range []int{4096, 3 * 4096} {
			for range 2 {
				for n, at := 0, 0; n < pages && at < size; n, at = n+1, at+stride {
					memory[at+n%4096] = 9
				}
				if err := overlay.Reset(memory); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(memory, content) {
					t.Fatalf("%d pages, each %d bytes, were written to, and a reset has not undone that", pages, stride)
				}
			}
		}
	}
}

func TestMovedMemory(t *testing.T) {
	file := fileOf(t, make([]byte, page))
	here, there := reserve(t, page, page).Commit(page), reserve(t, page, page).Commit(page)
	var overlay mapping.Overlay
	defer overlay.Close()
	if err := overlay.Map(here[8:], file, 0); err != nil {
		t.Errorf("mapping nothing: %v", err)
	}
	if err := overlay.Map(make([]byte, 2*page)[8:], file, page); err == nil || !strings.Contains(err.Error(), "beginning of a page") {
		t.Errorf("Map over memory that does not begin with a page = %v", err)
	}
	if err := overlay.Map(here, file, page); err != nil {
		t.Fatal(err)
	}
	there[0] = 1
	for _, moved := range [][]byte{there, nil} {
		if err := overlay.Reset(moved); err == nil || !strings.Contains(err.Error(), "has moved") {
			t.Errorf("Reset of memory that has moved = %v", err)
		}
	}
	if there[0] != 1 {
		t.Error("memory that was not mapped was reset")
	}
}

func TestReserve(t *testing.T) {
	if r := reserve(t, 0, 0); r.Commit(page) != nil || r.Commit(0) != nil && len(r.Commit(0)) > 0 {
		t.Error("something is committed of nothing")
	}
	for _, c := range [][2]uint64{{0, math.MaxUint64}, {0, math.MaxInt64}, {2 * page, page}} {
		if r, err := mapping.Reserve(c[0], c[1]); err == nil {
			t.Errorf("Reserve(%d, %d) = %v", c[0], c[1], r)
		}
	}
	r, err := mapping.Reserve(page, page)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Free(); err != nil {
			t.Error(err)
		}
	}
}

func Example() {
	file, err := os.CreateTemp("", "image")
	if err != nil {
		panic(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if err := file.Truncate(page); err != nil {
		panic(err)
	}
	if _, err := file.WriteAt([]byte("as it began"), 0); err != nil {
		panic(err)
	}

	reserved, err := mapping.Reserve(page, 4*page)
	if err != nil {
		panic(err)
	}
	defer reserved.Free()
	memory := reserved.Commit(page)
	var overlay mapping.Overlay
	defer overlay.Close()
	if err := overlay.Map(memory, file, page); err != nil {
		panic(err)
	}
	copy(memory, "as it is now")
	fmt.Printf("%s\n", memory[:11])
	if err := overlay.Reset(memory); err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", memory[:11])
	// Output:
	// as it is no
	// as it began
}
