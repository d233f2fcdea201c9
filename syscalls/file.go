package syscalls

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of file syscalls.
const (
	MaxRead  = 1 << 20  // bytes that one file_read returns
	MaxWrite = 16 << 20 // bytes that one file_write takes
)

// createMode is the permissions of a file that a plugin makes, before the
// host's umask.
const createMode = 0o644

func files() []abi.Registration {
	return []abi.Registration{
		{
			Name: "file_open", Args: []string{"path", "mode"}, MinTrust: capability.Limited, World: true,
			Doc:     "Open a regular file with a mode of fopen (`r`, `r+`, `w`, `w+`, `a`, `a+`, with `x` to make it anew). Returns a handle, 8 bytes little-endian. Every mode but `r` is a `file_write` too.",
			Resolve: resolveOpen, Handler: open,
		},
		{
			Name: "file_read", Args: []string{"path", "n"}, MinTrust: capability.Limited,
			Doc:     fmt.Sprintf("Read up to n bytes, at most %d, from an open file. Returns none at its end.", MaxRead),
			Resolve: resolveHandle, Handler: read,
		},
		{
			Name: "file_write", Args: []string{"path"}, MinTrust: capability.Standard, World: true, Fold: true,
			Doc:     fmt.Sprintf("Write the payload, at most %d bytes, to an open file. Returns how many were written, decimal.", MaxWrite),
			Resolve: resolveHandle, Handler: write,
		},
		{
			Name: "file_close", Args: []string{"path"}, MinTrust: capability.Limited, Release: true,
			Doc:     "Close a handle.",
			Resolve: resolveHandle,
			Handler: func(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
				return nil, fsError(r.Object.(handle).canonical, sc.CloseHandle())
			},
		},
	}
}

// openMode is a mode of fopen (C11, 7.21.5.3).
type openMode struct {
	read, write                        bool
	create, truncate, append, newAlone bool
}

func parseMode(s string) (m openMode, err error) {
	bad := fmt.Errorf("mode %.16q: want r, w or a, and then + and x in any order, x not with r", s)
	if s == "" {
		return m, bad
	}
	switch s[0] {
	case 'r':
		m.read = true
	case 'w':
		m.write, m.create, m.truncate = true, true, true
	case 'a':
		m.write, m.create, m.append = true, true, true
	default:
		return m, bad
	}
	for i, c := range s[1:] {
		switch {
		case strings.ContainsRune(s[1:1+i], c):
			return m, bad
		case c == '+':
			m.read, m.write = true, true
		case c == 'x' && m.create:
			m.newAlone = true
		default:
			return m, bad
		}
	}
	return m, nil
}

// flags are those of os.OpenFile, without the ones that make or truncate.
func (m openMode) flags() int {
	flags := openFlags
	switch {
	case m.read && m.write:
		flags |= os.O_RDWR
	case m.write:
		flags |= os.O_WRONLY
	default:
		flags |= os.O_RDONLY
	}
	if m.append {
		flags |= os.O_APPEND
	}
	return flags
}

// opening is a file that is to be opened.
type opening struct {
	*target
	mode openMode
}

func resolveOpen(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	mode, err := parseMode(sc.Args[1])
	if err != nil {
		return abi.Resolution{}, err
	}
	t, resources, failed, err := resolve(ctx, sc.Mounts, sc.Args[0], !mode.newAlone)
	if err != nil {
		return abi.Resolution{}, err
	}
	res := abi.Resolution{Resources: resources, Err: failed}
	if mode.write {
		res.Also = []string{"file_write"}
	}
	if t != nil {
		res.Object = opening{t, mode}
		res.Err = fsError(t.path, t.refusal(mode))
	}
	return res, nil
}

// refusal is why the target cannot be opened in that mode, as far as it can be
// told without opening it.
func (t *target) refusal(mode openMode) error {
	switch {
	case mode.write && t.dir().mount.ReadOnly:
		return abi.Fail(abi.CodeReadOnly, "the mount is read-only")
	case t.name == "":
		return abi.Fail(abi.CodeIsDir, "is a directory")
	case t.info == nil && !mode.create:
		return fs.ErrNotExist
	case t.info != nil && mode.newAlone:
		return fs.ErrExist
	case t.info != nil && !t.info.Mode().IsRegular():
		return irregular(t.info)
	}
	return nil
}

func irregular(info fs.FileInfo) error {
	kind := "not a regular file"
	switch m := info.Mode(); {
	case m&fs.ModeNamedPipe != 0:
		kind = "a named pipe"
	case m&fs.ModeSocket != 0:
		kind = "a socket"
	case m&fs.ModeDevice != 0:
		kind = "a device"
	}
	return abi.Fail(abi.CodeUnsupported, "is %s; only regular files can be opened", kind)
}

func open(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	o := r.Object.(opening)
	f, err := o.open()
	if err != nil {
		return nil, fsError(o.path, err)
	}
	h, err := sc.Open(&file{f, sc.Args[0], o.mode}, r.Resources[0])
	if errors.Is(err, abi.ErrHandles) {
		return nil, abi.Fail(abi.CodeTooMany, "%v: at most %d; close some", err, abi.MaxHandles)
	}
	if err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint64(nil, uint64(h)), nil
}

// open opens what was resolved, or makes it. Nothing is truncated before it is
// known to be that.
func (o opening) open() (*os.File, error) {
	// A second turn is for a file that another has made, or removed, since it
	// was looked for. Its path is the one decided about, in either case.
	for range 3 {
		if o.info == nil {
			f, err := o.make()
			if !errors.Is(err, fs.ErrExist) || o.mode.newAlone {
				return f, err
			}
			if o.info, err = lookup(o.dir().root, o.name); err != nil {
				return nil, err
			}
			if err := o.refusal(o.mode); err != nil {
				return nil, err
			}
			continue
		}
		f, err := o.dir().root.OpenFile(o.name, o.mode.flags(), 0)
		if errors.Is(err, fs.ErrNotExist) && o.mode.create {
			o.info = nil
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := o.settle(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	return nil, stale(o.path)
}

// make makes the file, in the directory that was resolved and still is there.
func (o opening) make() (*os.File, error) {
	if err := o.inPlace(nil); err != nil {
		return nil, err
	}
	f, err := o.dir().root.OpenFile(o.name, o.mode.flags()|os.O_CREATE|os.O_EXCL, createMode)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = o.inPlace(info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// settle checks that an open file is the one that was resolved, and truncates
// it if that was asked for.
func (o opening) settle(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, o.info) {
		return stale(o.path)
	}
	if !info.Mode().IsRegular() {
		return irregular(info)
	}
	if err := o.inPlace(info); err != nil {
		return err
	}
	if o.mode.truncate {
		return f.Truncate(0)
	}
	return nil
}

// file is what a handle of this family names. What it may do is fixed when it
// is opened.
type file struct {
	*os.File
	path string // argument 0 of the file_open
	mode openMode
}

// handle is a file as a request found it.
type handle struct {
	*file
	canonical string
}

// Close hides the one of the file: the gate closes what a request resolved to,
// and the file stays open after it.
func (handle) Close() error { return nil }

// resolveHandle resolves a request on an open file. Its resource is the one
// that the file was opened as. Argument 0 is what argument policies decide on,
// so one that the file was not opened by is malformed.
func resolveHandle(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	if err := checkPath(sc.Args[0]); err != nil {
		return abi.Resolution{}, err
	}
	object, uri, ok := sc.Object()
	f, isFile := object.(*file)
	if !ok || !isFile {
		res := resource(fileURI(path.Clean(sc.Args[0])))
		res.Err = abi.Fail(abi.CodeBadHandle, "handle %#x is not an open file of this plugin; where its state is pristine, a handle ends with its call", uint64(sc.Handle))
		return res, nil
	}
	if f.path != sc.Args[0] {
		return abi.Resolution{}, fmt.Errorf("path %.256q: the handle was opened by %.256q", sc.Args[0], f.path)
	}
	res := resource(uri)
	res.Object = handle{f, strings.TrimPrefix(uri, "file://")}
	return res, nil
}

func read(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	h := r.Object.(handle)
	n, err := number("n", sc.Args[1])
	if err != nil {
		return nil, abi.Fail(abi.CodeInvalid, "%v", err)
	}
	if err := tooLarge("n", n, MaxRead); err != nil {
		return nil, err
	}
	if !h.mode.read {
		return nil, fsError(h.canonical, abi.Fail(abi.CodeBadHandle, "not open for reading"))
	}
	p := make([]byte, n)
	got, err := h.Read(p)
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
	n, err := h.Write(sc.Payload)
	if err != nil {
		failed := fsError(h.canonical, err)
		if se := (*abi.SyscallError)(nil); errors.As(failed, &se) {
			se.Context["written"] = strconv.Itoa(n)
		}
		return nil, failed
	}
	return strconv.AppendInt(nil, int64(n), 10), nil
}
