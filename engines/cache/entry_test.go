package cache

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// An entry is its code for its name and key, and for no other, and not once it
// was changed.
func TestEntryLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.Byte(), keySize, keySize)
		key, n := some.Draw(t, "key"), name(some.Draw(t, "name"))
		code := rapid.SliceOf(rapid.Byte()).Draw(t, "code")
		entry := append(seal(key, n, code), code...)
		got, err := unseal(key, n, entry)
		if err != nil || !bytes.Equal(got, code) {
			t.Fatalf("unseal: %x, %v; want %x", got, err, code)
		}
		bit := rapid.IntRange(0, 8*len(entry)-1).Draw(t, "bit")
		changed := bytes.Clone(entry)
		changed[bit/8] ^= 1 << (bit % 8)
		other := n
		other[bit%len(n)] ^= 1
		wrong := bytes.Clone(key)
		wrong[bit%len(key)] ^= 1
		for what, refused := range map[string]func() ([]byte, error){
			"a changed bit": func() ([]byte, error) { return unseal(key, n, changed) },
			"a shorter one": func() ([]byte, error) { return unseal(key, n, entry[:bit/8]) },
			"a longer one":  func() ([]byte, error) { return unseal(key, n, append(bytes.Clone(entry), 0)) },
			"another name":  func() ([]byte, error) { return unseal(key, other, entry) },
			"another key":   func() ([]byte, error) { return unseal(wrong, n, entry) },
		} {
			if got, err := refused(); err == nil {
				t.Fatalf("%s is taken, as %x", what, got)
			}
		}
	})
}

func FuzzUnseal(f *testing.F) {
	key, n := bytes.Repeat([]byte{1}, keySize), name{2}
	f.Add(append(seal(key, n, []byte("code")), "code"...))
	f.Add([]byte(format))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, entry []byte) {
		code, err := unseal(key, n, entry)
		if err == nil && !bytes.Equal(append(seal(key, n, code), code...), entry) {
			t.Errorf("%x is taken", entry)
		}
	})
}
