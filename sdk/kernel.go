package sdk

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"time"
)

// chunk is how much a file moves in one syscall, in bytes.
const chunk = 256 << 10

// File is a file that the plugin has open. It is not for concurrent use.
type File struct {
	k      *Kernel
	ctx    context.Context // of the call that opened it, which it does not outlive
	path   string
	handle uint64
}

// Open opens the file at an absolute guest path. mode is as in C's fopen: "r",
// "r+", "w", "w+", "a", "a+", and "x" appended to "w" refuses an existing file.
// The file lives as long as ctx, and is closed with [File.Close].
func (k *Kernel) Open(ctx context.Context, path, mode string) (*File, error) {
	b, err := k.Syscall(ctx, "file_open", []string{path, mode}, 0, nil)
	if err != nil {
		return nil, err
	}
	if len(b) != 8 {
		return nil, fmt.Errorf("file_open: the kernel answered %d bytes, want a handle of 8", len(b))
	}
	return &File{k: k, ctx: ctx, path: path, handle: binary.LittleEndian.Uint64(b)}, nil
}

// Read implements io.Reader.
func (f *File) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := f.next(min(len(p), chunk))
	return copy(p, b), err
}

// next is what comes next in the file, at most n bytes and, without an error,
// at least one.
func (f *File) next(n int) ([]byte, error) {
	b, err := f.k.Syscall(f.ctx, "file_read", []string{f.path, strconv.Itoa(n)}, f.handle, nil)
	switch {
	case err != nil:
		return nil, err
	case len(b) > n:
		return nil, fmt.Errorf("file_read: the kernel answered %d bytes, %d were asked for", len(b), n)
	case len(b) == 0:
		return nil, io.EOF
	}
	return b, nil
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	var n int
	for n < len(p) {
		part := p[n:min(len(p), n+chunk)]
		b, err := f.k.Syscall(f.ctx, "file_write", []string{f.path}, f.handle, part)
		if err != nil {
			return n, err
		}
		w, err := strconv.Atoi(string(b))
		if err != nil || w <= 0 || w > len(part) {
			return n, io.ErrShortWrite
		}
		n += w
	}
	return n, nil
}

// Close closes the file.
func (f *File) Close() error {
	_, err := f.k.Syscall(f.ctx, "file_close", []string{f.path}, f.handle, nil)
	return err
}

// ReadFile reads a file whole.
func (k *Kernel) ReadFile(ctx context.Context, path string) ([]byte, error) {
	f, err := k.Open(ctx, path, "r")
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		var b []byte
		if b, err = f.next(chunk); err != nil {
			break
		}
		all = append(all, b...)
	}
	if err == io.EOF { //nolint:errorlint // next returns it as it is
		err = nil
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// WriteFile writes a file whole, replacing what was there.
func (k *Kernel) WriteFile(ctx context.Context, path string, data []byte) error {
	f, err := k.Open(ctx, path, "w")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// Now is the wall clock.
func (k *Kernel) Now(ctx context.Context) (time.Time, error) {
	b, err := k.Syscall(ctx, "time_get", []string{"wall"}, 0, nil)
	if err != nil {
		return time.Time{}, err
	}
	ns, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("time_get: %w", err)
	}
	return time.Unix(0, ns).UTC(), nil
}

// Sleep waits for d, or until the call ends.
func (k *Kernel) Sleep(ctx context.Context, d time.Duration) error {
	_, err := k.Syscall(ctx, "time_sleep", []string{strconv.FormatInt(int64(d), 10)}, 0, nil)
	return err
}

// Getenv is a variable of the kernel's environment; a *[SyscallError] with
// [CodeNotFound] when it is not set.
func (k *Kernel) Getenv(ctx context.Context, name string) (string, error) {
	b, err := k.Syscall(ctx, "env_get", []string{name}, 0, nil)
	return string(b), err
}

// Random is n random bytes, at most 64 KiB, from the kernel's generator.
func (k *Kernel) Random(ctx context.Context, n int) ([]byte, error) {
	return k.Syscall(ctx, "random_get", []string{strconv.Itoa(n)}, 0, nil)
}

// Rand is a generator of random numbers that begins with 32 bytes from
// [Kernel.Random]. It is for one goroutine. In a WASM plugin, unlike the
// top-level functions of math/rand/v2, it gives each call other numbers.
func (k *Kernel) Rand(ctx context.Context) (*rand.Rand, error) {
	var seed [32]byte
	b, err := k.Random(ctx, len(seed))
	if err != nil {
		return nil, err
	}
	if copy(seed[:], b) < len(seed) {
		return nil, fmt.Errorf("random_get: the kernel answered %d bytes, want %d", len(b), len(seed))
	}
	return rand.New(rand.NewChaCha8(seed)), nil
}

// Hash is the digest of data; algorithm is "sha256", "sha384" or "sha512".
func (k *Kernel) Hash(ctx context.Context, algorithm string, data []byte) ([]byte, error) {
	return k.Syscall(ctx, "crypto_hash", []string{algorithm}, 0, data)
}

// Log writes a line to the kernel's log under the plugin's name. level is
// "debug", "info", "warn" or "error"; kv are alternating keys and values.
func (k *Kernel) Log(ctx context.Context, level, message string, kv ...string) error {
	_, err := k.Syscall(ctx, "log_write", append([]string{level, message}, kv...), 0, nil)
	return err
}

// SysInfo describes the kernel's system, as JSON.
func (k *Kernel) SysInfo(ctx context.Context) ([]byte, error) {
	return k.Syscall(ctx, "sys_info", nil, 0, nil)
}

// KVGet is a value of the plugin's own key-value space; a *[SyscallError] with
// [CodeNotFound] when there is none.
func (k *Kernel) KVGet(ctx context.Context, key string) ([]byte, error) {
	return k.Syscall(ctx, "kv_get", []string{key}, 0, nil)
}

// KVPut stores a value in the plugin's own key-value space.
func (k *Kernel) KVPut(ctx context.Context, key string, value []byte) error {
	_, err := k.Syscall(ctx, "kv_put", []string{key}, 0, value)
	return err
}
