package syscalls

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"syscall"

	"forgeone.dev/forgeone/abi"
)

// File types of WASI preview 1 (its filetype).
const (
	typeUnknown = iota
	typeBlockDevice
	typeCharacterDevice
	typeDirectory
	typeRegular
	typeSocketDatagram
	typeSocketStream
	typeSymlink
)

func fileType(m fs.FileMode) byte {
	switch {
	case m.IsRegular():
		return typeRegular
	case m.IsDir():
		return typeDirectory
	case m&fs.ModeSymlink != 0:
		return typeSymlink
	case m&fs.ModeSocket != 0:
		return typeSocketStream
	case m&fs.ModeCharDevice != 0:
		return typeCharacterDevice
	case m&fs.ModeDevice != 0:
		return typeBlockDevice
	}
	return typeUnknown
}

// attributes are what a system knows of a file and fs.FileInfo does not say.
// ino is 0 if it is not known.
type attributes struct {
	dev, ino, links            uint64
	accessed, modified, status int64 // times, ns since 1970 UTC
}

// identities make device and inode numbers that tell files apart and tell
// nothing of the host's.
type identities struct{ seed maphash.Seed }

func (ids identities) dev(a attributes) uint64 { return maphash.Comparable(ids.seed, a.dev) }

func (ids identities) ino(a attributes) uint64 {
	if a.ino == 0 {
		return 0
	}
	return maphash.Comparable(ids.seed, [2]uint64{a.dev, a.ino})
}

// objectOrPath resolves a request on the object of the handle, or without one
// of the path; follow is its optional argument i.
func objectOrPath(ctx context.Context, sc *abi.SyscallContext, i int) (abi.Resolution, error) {
	follow, err := word(sc, i, "follow", "nofollow")
	if err != nil {
		return abi.Resolution{}, err
	}
	if sc.Handle != 0 {
		return resolveHandle(ctx, sc)
	}
	last := followed
	if follow == "nofollow" {
		last = kept
	}
	t, resources, failed, err := resolve(ctx, sc.Mounts, sc.Args[0], last)
	res := abi.Resolution{Resources: resources, Err: failed}
	if t != nil {
		res.Object = t
	}
	return res, err
}

func resolveStat(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	return objectOrPath(ctx, sc, 1)
}

// stat is file_stat. Of a path it tells what was found when it was resolved.
func (ids identities) stat(_ context.Context, _ *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	var (
		guest string
		info  fs.FileInfo
		err   error
	)
	switch o := r.Object.(type) {
	case handle:
		guest = o.canonical
		info, err = o.Stat()
	case *target:
		guest = o.path
		if info, err = o.stat(); err == nil {
			err = o.inPlace(info)
		}
	}
	if err != nil {
		return nil, fsError(guest, err)
	}
	a := attributesOf(info)
	b := make([]byte, 0, 64)
	b = binary.LittleEndian.AppendUint64(b, ids.dev(a))
	b = binary.LittleEndian.AppendUint64(b, ids.ino(a))
	b = binary.LittleEndian.AppendUint64(b, uint64(fileType(info.Mode())))
	b = binary.LittleEndian.AppendUint64(b, a.links)
	b = binary.LittleEndian.AppendUint64(b, uint64(info.Size()))
	b = binary.LittleEndian.AppendUint64(b, uint64(a.accessed))
	b = binary.LittleEndian.AppendUint64(b, uint64(a.modified))
	b = binary.LittleEndian.AppendUint64(b, uint64(a.status))
	return b, nil
}

// listing is how far a directory has been read. What it keeps is bounded,
// however large the directory is.
type listing struct {
	entries []fs.FileInfo // as read last, without "." and ".."
	first   uint64        // cookie of the first of them
	end     bool          // there are no more
}

const (
	listBatch  = 256 // entries that are read at once
	listOwn    = 2   // cookie of the first entry after "." and ".."
	listRecord = 24  // bytes of a record without its name
)

// at is the entry of a cookie, nil if there is none.
func (l *listing) at(f *os.File, cookie uint64) (fs.FileInfo, error) {
	if cookie == listOwn || cookie < l.first || l.first == 0 {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		*l = listing{first: listOwn}
	}
	for cookie-l.first >= uint64(len(l.entries)) {
		if l.end {
			return nil, nil
		}
		l.first += uint64(len(l.entries))
		l.entries = nil
		batch, err := f.ReadDir(listBatch)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		l.end = err != nil
		for _, e := range batch {
			info, err := e.Info()
			switch {
			case errors.Is(err, fs.ErrNotExist): // removed since
			case err != nil:
				return nil, err
			case plain(e.Name()) == nil && checkName(e.Name()) == nil:
				l.entries = append(l.entries, info)
			}
		}
	}
	return l.entries[cookie-l.first], nil
}

func (ids identities) list(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	h := r.Object.(handle)
	cookie, err := count("cookie", sc.Args[1])
	if err != nil {
		return nil, err
	}
	limit, err := count("maxbytes", sc.Args[2])
	if err != nil {
		return nil, err
	}
	limit = min(limit, MaxList)
	if !h.mode.dir {
		return nil, fsError(h.canonical, syscall.ENOTDIR)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []byte
	for ; ; cookie++ {
		name, info := "", fs.FileInfo(nil)
		switch cookie {
		case 0:
			name = "."
			info, err = h.Stat()
		case 1:
			name, info = "..", h.above
		default:
			if info, err = h.listing.at(h.File, cookie); info != nil {
				name = info.Name()
			}
		}
		switch {
		case err != nil:
			return nil, fsError(h.canonical, err)
		case info == nil:
			return out, nil
		case uint64(len(out)+listRecord+len(name)) <= limit:
			out = binary.LittleEndian.AppendUint64(out, cookie+1)
			out = binary.LittleEndian.AppendUint64(out, ids.ino(attributesOf(info)))
			out = binary.LittleEndian.AppendUint32(out, uint32(len(name)))
			out = binary.LittleEndian.AppendUint32(out, uint32(fileType(info.Mode())))
			out = append(out, name...)
		case len(out) == 0:
			return nil, fsError(h.canonical, abi.Fail(abi.CodeInvalid, "maxbytes is %d, the next record has %d", limit, listRecord+len(name)))
		default:
			return out, nil
		}
	}
}
