package syscalls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"forgeone.dev/forgeone/abi"
)

// resolver is the Resolve of a registration.
type resolver = func(context.Context, *abi.SyscallContext) (abi.Resolution, error)

// atMost is a resolver that takes at most n arguments: for a last argument that
// may be left out, but not be repeated.
func atMost(n int, resolve resolver) resolver {
	return func(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
		if len(sc.Args) > n {
			return abi.Resolution{}, fmt.Errorf("%d arguments: at most %d", len(sc.Args), n)
		}
		return resolve(ctx, sc)
	}
}

// word is argument i, one of a few words; the first of them if it was left out.
func word(sc *abi.SyscallContext, i int, words ...string) (string, error) {
	if i >= len(sc.Args) {
		return words[0], nil
	}
	if !slices.Contains(words, sc.Args[i]) {
		return "", fmt.Errorf("argument %d, %.32q: want one of %q", i, sc.Args[i], words)
	}
	return sc.Args[i], nil
}

// count is a decimal argument of an effect, or a failure.
func count(what, s string) (uint64, error) {
	n, err := number(what, s)
	if err != nil {
		return 0, abi.Fail(abi.CodeInvalid, "%v", err)
	}
	return n, nil
}

func read(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	h := r.Object.(handle)
	n, err := count("n", sc.Args[1])
	if err != nil {
		return nil, err
	}
	if err := tooLarge("n", n, MaxRead); err != nil {
		return nil, err
	}
	switch {
	case h.mode.dir:
		return nil, fsError(h.canonical, abi.Fail(abi.CodeIsDir, "is a directory; file_list lists it"))
	case !h.mode.read:
		return nil, fsError(h.canonical, abi.Fail(abi.CodeBadHandle, "not open for reading"))
	}
	p := sc.Room
	if uint64(len(p)) < n {
		p = make([]byte, n)
	}
	p = p[:n]
	var got int
	if len(sc.Args) == 3 {
		offset, failed := count("offset", sc.Args[2])
		if failed != nil {
			return nil, failed
		}
		got, err = h.ReadAt(p, int64(offset))
	} else {
		got, err = h.Read(p)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fsError(h.canonical, err)
	}
	return p[:got], nil
}

func write(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	h := r.Object.(handle)
	if err := tooLarge("payload", len(sc.Payload), MaxWrite); err != nil {
		return nil, err
	}
	if !h.mode.write {
		return nil, fsError(h.canonical, abi.Fail(abi.CodeBadHandle, "not open for writing"))
	}
	n, err := h.write(sc.Payload, sc.Args[1:])
	if err != nil {
		failed := fsError(h.canonical, err)
		if se := (*abi.SyscallError)(nil); errors.As(failed, &se) && n > 0 {
			se.Context["written"] = strconv.Itoa(n)
		}
		return nil, failed
	}
	return strconv.AppendInt(nil, int64(n), 10), nil
}

// write writes at the position, or where the one optional argument says. The
// system's append flag is set only while it is wanted: it would override an
// offset, and it is what a plugin can ask for write by write.
func (f *file) write(p []byte, where []string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case len(where) == 0 && f.mode.append, len(where) > 0 && where[0] == "append":
		return f.append(p)
	case len(where) == 0:
		if err := f.setAppending(false); err != nil {
			return 0, err
		}
		return f.Write(p)
	}
	offset, err := count("offset", where[0])
	if err != nil {
		return 0, err
	}
	if err := f.setAppending(false); err != nil {
		return 0, err
	}
	return f.WriteAt(p, int64(offset))
}

// whences are those of file_seek.
var whences = [...]string{io.SeekStart: "set", io.SeekCurrent: "cur", io.SeekEnd: "end"}

func resolveSeek(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	if _, err := word(sc, 2, whences[:]...); err != nil {
		return abi.Resolution{}, err
	}
	return resolveHandle(ctx, sc)
}

func seek(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	h := r.Object.(handle)
	offset, err := strconv.ParseInt(sc.Args[1], 10, 64)
	switch {
	case err != nil:
		return nil, abi.Fail(abi.CodeInvalid, "offset %.32q: want a decimal number", sc.Args[1])
	case h.mode.dir:
		return nil, fsError(h.canonical, abi.Fail(abi.CodeIsDir, "is a directory; file_list takes a cookie"))
	}
	at, err := h.Seek(offset, slices.Index(whences[:], sc.Args[2]))
	if err != nil {
		return nil, fsError(h.canonical, err)
	}
	return strconv.AppendInt(nil, at, 10), nil
}

func resolveTruncate(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	if _, err := word(sc, 2, "grow"); err != nil {
		return abi.Resolution{}, err
	}
	res, err := resolveHandle(ctx, sc)
	res.Also = []string{"file_write"}
	return res, err
}

func truncate(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	h := r.Object.(handle)
	size, err := count("size", sc.Args[1])
	switch {
	case err != nil:
		return nil, err
	case !h.mode.write:
		return nil, fsError(h.canonical, abi.Fail(abi.CodeInvalid, "not open for writing"))
	case len(sc.Args) == 3:
		return nil, fsError(h.canonical, h.grow(int64(size)))
	}
	return nil, fsError(h.canonical, h.Truncate(int64(size)))
}

func resolveSync(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	if _, err := word(sc, 1, "data", "all"); err != nil {
		return abi.Resolution{}, err
	}
	return resolveHandle(ctx, sc)
}

func syncFile(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	h := r.Object.(handle)
	if sc.Args[1] == "data" && !h.mode.dir {
		return nil, fsError(h.canonical, syncData(h.File))
	}
	return nil, fsError(h.canonical, h.Sync())
}

// grow makes a file longer, if it is shorter. It allocates nothing: a plugin
// would fill the host's disk with one syscall.
func (f *file) grow(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := f.Stat()
	if err != nil || info.Size() >= size {
		return err
	}
	return f.Truncate(size)
}
