package forge

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/abi"
)

func encodeRequest(q request) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(len(q.name)))
	b = append(b, q.name...)
	b = binary.LittleEndian.AppendUint64(b, uint64(q.handle))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(q.args)))
	for _, a := range q.args {
		b = appendText(b, a)
	}
	return b
}

func TestRequestSurvivesTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) string { return string(b) })
		q := request{name: bytes.Draw(t, "name"), handle: abi.Handle(rapid.Uint64().Draw(t, "handle")), args: rapid.SliceOfN(bytes, 0, 8).Draw(t, "args")}
		got, err := decodeRequest(encodeRequest(q))
		if err != nil {
			t.Fatal(err)
		}
		if got.name != q.name || got.handle != q.handle || !slices.Equal(got.args, q.args) {
			t.Fatalf("got %+v, want %+v", got, q)
		}
	})
}

// FuzzRequest holds that hostile bytes are refused or mean one thing: what is
// decoded encodes to the bytes it came from, all of them.
func FuzzRequest(f *testing.F) {
	good := encodeRequest(request{name: "file_open", handle: 1, args: []string{"/data/x", "\x00", ""}})
	f.Add(good)
	for n := range good {
		f.Add(good[:n])
	}
	f.Add(append(slices.Clone(good), 0))
	f.Add([]byte("\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := decodeRequest(b)
		if err != nil {
			return
		}
		if got := encodeRequest(q); !slices.Equal(got, b) {
			t.Errorf("%q is taken for %q", b, got)
		}
	})
}

// TestDocumentedRequest decodes the example of docs/abi.md.
func TestDocumentedRequest(t *testing.T) {
	doc, err := os.ReadFile("../../docs/abi.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "handle 5:\n\n```\n")
	example, _, _ := strings.Cut(rest, "\n```")
	b, err := hex.DecodeString(strings.ReplaceAll(example, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	q, err := decodeRequest(b)
	if err != nil || q.name != "file_close" || q.handle != 5 || !slices.Equal(q.args, []string{"/a"}) {
		t.Errorf("got %+v, %v", q, err)
	}
}

func TestLongNamesAreRefused(t *testing.T) {
	longest := strings.Repeat("n", MaxName)
	if q, err := decodeRequest(encodeRequest(request{name: longest})); err != nil || q.name != longest {
		t.Errorf("got %v", err)
	}
	var le *LimitError
	if _, err := decodeRequest(encodeRequest(request{name: longest + "n"})); !errors.As(err, &le) || le.Limit != MaxName {
		t.Errorf("a byte too many: got %v", err)
	}
}

func TestShortRequestsAreRefused(t *testing.T) {
	good := encodeRequest(request{name: "n", args: []string{"a", "b"}})
	for n := range good {
		if _, err := decodeRequest(good[:n]); err != errShort {
			t.Errorf("the first %d of %d bytes: got %v, want %v", n, len(good), err, errShort)
		}
	}
	if _, err := decodeRequest(append(good, 0)); err != errTrailing {
		t.Errorf("a byte too many: got %v, want %v", err, errTrailing)
	}
}
