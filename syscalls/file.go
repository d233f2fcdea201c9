package syscalls

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of file syscalls.
const (
	MaxRead  = 1 << 20  // bytes that one file_read returns
	MaxWrite = 16 << 20 // bytes that one file_write takes
	MaxList  = 1 << 20  // bytes that one file_list returns
)

// createMode is the permissions of a file that a plugin makes, before the
// host's umask.
const createMode = 0o644

func files() []abi.Registration {
	ids := identities{maphash.MakeSeed()}
	return []abi.Registration{
		{
			Name: "file_open", Args: []string{"path", "mode"}, MinTrust: capability.Limited, World: true,
			Doc: "Open a regular file, or with `d` a directory. Returns a handle, 8 bytes little-endian. Mode is one of fopen (`r`; `w` makes and truncates; `a` makes and writes at the end), " +
				"then any of `+` (read and write), `x` (fail if it exists), `c` (after `r`: make it if it is missing), `e` (after `w` or `a`: do not make it), `k` (after `w`: do not truncate), `t` (after `r+` or `a`: truncate), " +
				"`n` (fail if the last name is a symbolic link), `s` (each write is on disk when it returns), `d` (after `r`: a directory, for file_list, file_stat, file_sync and file_times). " +
				"What writes or makes is a `file_write` too.",
			Resolve: resolveOpen, Handler: open,
		},
		{
			Name: "file_read", Args: []string{"path", "n", "offset..."}, MinTrust: capability.Limited,
			Doc:     fmt.Sprintf("Read up to n bytes, at most %d, from an open file: at its position, which moves, or at the offset. Returns none at its end.", MaxRead),
			Resolve: atMost(3, resolveHandle), Handler: read,
		},
		{
			Name: "file_write", Args: []string{"path", "offset..."}, MinTrust: capability.Standard, World: true, Fold: true,
			Doc:     fmt.Sprintf("Write the payload, at most %d bytes, to an open file: at its position, which moves; at the offset; or with `append` for it at the end of the file, whatever its mode, and the position is there after it. Returns how many were written, decimal.", MaxWrite),
			Resolve: atMost(2, resolveHandle), Handler: write,
		},
		{
			Name: "file_seek", Args: []string{"path", "offset", "whence"}, MinTrust: capability.Limited,
			Doc:     "Move the position of an open file by an offset, which may be negative, from whence: `set` (its beginning), `cur` (the position) or `end`. Returns the position, decimal.",
			Resolve: resolveSeek, Handler: seek,
		},
		{
			Name: "file_truncate", Args: []string{"path", "size", "grow..."}, MinTrust: capability.Standard, World: true, Fold: true,
			Doc:     "Cut or extend, with zero bytes, a file that is open for writing. With `grow` a longer one is left as it is. Space is taken on the host as it is written to. A `file_write` too.",
			Resolve: atMost(3, resolveTruncate), Handler: truncate,
		},
		{
			Name: "file_sync", Args: []string{"path", "what"}, MinTrust: capability.Standard,
			Doc:     "Wait until what was written to an open file, or what a directory lists, is on disk: `data`, or `all` with its times too.",
			Resolve: resolveSync, Handler: syncFile,
		},
		{
			Name: "file_close", Args: []string{"path"}, MinTrust: capability.Limited, Release: true,
			Doc:     "Close a handle.",
			Resolve: resolveHandle,
			Handler: func(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
				return nil, fsError(r.Object.(handle).canonical, sc.CloseHandle())
			},
		},
		{
			Name: "file_stat", Args: []string{"path", "follow..."}, MinTrust: capability.Limited,
			Doc: "Get what is known of the object that a handle is open on, or without one of the path's: with `follow` (the default) of what a last symbolic link leads to, with `nofollow` of the link. " +
				"Returns 64 bytes, little-endian, WASI's filestat: dev u64, ino u64, type u8 (0 unknown, 1 block and 2 character device, 3 directory, 4 regular file, 6 socket, 7 symbolic link), 7 zero bytes, links u64, size u64, " +
				"and the times of the last access, modification and change, u64, ns since 1970 UTC. dev and ino are not the host's: two files have the same if and only if they are the same, while the kernel runs; ino is 0 where the host tells none (Windows).",
			Resolve: atMost(2, resolveStat), Handler: ids.stat,
		},
		{
			Name: "file_list", Args: []string{"path", "cookie", "maxbytes"}, MinTrust: capability.Limited,
			Doc: fmt.Sprintf("List an open directory, from a cookie: 0 begins anew, any other is one of a record of this handle. Returns whole records, as many as fit in maxbytes, at most %d, and none at the end: ", MaxList) +
				"the cookie of the next record u64, ino u64, length of the name u32, type u8 (see file_stat), 3 zero bytes, all little-endian, WASI's dirent, then the name. `.` and `..` come first. Names that no path can have are left out.",
			Resolve: resolveHandle, Handler: ids.list,
		},
	}
}

// openMode is a mode of fopen (C11, 7.21.5.3) with what POSIX has besides it.
type openMode struct {
	read, write                        bool
	create, truncate, append, newAlone bool
	dir, noFollow, sync                bool
}

func parseMode(s string) (m openMode, err error) {
	bad := fmt.Errorf("mode %.16q: want r, w or a, and then any of + x c e k t n s d that fit it, each once", s)
	if s == "" {
		return m, bad
	}
	first := s[0]
	switch first {
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
		if strings.ContainsRune(s[1:1+i], c) {
			return m, bad
		}
		switch c {
		case '+':
			m.read, m.write = true, true
		case 'x':
			m.newAlone = true
		case 'c':
			m.create = true
		case 'e':
			m.create = false
		case 'k':
			m.truncate = false
		case 't':
			m.truncate = true
		case 'n':
			m.noFollow = true
		case 's':
			m.sync = true
		case 'd':
			m.dir = true
		default:
			return m, bad
		}
	}
	has := func(letters string) bool { return strings.ContainsAny(s[1:], letters) }
	switch {
	case first == 'r' && has("ek"), first == 'w' && has("ct"), first == 'a' && has("ck"),
		m.truncate && !m.write, m.newAlone && !m.create, m.dir && (m.write || m.create):
		return m, bad
	}
	return m, nil
}

// flags are those of os.OpenFile, without the ones that make, truncate or
// append: see [file.write] for the last.
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
	if m.sync {
		flags |= os.O_SYNC
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
	last := followed
	if mode.newAlone || mode.noFollow {
		last = kept
	}
	t, resources, failed, err := resolve(ctx, sc.Mounts, sc.Args[0], last)
	if err != nil {
		return abi.Resolution{}, err
	}
	res := abi.Resolution{Resources: resources, Err: failed}
	if mode.write || mode.create {
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
	missing := t.name != "" && t.info == nil
	switch {
	case (mode.write || mode.create && missing) && t.dir().mount.ReadOnly:
		return readOnly()
	case missing && !mode.create:
		return fs.ErrNotExist
	case missing && !t.slash:
		return nil
	case !missing && mode.newAlone:
		return fs.ErrExist
	case t.name == "" && mode.dir:
		return nil
	case missing, t.name == "":
		return abi.Fail(abi.CodeIsDir, "is a directory")
	case t.info.Mode()&fs.ModeSymlink != 0 && mode.noFollow:
		return abi.Fail(codeLoop, "is a symbolic link")
	case mode.dir:
		return syscall.ENOTDIR
	case !t.info.Mode().IsRegular():
		return irregular(t.info)
	}
	return nil
}

func readOnly() error { return abi.Fail(abi.CodeReadOnly, "the mount is read-only") }

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
	opened := &file{File: f, path: sc.Args[0], mode: o.mode, readOnly: o.dir().mount.ReadOnly}
	if o.mode.dir {
		if opened.above, err = o.above(); err != nil {
			return nil, errors.Join(fsError(o.path, err), f.Close())
		}
	}
	h, err := sc.Open(opened, r.Resources[0])
	if errors.Is(err, abi.ErrHandles) {
		return nil, abi.Fail(abi.CodeTooMany, "%v: at most %d; close some", err, abi.MaxHandles)
	}
	if err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint64(nil, uint64(h)), nil
}

// above is the directory above a directory, which for a mount's root is itself.
func (o opening) above() (fs.FileInfo, error) {
	if o.dir().info == nil {
		return o.dir().root.Stat(".")
	}
	return o.chain[len(o.chain)-2].root.Stat(".")
}

// open opens what was resolved, or makes it. Nothing is truncated before it is
// known to be that.
func (o opening) open() (*os.File, error) {
	if o.mode.dir {
		f, err := o.dir().root.Open(".")
		if err != nil {
			return nil, err
		}
		if err := o.inPlace(nil); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
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
	path     string // argument 0 of the file_open
	mode     openMode
	readOnly bool        // its mount
	above    fs.FileInfo // of a directory

	// mu orders the writes of this handle, which share its append flag, and
	// its listings. Nothing but a request on the handle waits for it.
	mu        sync.Mutex
	appending bool // the append flag
	listing   listing
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
