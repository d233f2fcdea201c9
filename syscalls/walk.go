package syscalls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"forgeone.dev/forgeone/abi"
)

// Limits of a path.
const (
	MaxPath  = 4096 // bytes of a path, and of a symbolic link's target
	MaxLinks = 40   // symbolic links followed for one path, as on Linux
	MaxDepth = 64   // directories below a mount: each one is held open while a path is resolved
)

// Resolving a path.
//
// A policy decides on a path, and the effect is on an object, so the two must
// be the same thing whoever moves files about in the meantime. The path is
// therefore walked one component at a time, from the mount's root, with a handle
// held on every directory on the way. Links are expanded by hand, ".." goes
// back to the handle it came from, and a directory is entered only if it is the
// one that was looked at. The names walked through are the canonical path, and
// the object is opened by its last name, which is not followed, in the last
// handle. What was opened is then compared with what was looked at, and the
// way to it is looked at again, before anything is done to it.
//
// Nothing outside of what the plugin was granted can be probed: a missing
// object has the path it would have, a failure is told only once the path was
// decided about, and each directory that a ".." leaves is a resource of the
// request too, since getting through it tells that it exists.

// target is what a path leads to: an object in a directory that is held open.
type target struct {
	chain []node      // from the mount's root to the directory
	name  string      // in the directory; empty if the object is the directory itself
	info  fs.FileInfo // nil if there is nothing of that name
	slash bool        // the path asks for a directory, by a slash at its end
	path  string      // canonical guest path
}

// node is a directory that is held open.
type node struct {
	path  string // canonical guest path
	mount *abi.Mount
	root  *os.Root
	info  fs.FileInfo // as it stood in the directory above; nil for a mount's root
}

func (n *node) close() {
	if n.info != nil { // a mount's root is not ours
		_ = n.root.Close()
	}
}

// Close lets go of the directories.
func (t *target) Close() error {
	for i := range t.chain {
		t.chain[i].close()
	}
	t.chain = nil
	return nil
}

func (t *target) dir() *node { return &t.chain[len(t.chain)-1] }

// stat is the object's information, taken before anything was decided.
func (t *target) stat() (fs.FileInfo, error) {
	switch d := t.dir(); {
	case t.name != "" && t.info == nil:
		return nil, fs.ErrNotExist
	case t.name != "":
		return t.info, nil
	case d.info != nil:
		return d.info, nil
	default:
		return d.root.Stat(".")
	}
}

// inPlace checks that the way to the object, and the object, are still where
// they were found. It looks from the mount's root down: a directory that was
// moved away and back since is caught by what lies below it.
func (t *target) inPlace(object fs.FileInfo) error {
	for i := 1; i < len(t.chain); i++ {
		if t.chain[i].info == nil {
			continue
		}
		now, err := t.chain[i-1].root.Lstat(path.Base(t.chain[i].path))
		if err != nil || !os.SameFile(now, t.chain[i].info) {
			return stale(t.chain[i].path)
		}
	}
	if object == nil || t.name == "" {
		return nil
	}
	now, err := t.dir().root.Lstat(t.name)
	if err != nil || !os.SameFile(now, object) {
		return stale(t.path)
	}
	return nil
}

func stale(guest string) error {
	return &abi.SyscallError{Code: codeStale, Message: "changed in the meantime; try again", Context: map[string]string{"path": guest}}
}

// last is what becomes of the last name of a path.
type last uint8

const (
	followed last = iota // a link is followed, and a directory entered
	kept                 // a link is the object; one before a slash is followed
	entry                // the object is what the directory above lists, link or directory
)

// walk is one path on its way to a target.
type walk struct {
	mounts []abi.Mount
	last   last
	chain  []node
	rest   []string // components to go
	at     string   // canonical guest path so far
	links  int
	left   []string // directories that a ".." left
	name   string
	info   fs.FileInfo
	slash  bool
	err    error // the walk has failed; what is left is taken by its text
}

// resolve finds what an absolute guest path leads to. The resources are set
// whatever becomes of it; t is nil if failed is not. Errors: a malformed path.
func resolve(ctx context.Context, mounts []abi.Mount, guest string, last last) (t *target, resources []string, failed, err error) {
	if err := checkPath(guest); err != nil {
		return nil, nil, nil, err
	}
	w := walk{mounts: mounts, last: last, rest: components(guest), at: "/"}
	w.begin()
	for len(w.rest) > 0 {
		c := w.rest[0]
		w.rest = w.rest[1:]
		if w.err == nil {
			w.err = context.Cause(ctx)
		}
		switch {
		case c == ".":
		case c == "..":
			w.up()
		case w.err != nil:
			w.at = path.Join(w.at, c)
		default:
			if err := w.step(c); err != nil {
				w.at = path.Join(w.at, c)
				w.err = err
			}
		}
	}
	resources = w.resources()
	if len(resources) > maxResources {
		resources = resources[:maxResources]
		w.err = abi.Fail(codeLoop, `the path goes up, by "..", out of more than %d directories`, maxResources-1)
	}
	t = &target{w.chain, w.name, w.info, w.slash, w.at}
	if w.err != nil {
		_ = t.Close()
		t = nil
	}
	return t, resources, fsError(w.at, w.err), nil
}

// checkPath checks the form of a guest path.
func checkPath(guest string) error {
	switch {
	case len(guest) > MaxPath:
		return fmt.Errorf("path of %d bytes: at most %d", len(guest), MaxPath)
	case !strings.HasPrefix(guest, "/"):
		return fmt.Errorf("path %.256q: not absolute; a guest path begins with /", guest)
	}
	if err := plain(guest); err != nil {
		return fmt.Errorf("path %.256q: %w", guest, err)
	}
	return nil
}

// components splits a path. A slash at its end, which asks for a directory, is
// a last component ".".
func components(p string) []string {
	all := strings.Split(p, "/")
	if all[len(all)-1] == "" {
		all[len(all)-1] = "."
	}
	return slices.DeleteFunc(all, func(c string) bool { return c == "" })
}

// begin finds the mount that the path starts in: of those whose guest path is
// the path's beginning, the longest.
func (w *walk) begin() {
	var mount *abi.Mount
	var rest []string
	for i := range w.mounts {
		m := &w.mounts[i]
		if mount != nil && len(m.Guest) <= len(mount.Guest) {
			continue
		}
		if r, ok := below(w.rest, m.Guest); ok {
			mount, rest = m, r
		}
	}
	if mount == nil {
		w.err = fs.ErrNotExist
		return
	}
	w.rest = rest
	w.enter(node{path: mount.Guest, mount: mount, root: mount.Root})
}

// below is what is left of a path after the guest path of a mount.
func below(path []string, guest string) (rest []string, ok bool) {
	for g := range strings.SplitSeq(strings.Trim(guest, "/"), "/") {
		for len(path) > 0 && path[0] == "." {
			path = path[1:]
		}
		if g == "" { // the mount is "/"
			break
		}
		if len(path) == 0 || path[0] != g {
			return nil, false
		}
		path = path[1:]
	}
	return path, true
}

func (w *walk) enter(n node) {
	w.chain = append(w.chain, n)
	w.at = n.path
}

// up follows a "..".
func (w *walk) up() {
	w.left = append(w.left, w.at)
	switch {
	case w.err != nil:
		w.at = path.Dir(w.at)
	case len(w.chain) == 1:
		w.err = abi.Fail(abi.CodePermission, "the path leaves the mount it starts in")
		w.at = path.Dir(w.at)
	default:
		w.chain[len(w.chain)-1].close()
		w.chain = w.chain[:len(w.chain)-1]
		w.at = w.chain[len(w.chain)-1].path
	}
}

// step goes through one name. An error is why the walk ends at it.
func (w *walk) step(name string) error {
	dir := &w.chain[len(w.chain)-1]
	guest := path.Join(w.at, name)
	if err := checkName(name); err != nil {
		return abi.Fail(abi.CodeInvalid, "name %q: %v", name, err)
	}
	if i := slices.IndexFunc(w.mounts, func(m abi.Mount) bool { return m.Guest == guest }); i >= 0 {
		w.enter(node{path: guest, mount: &w.mounts[i], root: w.mounts[i].Root})
		return nil
	}
	info, err := lookup(dir.root, name)
	slash := len(w.rest) > 0
	final := !slash || !slices.ContainsFunc(w.rest, func(c string) bool { return c != "." })
	switch missing := errors.Is(err, fs.ErrNotExist); {
	case err != nil && !(missing && final):
		return err
	case missing:
	case info.Mode()&fs.ModeSymlink != 0 && (w.last == followed || slash && !(w.last == entry && final)):
		return w.expand(dir.root, name)
	case info.IsDir() && !(w.last == entry && final):
		return w.descend(dir, name, guest, info)
	case !info.IsDir() && slash:
		return syscall.ENOTDIR
	}
	w.name, w.info, w.slash, w.at = name, info, slash, guest
	return nil
}

// expand puts a link's target in the place of its name.
func (w *walk) expand(dir *os.Root, name string) error {
	if w.links++; w.links > MaxLinks {
		return abi.Fail(codeLoop, "more than %d symbolic links", MaxLinks)
	}
	text, err := dir.Readlink(name)
	if err != nil {
		return err
	}
	if filepath.IsAbs(text) || filepath.VolumeName(text) != "" || text == "" || os.IsPathSeparator(text[0]) {
		return abi.Fail(abi.CodePermission, "symbolic link to an absolute path, which means nothing in a mount; make it relative")
	}
	text = filepath.ToSlash(text)
	if len(text) > MaxPath || len(w.rest) > MaxPath {
		return abi.Fail(codeNameTooLong, "symbolic links expand to a path that is too long")
	}
	if err := plain(text); err != nil {
		return abi.Fail(abi.CodeInvalid, "target of a symbolic link: %v", err)
	}
	w.rest = slices.Concat(components(text), w.rest)
	return nil
}

// descend enters a directory, if it is still the one that was looked at.
func (w *walk) descend(dir *node, name, guest string, info fs.FileInfo) error {
	if len(w.chain) > MaxDepth {
		return abi.Fail(codeNameTooLong, "more than %d directories deep", MaxDepth)
	}
	// The "/." makes the system insist on a directory, so that a FIFO put in
	// its place cannot hold the open up.
	root, err := dir.root.OpenRoot(name + "/.")
	if err != nil {
		return err
	}
	now, err := root.Stat(".")
	if err == nil && !os.SameFile(info, now) {
		err = stale(guest)
	}
	if err != nil {
		return errors.Join(err, root.Close())
	}
	w.enter(node{path: guest, mount: dir.mount, root: root, info: info})
	return nil
}

// maxResources bounds the resources of one request.
const maxResources = 32

// resources are the object's and those of the directories that were left,
// but for those that lie on the way to the object. There may be one more than
// maxResources, no matter which.
func (w *walk) resources() []string {
	res := []string{fileURI(w.at)}
	for _, d := range w.left {
		if len(res) > maxResources {
			break
		}
		onTheWay := d == "/" || d == w.at || strings.HasPrefix(w.at, d+"/")
		if uri := fileURI(d); !onTheWay && !slices.Contains(res, uri) {
			res = append(res, uri)
		}
	}
	return res
}

// fileURI is the resource of a canonical guest path. The path stands as it is:
// it is what patterns are matched against.
func fileURI(guest string) string { return "file://" + guest }

// lookup is what a directory holds under exactly that name. Where the file
// system takes several spellings for one name (by case, Unicode normal form or
// short names), all but the one that is listed are not found, on every system:
// a policy about a name would otherwise be passed by spelling it in another way.
func lookup(dir *os.Root, name string) (fs.FileInfo, error) {
	info, err := dir.Lstat(name)
	if err != nil || !manySpellings(dir, name, info) {
		return info, err
	}
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		switch {
		case slices.Contains(names, name):
			return info, nil
		case errors.Is(err, io.EOF):
			return nil, fs.ErrNotExist
		case err != nil:
			return nil, err
		}
	}
}

// manySpellings reports whether another spelling of a name may lead to the same
// file: the other case does, or the name is one that has normal forms, looks
// like a short one (REPORT~1), or ends in what Windows and FAT drop.
func manySpellings(dir *os.Root, name string, info fs.FileInfo) bool {
	if strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		return true
	}
	other := []byte(name)
	for i, c := range other {
		switch {
		case c >= 0x80, c == '~':
			return true
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			other[i] = c ^ 0x20
		}
	}
	if string(other) == name {
		return false
	}
	again, err := dir.Lstat(string(other))
	return err == nil && os.SameFile(info, again)
}

// Codes of Linux that package abi has no name for.
const (
	codeBusy     = 16 // EBUSY
	codeCross    = 18 // EXDEV
	codeNotEmpty = 39 // ENOTEMPTY
)

// fsError is the failure of an operation on a guest path. It names that path
// and no other: a host path is not a plugin's to know.
func fsError(guest string, err error) error {
	if err == nil {
		return nil
	}
	var se *abi.SyscallError
	if errors.As(err, &se) {
		if se.Context == nil {
			se = &abi.SyscallError{Code: se.Code, Message: se.Message, Context: map[string]string{"path": guest}}
		}
		return se
	}
	fail := func(code int32, text string) error {
		return &abi.SyscallError{Code: code, Message: text, Context: map[string]string{"path": guest}}
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	switch {
	case errors.Is(err, context.Canceled):
		return fail(abi.CodeInterrupted, "interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		return fail(abi.CodeTimeout, "timed out")
	case errors.Is(err, fs.ErrNotExist):
		return fail(abi.CodeNotFound, "no such file or directory")
	case errors.Is(err, errNotEmpty): // before ErrExist, which it is too
		return fail(codeNotEmpty, "the directory is not empty")
	case errors.Is(err, fs.ErrExist):
		return fail(abi.CodeExists, "exists already")
	case errors.Is(err, fs.ErrPermission):
		return fail(abi.CodePermission, "not permitted by the host's file system")
	case errors.Is(err, fs.ErrClosed):
		return fail(abi.CodeBadHandle, "closed")
	case errno == syscall.ENOTDIR:
		return fail(abi.CodeNotDir, "not a directory")
	case errno == syscall.EISDIR:
		return fail(abi.CodeIsDir, "is a directory")
	case errors.Is(err, errCross):
		return fail(codeCross, "on another file system")
	case errno == syscall.EBUSY:
		return fail(codeBusy, "in use by the host")
	case errno == syscall.EINVAL:
		return fail(abi.CodeInvalid, "the host's file system takes no such argument")
	case errno == syscall.EOPNOTSUPP:
		return fail(abi.CodeUnsupported, "the host's file system cannot do this")
	case errno == syscall.ELOOP:
		return fail(codeLoop, "too many symbolic links")
	case errno == syscall.ENAMETOOLONG:
		return fail(codeNameTooLong, "name too long")
	case errno == syscall.EROFS:
		return fail(abi.CodeReadOnly, "the host's file system is read-only")
	case errno == syscall.ENOSPC, errno == syscall.EDQUOT:
		return fail(abi.CodeNoSpace, "no space left on the host")
	case errno == syscall.EMFILE, errno == syscall.ENFILE:
		return fail(abi.CodeTooMany, "the host has too many open files")
	case errno == syscall.EFBIG:
		return fail(abi.CodeTooLarge, "file too large")
	case errno != 0:
		return fail(abi.CodeIO, errno.Error())
	}
	var refused *fs.PathError
	if errors.As(err, &refused) {
		// os.Root refuses without an errno: a way out of the mount, which only
		// a concurrent change can have opened.
		return fail(abi.CodePermission, "the path would leave its mount")
	}
	return fail(abi.CodeInterrupted, err.Error()) // the container died
}
