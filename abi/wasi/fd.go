package wasi

import (
	"encoding/binary"
	"math"
	"strconv"

	"forgeone.dev/forgeone/abi"
)

// fdRead is fd_read(fd, iovs, iovs_len, nread).
func fdRead(x frame) error {
	d, err := x.p.descriptor(x.args[0], 0)
	if err != nil {
		return err
	}
	if d.stream == "" {
		return x.readFile(x.args[3])
	}
	if d, err = x.p.descriptor(x.args[0], rightRead); err != nil {
		return err
	}
	if err := x.room(x.args[3], 4); err != nil {
		return err
	}
	vs, total, err := x.vectors(x.args[1], x.args[2])
	if err != nil {
		return err
	}
	data, err := x.readStdin(total, d.flags&flagNonblock != 0)
	if err != nil {
		return err
	}
	if err := x.scatter(vs, data); err != nil {
		return err
	}
	return x.putUint32(x.args[3], uint32(len(data)))
}

// fdPread is fd_pread(fd, iovs, iovs_len, offset, nread).
func fdPread(x frame) error {
	if x.args[3] > math.MaxInt64 {
		return einval
	}
	return x.readFile(x.args[4], strconv.FormatUint(x.args[3], 10))
}

// readFile reads a file, at its position or at an offset.
func (x frame) readFile(nread uint64, offset ...string) error {
	need := rightRead
	if len(offset) > 0 {
		need |= rightSeek
	}
	d, err := x.p.file(x.args[0], need)
	if err != nil {
		return err
	}
	if err := x.room(nread, 4); err != nil {
		return err
	}
	vs, total, err := x.vectors(x.args[1], x.args[2])
	if err != nil {
		return err
	}
	args := append([]string{d.path, strconv.FormatUint(uint64(total), 10)}, offset...)
	data, err := x.syscallInto(x.p.room(total), "file_read", d.handle, nil, args...)
	if err != nil {
		return err
	}
	if err := x.scatter(vs, data); err != nil {
		return err
	}
	return x.putUint32(nread, uint32(len(data)))
}

// fdWrite is fd_write(fd, iovs, iovs_len, nwritten).
func fdWrite(x frame) error {
	d, err := x.p.descriptor(x.args[0], 0)
	if err != nil {
		return err
	}
	if d.stream == "" {
		if d.flags&flagAppend != 0 {
			return x.writeFile(x.args[3], "append")
		}
		return x.writeFile(x.args[3])
	}
	if d, err = x.p.descriptor(x.args[0], rightWrite); err != nil {
		return err
	}
	if err := x.room(x.args[3], 4); err != nil {
		return err
	}
	data, err := x.gather(x.args[1], x.args[2])
	if err != nil {
		return err
	}
	if len(data) > 0 {
		if _, err := x.syscall("stdio_write", 0, data, d.stream); err != nil {
			return err
		}
	}
	return x.putUint32(x.args[3], uint32(len(data)))
}

// fdPwrite is fd_pwrite(fd, iovs, iovs_len, offset, nwritten). A descriptor that
// appends does so whatever the offset is, as on Linux.
func fdPwrite(x frame) error {
	if x.args[3] > math.MaxInt64 {
		return einval
	}
	return x.writeFile(x.args[4], strconv.FormatUint(x.args[3], 10))
}

// writeFile writes to a file: at its position, at an offset, or at its end.
func (x frame) writeFile(nwritten uint64, where ...string) error {
	need := rightWrite
	if len(where) > 0 && where[0] != "append" {
		need |= rightSeek
	}
	d, err := x.p.file(x.args[0], need)
	if err != nil {
		return err
	}
	if err := x.room(nwritten, 4); err != nil {
		return err
	}
	data, err := x.gather(x.args[1], x.args[2])
	if err != nil {
		return err
	}
	told, err := x.syscall("file_write", d.handle, data, append([]string{d.path}, where...)...)
	if err != nil {
		return err
	}
	n, err := number(told)
	if err != nil {
		return err
	}
	return x.putUint32(nwritten, uint32(n))
}

// number is a decimal number that a syscall tells.
func number(told []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(told), 10, 64)
	if err != nil {
		return 0, eio
	}
	return n, nil
}

var whences = [...]string{"set", "cur", "end"}

const current = 1 // of whences

// fdSeek is fd_seek(fd, offset, whence, newoffset).
func fdSeek(x frame) error {
	offset, whence := int64(x.args[1]), uint32(x.args[2])
	if whence >= uint32(len(whences)) {
		return einval
	}
	need := rightSeek
	if tell := offset == 0 && whence == current; tell {
		need = 0
	}
	d, err := x.p.file(x.args[0], need)
	if err != nil {
		return err
	}
	if d.base&(rightSeek|rightTell) == 0 {
		return enotcapable
	}
	return x.seek(d, offset, whence, x.args[3])
}

// fdTell is fd_tell(fd, offset).
func fdTell(x frame) error {
	d, err := x.p.file(x.args[0], rightTell)
	if err != nil {
		return err
	}
	return x.seek(d, 0, current, x.args[1])
}

// seek moves the position of a file and tells it.
func (x frame) seek(d *descriptor, offset int64, whence uint32, out uint64) error {
	if err := x.room(out, 8); err != nil {
		return err
	}
	at, err := x.position(d, offset, whence)
	if err != nil {
		return err
	}
	return x.putUint64(out, at)
}

func (x frame) position(d *descriptor, offset int64, whence uint32) (uint64, error) {
	told, err := x.syscall("file_seek", d.handle, nil, d.path, strconv.FormatInt(offset, 10), whences[whence])
	if err != nil {
		return 0, err
	}
	return number(told)
}

// fdAdvise is fd_advise(fd, offset, len, advice). Advice may be ignored.
func fdAdvise(x frame) error {
	const last = 5
	if uint32(x.args[3]) > last {
		return einval
	}
	_, err := x.p.file(x.args[0], rightAdvise)
	return err
}

// fdAllocate is fd_allocate(fd, offset, len).
func fdAllocate(x frame) error {
	d, err := x.p.file(x.args[0], rightAllocate)
	if err != nil {
		return err
	}
	end := x.args[1] + x.args[2]
	if x.args[2] == 0 || end < x.args[1] || end > math.MaxInt64 {
		return einval
	}
	return x.do("file_truncate", d.handle, d.path, strconv.FormatUint(end, 10), "grow")
}

// fdFilestatSetSize is fd_filestat_set_size(fd, size).
func fdFilestatSetSize(x frame) error {
	d, err := x.p.file(x.args[0], rightSetSize)
	if err != nil {
		return err
	}
	if x.args[1] > math.MaxInt64 {
		return einval
	}
	return x.do("file_truncate", d.handle, d.path, strconv.FormatUint(x.args[1], 10))
}

// fdDatasync is fd_datasync(fd).
func fdDatasync(x frame) error { return x.sync(rightDatasync, "data") }

// fdSync is fd_sync(fd).
func fdSync(x frame) error { return x.sync(rightSync, "all") }

func (x frame) sync(need rights, what string) error {
	d, err := x.opened(x.args[0], need)
	if err != nil {
		return err
	}
	return x.do("file_sync", d.handle, d.path, what)
}

// opened is a descriptor of the file system with its handle. A preopened
// directory has none before one is needed.
func (x frame) opened(fd uint64, need rights) (*descriptor, error) {
	d, err := x.p.descriptor(fd, 0)
	switch {
	case err != nil:
		return nil, err
	case d.stream != "":
		return nil, einval
	}
	if d, err = x.p.descriptor(fd, need); err != nil {
		return nil, err
	}
	if d.handle == 0 {
		d.handle, err = x.open(d.path, "rd")
	}
	return d, err
}

// open asks for a handle.
func (x frame) open(path, mode string) (abi.Handle, error) {
	told, err := x.syscall("file_open", 0, nil, path, mode)
	if err != nil {
		return 0, err
	}
	if len(told) != 8 {
		return 0, eio
	}
	return abi.Handle(binary.LittleEndian.Uint64(told)), nil
}

// fdClose is fd_close(fd).
func fdClose(x frame) error {
	d, err := x.p.descriptor(x.args[0], 0)
	if err != nil {
		return err
	}
	x.p.fds[uint32(x.args[0])] = nil
	return x.close(d)
}

func (x frame) close(d *descriptor) error {
	if d.handle == 0 {
		return nil
	}
	return x.do("file_close", d.handle, d.path)
}

// fdRenumber is fd_renumber(from, to): to is closed and is from after it, and
// from is free.
func fdRenumber(x frame) error {
	d, err := x.p.descriptor(x.args[0], 0)
	if err != nil {
		return err
	}
	was, err := x.p.descriptor(x.args[1], 0)
	if err != nil || d == was {
		return err
	}
	x.p.fds[uint32(x.args[0])], x.p.fds[uint32(x.args[1])] = nil, d
	return x.close(was)
}

// fdFdstatGet is fd_fdstat_get(fd, fdstat).
func fdFdstatGet(x frame) error {
	d, err := x.p.descriptor(x.args[0], 0)
	if err != nil {
		return err
	}
	b := make([]byte, 4, 24)
	b[0] = byte(d.typ)
	binary.LittleEndian.PutUint16(b[2:], uint16(d.flags))
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(d.base))
	b = binary.LittleEndian.AppendUint64(b, uint64(d.inheriting))
	return x.put(x.args[1], b)
}

// fdFdstatSetFlags is fd_fdstat_set_flags(fd, flags). Whether each write is on
// disk when it returns is settled when a file is opened.
func fdFdstatSetFlags(x frame) error {
	flags := fdFlags(x.args[1])
	d, err := x.p.descriptor(x.args[0], rightSetFlags)
	switch {
	case err != nil:
		return err
	case flags&^allFlags != 0:
		return einval
	case (flags^d.flags)&flagsSync != 0:
		return enotsup
	}
	d.flags = flags
	return nil
}

// fdFdstatSetRights is fd_fdstat_set_rights(fd, base, inheriting): rights are
// given up, never won.
func fdFdstatSetRights(x frame) error {
	d, err := x.p.descriptor(x.args[0], 0)
	if err != nil {
		return err
	}
	base, inheriting := rights(x.args[1]), rights(x.args[2])
	if base&^d.base != 0 || inheriting&^d.inheriting != 0 {
		return enotcapable
	}
	d.base, d.inheriting = base, inheriting
	return nil
}

// filestatSize is the size of a filestat, which is what file_stat tells.
const filestatSize = 64

// fdFilestatGet is fd_filestat_get(fd, filestat).
func fdFilestatGet(x frame) error {
	d, err := x.p.descriptor(x.args[0], rightStat)
	if err != nil {
		return err
	}
	if d.stream != "" {
		b := make([]byte, filestatSize)
		b[16] = byte(d.typ)
		return x.put(x.args[1], b)
	}
	return x.stat(d.handle, x.args[1], d.path)
}

// stat writes what is known of a file.
func (x frame) stat(h abi.Handle, out uint64, args ...string) error {
	told, err := x.syscall("file_stat", h, nil, args...)
	if err != nil {
		return err
	}
	if len(told) != filestatSize {
		return eio
	}
	return x.put(out, told)
}

// fdFilestatSetTimes is fd_filestat_set_times(fd, atim, mtim, fst_flags).
func fdFilestatSetTimes(x frame) error {
	d, err := x.opened(x.args[0], rightSetTimes)
	if err != nil {
		return err
	}
	atim, mtim, err := times(x.args[1], x.args[2], uint32(x.args[3]))
	if err != nil {
		return err
	}
	return x.do("file_times", d.handle, d.path, atim, mtim)
}

// times are the times that file_times is to set.
func times(atim, mtim uint64, flags uint32) (a, m string, err error) {
	const all = 0xf
	if flags&^all != 0 {
		return "", "", einval
	}
	one := func(ns uint64, flags uint32) (string, error) {
		switch flags & 3 {
		case 0:
			return "keep", nil
		case 1:
			return strconv.FormatUint(ns, 10), nil
		case 2:
			return "now", nil
		}
		return "", einval
	}
	if a, err = one(atim, flags); err == nil {
		m, err = one(mtim, flags>>2)
	}
	return a, m, err
}

// fdPrestatGet is fd_prestat_get(fd, prestat).
func fdPrestatGet(x frame) error {
	d, err := x.preopen()
	if err != nil {
		return err
	}
	b := make([]byte, 8) // the tag 0 is a directory
	binary.LittleEndian.PutUint32(b[4:], uint32(len(d.path)))
	return x.put(x.args[1], b)
}

// fdPrestatDirName is fd_prestat_dir_name(fd, path, path_len).
func fdPrestatDirName(x frame) error {
	d, err := x.preopen()
	if err != nil {
		return err
	}
	if uint64(uint32(x.args[2])) < uint64(len(d.path)) {
		return enametoolong
	}
	return x.put(x.args[1], []byte(d.path))
}

func (x frame) preopen() (*descriptor, error) {
	d, err := x.p.descriptor(x.args[0], 0)
	if err == nil && !d.preopen {
		err = ebadf
	}
	return d, err
}

// Layout of what file_list tells, and of what fd_readdir writes: WASI's dirent
// and then the name.
const (
	direntSize = 24
	maxDirent  = direntSize + 1024 // with the longest name that any file system has
	maxList    = 1 << 20           // of one file_list
)

// fdReaddir is fd_readdir(fd, buf, buf_len, cookie, bufused). A last entry that
// does not fit is cut: a buffer that is not full is how a guest knows the end.
func fdReaddir(x frame) error {
	if _, err := x.p.directory(x.args[0], rightReaddir); err != nil {
		return err
	}
	buf, size, cookie, used := x.args[1], int(uint32(x.args[2])), x.args[3], x.args[4]
	if err := x.room(buf, uint32(size)); err != nil {
		return err
	}
	if err := x.room(used, 4); err != nil {
		return err
	}
	d, err := x.opened(x.args[0], rightReaddir)
	if err != nil {
		return err
	}
	var list []byte
	for len(list) < size {
		limit := min(size-len(list)+maxDirent, maxList)
		more, err := x.syscall("file_list", d.handle, nil, d.path, strconv.FormatUint(cookie, 10), strconv.Itoa(limit))
		if err != nil {
			return err
		}
		list = append(list, more...)
		if limit-len(more) >= maxDirent { // there was room for another
			break
		}
		if cookie, err = lastCookie(more); err != nil {
			return err
		}
	}
	list = list[:min(len(list), size)]
	if err := x.put(buf, list); err != nil {
		return err
	}
	return x.putUint32(used, uint32(len(list)))
}

// lastCookie is the cookie after the last of some entries.
func lastCookie(list []byte) (cookie uint64, err error) {
	for len(list) > 0 {
		if len(list) < direntSize {
			return 0, eio
		}
		size := direntSize + uint64(binary.LittleEndian.Uint32(list[16:]))
		if size > uint64(len(list)) {
			return 0, eio
		}
		cookie = binary.LittleEndian.Uint64(list)
		list = list[size:]
	}
	return cookie, nil
}
