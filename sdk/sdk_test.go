package sdk_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/sdk"
)

// transport is a kernel that a test answers for.
type transport func(sdk.Request) sdk.Result

func (f transport) Syscall(_ context.Context, r sdk.Request) sdk.Result { return f(r) }

func data(s string) sdk.Result { return sdk.Result{Status: sdk.Success, Data: []byte(s)} }

// TestRequests holds how each method asks and what it makes of the answer: the
// encodings that the kernel's syscalls have.
func TestRequests(t *testing.T) {
	ctx := t.Context()
	for name, tt := range map[string]struct {
		ask    func(*sdk.Kernel) (any, error)
		want   sdk.Request
		answer string
		result any
	}{
		"Syscall": {func(k *sdk.Kernel) (any, error) { return k.Syscall(ctx, "x", []string{"a", "\xff"}, 7, []byte("p")) },
			sdk.Request{Name: "x", Args: []string{"a", "\xff"}, Handle: 7, Payload: []byte("p")}, "r", []byte("r")},
		"Now": {func(k *sdk.Kernel) (any, error) { return k.Now(ctx) },
			sdk.Request{Name: "time_get", Args: []string{"wall"}}, "1700000000000000001", time.Unix(1700000000, 1).UTC()},
		"Sleep": {func(k *sdk.Kernel) (any, error) { return nil, k.Sleep(ctx, 1500*time.Millisecond) },
			sdk.Request{Name: "time_sleep", Args: []string{"1500000000"}}, "", nil},
		"Getenv": {func(k *sdk.Kernel) (any, error) { return k.Getenv(ctx, "LANG") },
			sdk.Request{Name: "env_get", Args: []string{"LANG"}}, "C", "C"},
		"Random": {func(k *sdk.Kernel) (any, error) { return k.Random(ctx, 4) },
			sdk.Request{Name: "random_get", Args: []string{"4"}}, "\x00\x01\x02\x03", []byte{0, 1, 2, 3}},
		"Hash": {func(k *sdk.Kernel) (any, error) { return k.Hash(ctx, "sha256", []byte("x")) },
			sdk.Request{Name: "crypto_hash", Args: []string{"sha256"}, Payload: []byte("x")}, "digest", []byte("digest")},
		"Log": {func(k *sdk.Kernel) (any, error) { return nil, k.Log(ctx, "info", "hello", "k", "v") },
			sdk.Request{Name: "log_write", Args: []string{"info", "hello", "k", "v"}}, "", nil},
		"SysInfo": {func(k *sdk.Kernel) (any, error) { return k.SysInfo(ctx) },
			sdk.Request{Name: "sys_info"}, "{}", []byte("{}")},
		"KVGet": {func(k *sdk.Kernel) (any, error) { return k.KVGet(ctx, "count") },
			sdk.Request{Name: "kv_get", Args: []string{"count"}}, "1", []byte("1")},
		"KVPut": {func(k *sdk.Kernel) (any, error) { return nil, k.KVPut(ctx, "count", []byte("2")) },
			sdk.Request{Name: "kv_put", Args: []string{"count"}, Payload: []byte("2")}, "", nil},
		"Fetch": {func(k *sdk.Kernel) (any, error) {
			return k.Fetch(ctx, "POST", "https://example.com/", map[string][]string{"A": {"b"}}, []byte("in"))
		}, sdk.Request{Name: "http_request", Args: []string{"POST", "https://example.com/"}, Payload: []byte("{\"headers\":{\"A\":[\"b\"]}}\nin")},
			"{\"status\":201,\"headers\":{\"B\":[\"c\",\"d\"]}}\nout\n", &sdk.HTTPResponse{Status: 201, Headers: map[string][]string{"B": {"c", "d"}}, Body: []byte("out\n")}},
		"Secret": {func(k *sdk.Kernel) (any, error) { return k.Secret(ctx, "token") },
			sdk.Request{Name: "secret_get", Args: []string{"token"}}, "s", []byte("s")},
		"Sign": {func(k *sdk.Kernel) (any, error) { return k.Sign(ctx, "release", []byte("m")) },
			sdk.Request{Name: "crypto_sign", Args: []string{"release"}, Payload: []byte("m")}, "sig", []byte("sig")},
		"Verify": {func(k *sdk.Kernel) (any, error) { return k.Verify(ctx, "release", []byte("m"), make([]byte, 64)) },
			sdk.Request{Name: "crypto_verify", Args: []string{"release"}, Payload: append(make([]byte, 64), 'm')}, "1", true},
		"CallPlugin": {func(k *sdk.Kernel) (any, error) { return k.CallPlugin(ctx, "search", "query", []byte("q")) },
			sdk.Request{Name: "plugin_call", Args: []string{"search", "query"}, Payload: []byte("q")}, "r", []byte("r")},
	} {
		t.Run(name, func(t *testing.T) {
			var asked sdk.Request
			k := sdk.NewKernel(transport(func(r sdk.Request) sdk.Result { asked = r; return data(tt.answer) }))
			got, err := tt.ask(k)
			if err != nil || !reflect.DeepEqual(got, tt.result) {
				t.Errorf("got %v, %v, want %v", got, err, tt.result)
			}
			if !reflect.DeepEqual(asked, tt.want) {
				t.Errorf("asked %+v, want %+v", asked, tt.want)
			}
			refused := sdk.NewKernel(transport(func(sdk.Request) sdk.Result { return sdk.Result{Status: sdk.Blocked} }))
			var blocked *sdk.BlockedError
			if _, err := tt.ask(refused); !errors.As(err, &blocked) || blocked.Syscall != tt.want.Name {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// TestRand: the numbers follow from the kernel's bytes, all 32 of them, and from
// nothing else.
func TestRand(t *testing.T) {
	seed := strings.Repeat("s", 32)
	draw := func(answer string) (uint64, error) {
		var asked sdk.Request
		k := sdk.NewKernel(transport(func(r sdk.Request) sdk.Result { asked = r; return data(answer) }))
		r, err := k.Rand(t.Context())
		if want := (sdk.Request{Name: "random_get", Args: []string{"32"}}); !reflect.DeepEqual(asked, want) {
			t.Errorf("asked %+v, want %+v", asked, want)
		}
		if err != nil {
			return 0, err
		}
		return r.Uint64(), nil
	}
	a, err := draw(seed)
	again, _ := draw(seed)
	other, _ := draw(seed[1:] + "t")
	if err != nil || a != again || a == other {
		t.Errorf("drew %d, %d and %d, %v", a, again, other, err)
	}
	if _, err := draw(seed[1:]); err == nil {
		t.Error("a seed that is too short is taken")
	}
	refused := sdk.NewKernel(transport(func(sdk.Request) sdk.Result { return sdk.Result{Status: sdk.Blocked} }))
	var blocked *sdk.BlockedError
	if _, err := refused.Rand(t.Context()); !errors.As(err, &blocked) {
		t.Errorf("refused: %v", err)
	}
}

// TestEnds holds that a plugin can tell the four ends of a syscall apart.
func TestEnds(t *testing.T) {
	for _, tt := range []struct {
		result sdk.Result
		want   error
		text   string
	}{
		{sdk.Result{Status: sdk.Failure, Code: 2, Message: "not found", Context: map[string]string{"path": "/a b", "op": "open"}},
			&sdk.SyscallError{Syscall: "x", Code: sdk.CodeNotFound, Message: "not found", Context: map[string]string{"path": "/a b", "op": "open"}},
			`x: not found (errno 2) op="open" path="/a b"`},
		{sdk.Result{Status: sdk.Blocked, Message: "no policy"}, &sdk.BlockedError{Syscall: "x", Reason: "no policy"}, "x was blocked: no policy"},
		{sdk.Result{Status: sdk.Quarantined, Message: "enough"}, &sdk.QuarantinedError{Syscall: "x", Reason: "enough"}, "x was refused and the plugin quarantined: enough"},
		{sdk.Result{Status: 77, Data: []byte("x")}, &sdk.BlockedError{Syscall: "x"}, "x was blocked: "},
	} {
		k := sdk.NewKernel(transport(func(sdk.Request) sdk.Result { return tt.result }))
		b, err := k.Syscall(t.Context(), "x", nil, 0, nil)
		if b != nil || !reflect.DeepEqual(err, tt.want) || err.Error() != tt.text {
			t.Errorf("%+v: got %q, %#v", tt.result, b, err)
		}
	}
}

// files is a kernel with files, which moves no more than most bytes at a time.
type files struct {
	content map[string][]byte
	open    map[uint64]*bytes.Reader
	most    int
	reads   int
}

func (f *files) Syscall(_ context.Context, r sdk.Request) sdk.Result {
	fail := sdk.Result{Status: sdk.Failure, Code: sdk.CodeBadHandle}
	if r.Name == "file_open" {
		switch r.Args[1] {
		case "w":
			f.content[r.Args[0]] = nil
		case "r":
			if _, ok := f.content[r.Args[0]]; !ok {
				return sdk.Result{Status: sdk.Failure, Code: sdk.CodeNotFound}
			}
		default:
			return fail
		}
		h := uint64(len(f.open)) + 1<<40
		f.open[h] = bytes.NewReader(f.content[r.Args[0]])
		return sdk.Result{Status: sdk.Success, Data: binary.LittleEndian.AppendUint64(nil, h)}
	}
	reader := f.open[r.Handle]
	if reader == nil {
		return fail
	}
	switch r.Name {
	case "file_read":
		n, err := strconv.Atoi(r.Args[1])
		if err != nil || n <= 0 || n > 1<<20 {
			return fail
		}
		f.reads++
		b := make([]byte, min(n, f.most))
		n, _ = reader.Read(b)
		return sdk.Result{Status: sdk.Success, Data: b[:n]}
	case "file_write":
		n := min(len(r.Payload), f.most)
		f.content[r.Args[0]] = append(f.content[r.Args[0]], r.Payload[:n]...)
		return data(strconv.Itoa(n))
	case "file_close":
		f.open[r.Handle] = nil
		return data("")
	}
	return fail
}

// TestFiles holds that a file comes back as it was written, however little the
// kernel moves at a time, and is closed.
func TestFiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &files{content: map[string][]byte{}, open: map[uint64]*bytes.Reader{}, most: rapid.IntRange(1, 300).Draw(t, "most")}
		k := sdk.NewKernel(f)
		want := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "content")
		if err := k.WriteFile(t.Context(), "/f", want); err != nil {
			t.Fatal(err)
		}
		got, err := k.ReadFile(t.Context(), "/f")
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, %v, want %d", len(got), err, len(want))
		}
		file, err := k.Open(t.Context(), "/f", "r")
		if err != nil {
			t.Fatal(err)
		}
		if got, err = io.ReadAll(file); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("as a reader: got %d bytes, %v, want %d", len(got), err, len(want))
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		for h, r := range f.open {
			if r != nil {
				t.Fatalf("handle %d is open", h)
			}
		}
	})
}

func TestReadFileAsksForMuch(t *testing.T) {
	f := &files{content: map[string][]byte{"/f": make([]byte, 1<<20)}, open: map[uint64]*bytes.Reader{}, most: 1 << 20}
	if _, err := sdk.NewKernel(f).ReadFile(t.Context(), "/f"); err != nil || f.reads > 5 {
		t.Errorf("%d reads for 1 MiB, %v", f.reads, err)
	}
	var failed *sdk.SyscallError
	if _, err := sdk.NewKernel(f).ReadFile(t.Context(), "/g"); !errors.As(err, &failed) || failed.Code != sdk.CodeNotFound {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestStrangeAnswers holds that an answer that makes no sense is an error.
func TestStrangeAnswers(t *testing.T) {
	handle := strings.Repeat("\x01", 8)
	for name, tt := range map[string]struct {
		answers map[string]string
		ask     func(*sdk.Kernel) error
	}{
		"handle too short": {map[string]string{"file_open": "1234567"}, func(k *sdk.Kernel) error { _, err := k.Open(t.Context(), "/f", "r"); return err }},
		"no clock":         {map[string]string{"time_get": "noon"}, func(k *sdk.Kernel) error { _, err := k.Now(t.Context()); return err }},
		"wrote nothing":    {map[string]string{"file_open": handle, "file_write": "0"}, func(k *sdk.Kernel) error { return k.WriteFile(t.Context(), "/f", []byte("x")) }},
		"wrote too much":   {map[string]string{"file_open": handle, "file_write": "2"}, func(k *sdk.Kernel) error { return k.WriteFile(t.Context(), "/f", []byte("x")) }},
		"wrote no number":  {map[string]string{"file_open": handle, "file_write": ""}, func(k *sdk.Kernel) error { return k.WriteFile(t.Context(), "/f", []byte("x")) }},
		"read too much": {map[string]string{"file_open": handle, "file_read": "ab"}, func(k *sdk.Kernel) error {
			f, err := k.Open(t.Context(), "/f", "r")
			if err != nil {
				return nil
			}
			_, err = f.Read(make([]byte, 1))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.ask(sdk.NewKernel(transport(func(r sdk.Request) sdk.Result { return data(tt.answers[r.Name]) }))); err == nil {
				t.Error("no error")
			}
		})
	}
}

// A plugin tells an effect that was denied from one that failed.
func ExampleKernel() {
	greet := func(ctx context.Context, k *sdk.Kernel, in []byte) ([]byte, error) {
		greeting, err := k.ReadFile(ctx, "/data/greeting")
		var failed *sdk.SyscallError
		var blocked *sdk.BlockedError
		switch {
		case errors.As(err, &failed) && failed.Code == sdk.CodeNotFound:
			greeting = []byte("hello")
		case errors.As(err, &blocked):
			return nil, fmt.Errorf("I may not read my greeting: %w", err)
		case err != nil:
			return nil, err
		}
		return fmt.Appendf(greeting, ", %s", in), nil
	}

	missing := sdk.NewKernel(transport(func(sdk.Request) sdk.Result {
		return sdk.Result{Status: sdk.Failure, Code: sdk.CodeNotFound, Message: "not found"}
	}))
	out, err := greet(context.Background(), missing, []byte("world"))
	fmt.Printf("%s %v\n", out, err)

	denied := sdk.NewKernel(transport(func(sdk.Request) sdk.Result {
		return sdk.Result{Status: sdk.Blocked, Message: "no policy allows it"}
	}))
	_, err = greet(context.Background(), denied, []byte("world"))
	fmt.Println(err)
	// Output:
	// hello, world <nil>
	// I may not read my greeting: file_open was blocked: no policy allows it
}

// TestConn holds a connection and a listener to their syscalls.
func TestConn(t *testing.T) {
	handle := string(binary.LittleEndian.AppendUint64(nil, 7))
	var asked []string
	k := sdk.NewKernel(transport(func(r sdk.Request) sdk.Result {
		asked = append(asked, fmt.Sprintf("%s%v%d%s", r.Name, r.Args, r.Handle, r.Payload))
		switch r.Name {
		case "net_connect":
			return data(handle)
		case "net_listen", "net_accept":
			return data(handle + "127.0.0.1:80")
		case "net_send":
			return data(strconv.Itoa(min(2, len(r.Payload))))
		case "net_recv":
			n, _ := strconv.Atoi(r.Args[0])
			return data("abc"[:min(n, 3)])
		}
		return data("")
	}))
	c, err := k.Connect(t.Context(), "tcp", "example.com", 443)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.WriteString(c, "xyz"); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if got, err := io.ReadAll(io.LimitReader(c, 4)); string(got) != "abca" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	l, err := k.Listen(t.Context(), "tcp", "127.0.0.1", 0)
	if err != nil || l.Addr != "127.0.0.1:80" {
		t.Fatal(l, err)
	}
	if _, peer, err := l.Accept(); peer != "127.0.0.1:80" || err != nil {
		t.Error(peer, err)
	}
	for i, want := range []string{"net_connect[tcp example.com 443]0", "net_send[]7xyz", "net_send[]7z", "net_recv[4]7"} {
		if asked[i] != want {
			t.Errorf("%d: asked %q, want %q", i, asked[i], want)
		}
	}
}
