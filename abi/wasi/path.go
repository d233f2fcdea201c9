package wasi

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPath is the longest path there is, in bytes, with that of the directory it
// begins at.
const maxPath = 4096

// Flags of path_open and of the functions that look a path up.
const (
	lookupFollow = 1 << 0

	openCreate    = 1 << 0
	openDirectory = 1 << 1
	openExclusive = 1 << 2
	openTruncate  = 1 << 3
	openAll       = openCreate | openDirectory | openExclusive | openTruncate
)

// at is the absolute guest path of a path below a directory: arguments dir, ptr
// and ptr+1. Errors: those of [Process.directory]; ENOTCAPABLE for a path that
// begins with a slash or, by its text, leaves the directory; EILSEQ for one that
// no file can have.
func (x frame) at(dir, ptr int, need rights) (string, error) {
	d, err := x.p.directory(x.args[dir], need)
	if err != nil {
		return "", err
	}
	p, err := x.text(ptr)
	switch {
	case err != nil:
		return "", err
	case p == "":
		return "", enoent
	case p[0] == '/', leaves(p):
		return "", enotcapable
	case len(d.path)+1+len(p) > maxPath:
		return "", enametoolong
	}
	return strings.TrimSuffix(d.path, "/") + "/" + p, nil
}

// text is a path in guest memory: arguments ptr and ptr+1.
func (x frame) text(ptr int) (string, error) {
	n := uint32(x.args[ptr+1])
	if err := x.room(x.args[ptr], n); err != nil {
		return "", err
	}
	if n > maxPath {
		return "", enametoolong
	}
	b, err := x.read(uint32(x.args[ptr]), n, nil)
	switch {
	case err != nil:
		return "", err
	case !utf8.Valid(b), strings.ContainsFunc(string(b), unicode.IsControl):
		return "", eilseq
	}
	return string(b), nil
}

// leaves reports whether a relative path goes up more than down at some point.
// What links in it lead to is for the syscall to see.
func leaves(p string) bool {
	depth := 0
	for c := range strings.SplitSeq(p, "/") {
		switch c {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// follow is what an argument of lookup flags says of a last link.
func follow(flags uint64) (string, error) {
	switch uint32(flags) {
	case 0:
		return "nofollow", nil
	case lookupFollow:
		return "follow", nil
	}
	return "", einval
}

// pathOpen is path_open(dirfd, lookup, path, path_len, oflags, base, inheriting, fdflags, fd).
func pathOpen(x frame) error {
	q := openRequest{oflags: uint32(x.args[4]), flags: fdFlags(x.args[7])}
	switch last, err := follow(x.args[1]); {
	case err != nil:
		return err
	case q.oflags&^openAll != 0, q.flags&^allFlags != 0:
		return einval
	default:
		q.noFollow = last == "nofollow"
	}
	need := rightOpen
	if q.oflags&openCreate != 0 {
		need |= rightCreateFile
	}
	if q.oflags&openTruncate != 0 {
		need |= rightPathSetSize
	}
	path, err := x.at(0, 2, need)
	if err != nil {
		return err
	}
	dir, err := x.p.directory(x.args[0], need)
	if err != nil {
		return err
	}
	// Rights that neither a file nor a directory has are asked for in vain.
	d := &descriptor{path: path, flags: q.flags, base: rights(x.args[5]) & (fileRights | dirRights), inheriting: rights(x.args[6]) & (fileRights | dirRights)}
	if (d.base|d.inheriting)&^dir.inheriting != 0 {
		return enotcapable
	}
	if err := x.room(x.args[8], 4); err != nil {
		return err
	}
	fd, err := x.p.free()
	if err != nil {
		return err
	}
	if err := x.openAs(d, q); err != nil {
		return err
	}
	x.p.put(fd, d)
	return x.putUint32(x.args[8], uint32(fd))
}

// openRequest is how something is to be opened.
type openRequest struct {
	oflags   uint32
	flags    fdFlags
	noFollow bool
}

// openAs opens the path of a descriptor, as a directory or a file: what it is
// shows when it is opened.
func (x frame) openAs(d *descriptor, q openRequest) (err error) {
	if q.oflags&openDirectory != 0 {
		switch {
		case q.oflags&^openDirectory != 0:
			return einval
		case d.base&rightWrite != 0:
			return eisdir
		}
		return x.openDirectory(d, q)
	}
	d.handle, err = x.open(d.path, q.mode(d.base))
	if err == eisdir && d.base&rightWrite == 0 && q.oflags == 0 { //nolint:errorlint // an errno is never wrapped
		return x.openDirectory(d, q)
	}
	d.typ = typeRegular
	if d.base&rightWrite == 0 {
		d.base &^= writing
	}
	d.base, d.inheriting = d.base&fileRights, d.inheriting&fileRights
	return err
}

func (x frame) openDirectory(d *descriptor, q openRequest) (err error) {
	mode := "rd"
	if q.noFollow {
		mode = "rdn"
	}
	d.handle, err = x.open(d.path, mode)
	d.typ = typeDirectory
	d.base, d.inheriting = d.base&dirRights, d.inheriting&(dirRights|fileRights)
	return err
}

// mode is the mode of file_open for a file that is to be used by some rights.
// Appending is said write by write, so that it can be switched.
func (q openRequest) mode(base rights) string {
	create, truncate := q.oflags&openCreate != 0, q.oflags&openTruncate != 0
	write := base&rightWrite != 0
	var mode strings.Builder
	switch {
	case write && base&(rightRead|rightReaddir) == 0:
		mode.WriteByte('w')
		if !create {
			mode.WriteByte('e')
		}
		if !truncate {
			mode.WriteByte('k')
		}
	default:
		mode.WriteByte('r')
		if write || truncate {
			mode.WriteByte('+')
		}
		if create {
			mode.WriteByte('c')
		}
		if truncate {
			mode.WriteByte('t')
		}
	}
	if create && q.oflags&openExclusive != 0 {
		mode.WriteByte('x')
	}
	if q.noFollow {
		mode.WriteByte('n')
	}
	if q.flags&flagsSync != 0 {
		mode.WriteByte('s')
	}
	return mode.String()
}

// pathCreateDirectory is path_create_directory(fd, path, path_len).
func pathCreateDirectory(x frame) error {
	path, err := x.at(0, 1, rightCreateDirectory)
	if err != nil {
		return err
	}
	return x.do("file_mkdir", 0, path)
}

// pathRemoveDirectory is path_remove_directory(fd, path, path_len).
func pathRemoveDirectory(x frame) error {
	path, err := x.at(0, 1, rightRemoveDirectory)
	if err != nil {
		return err
	}
	return x.do("file_remove", 0, path, "dir")
}

// pathUnlinkFile is path_unlink_file(fd, path, path_len).
func pathUnlinkFile(x frame) error {
	path, err := x.at(0, 1, rightUnlinkFile)
	if err != nil {
		return err
	}
	return x.do("file_remove", 0, path, "file")
}

// pathFilestatGet is path_filestat_get(fd, lookup, path, path_len, filestat).
func pathFilestatGet(x frame) error {
	last, err := follow(x.args[1])
	if err != nil {
		return err
	}
	path, err := x.at(0, 2, rightPathStat)
	if err != nil {
		return err
	}
	return x.stat(0, x.args[4], path, last)
}

// pathFilestatSetTimes is path_filestat_set_times(fd, lookup, path, path_len, atim, mtim, fst_flags).
func pathFilestatSetTimes(x frame) error {
	last, err := follow(x.args[1])
	if err != nil {
		return err
	}
	path, err := x.at(0, 2, rightPathSetTimes)
	if err != nil {
		return err
	}
	atim, mtim, err := times(x.args[4], x.args[5], uint32(x.args[6]))
	if err != nil {
		return err
	}
	return x.do("file_times", 0, path, atim, mtim, last)
}

// pathLink is path_link(old_fd, lookup, old_path, old_path_len, new_fd, new_path, new_path_len).
func pathLink(x frame) error {
	last, err := follow(x.args[1])
	if err != nil {
		return err
	}
	from, err := x.at(0, 2, rightLinkSource)
	if err != nil {
		return err
	}
	to, err := x.at(4, 5, rightLinkTarget)
	if err != nil {
		return err
	}
	return x.do("file_link", 0, from, to, last)
}

// pathRename is path_rename(fd, old_path, old_path_len, new_fd, new_path, new_path_len).
func pathRename(x frame) error {
	from, err := x.at(0, 1, rightRenameSource)
	if err != nil {
		return err
	}
	to, err := x.at(3, 4, rightRenameTarget)
	if err != nil {
		return err
	}
	return x.do("file_rename", 0, from, to)
}

// pathSymlink is path_symlink(old_path, old_path_len, fd, new_path, new_path_len).
func pathSymlink(x frame) error {
	target, err := x.text(0)
	if err != nil {
		return err
	}
	path, err := x.at(2, 3, rightSymlink)
	if err != nil {
		return err
	}
	return x.do("file_symlink", 0, path, target)
}

// pathReadlink is path_readlink(fd, path, path_len, buf, buf_len, bufused). What
// does not fit is cut.
func pathReadlink(x frame) error {
	path, err := x.at(0, 1, rightReadlink)
	if err != nil {
		return err
	}
	size := uint32(x.args[4])
	if err := x.room(x.args[3], size); err != nil {
		return err
	}
	if err := x.room(x.args[5], 4); err != nil {
		return err
	}
	target, err := x.syscall("file_readlink", 0, nil, path)
	if err != nil {
		return err
	}
	target = target[:min(uint64(len(target)), uint64(size))]
	if err := x.put(x.args[3], target); err != nil {
		return err
	}
	return x.putUint32(x.args[5], uint32(len(target)))
}
