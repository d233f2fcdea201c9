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
	"strings"
	"syscall"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// dirMode is the permissions of a directory that a plugin makes, before the
// host's umask.
const dirMode = 0o755

// names are the syscalls on what directories list. A name is looked up, and the
// operation done by that last name, in the directory that is held open; that
// the directory still is where it was found is looked at before and after.
func names() []abi.Registration {
	return []abi.Registration{
		{
			Name: "file_mkdir", Args: []string{"path"}, MinTrust: capability.Standard, World: true,
			Doc:     "Make a directory.",
			Resolve: resolveMkdir, Handler: mkdir,
		},
		{
			Name: "file_remove", Args: []string{"path", "what"}, MinTrust: capability.Standard, World: true,
			Doc:     "Remove a `file` (or a symbolic link, itself) or a `dir`, which must be empty.",
			Resolve: resolveRemove, Handler: remove,
		},
		{
			Name: "file_rename", Args: []string{"from", "to"}, MinTrust: capability.Standard, World: true,
			Doc: "Give a file, link or directory another name in the same mount. What is there already is replaced: a file by a file, an empty directory by a directory. " +
				"Needs rights at both ends, since a name decides what may be done: it is a `file_open`, `file_read`, `file_write` and `file_remove` of both paths, and of each path in a directory that is moved. " +
				"A directory of which that is more than one request can be about is not moved, nor is anything to another mount: both fail with code 18 (EXDEV).",
			Resolve: resolveRename, Handler: rename,
		},
		{
			Name: "file_link", Args: []string{"from", "to", "follow..."}, MinTrust: capability.Standard, World: true,
			Doc: "Give a file a further name, a hard link, in the same mount: with `follow` what a last symbolic link leads to, with `nofollow` the link itself. The default is `follow`. " +
				"Needs rights at both ends: it is a `file_open`, `file_read` and `file_write` of both paths.",
			Resolve: atMost(3, resolveLink), Handler: link,
		},
		{
			Name: "file_symlink", Args: []string{"path", "target"}, MinTrust: capability.Standard, World: true,
			Doc:     "Make a symbolic link. Its target need not be there, but must be relative and not lead out of the mount. What it leads to is decided when it is used.",
			Resolve: resolveSymlink, Handler: symlink,
		},
		{
			Name: "file_readlink", Args: []string{"path"}, MinTrust: capability.Limited,
			Doc:     "Get the target of a symbolic link. An absolute one, which is the host's, is not told.",
			Resolve: resolveReadlink, Handler: readlink,
		},
		{
			Name: "file_times", Args: []string{"path", "accessed", "modified", "follow..."}, MinTrust: capability.Standard, World: true,
			Doc: "Set the times of the object that a handle is open on, or without one of the path's: with `follow` (the default) of what a last symbolic link leads to, with `nofollow` of the link. " +
				"A time is ns since 1970 UTC, `now` or `keep`.",
			Resolve: atMost(4, resolveTimes), Handler: times,
		},
	}
}

// vacant is why nothing can be made at the target, or nil.
func (t *target) vacant() error {
	switch {
	case t.name == "" || t.info != nil:
		return fs.ErrExist
	case t.dir().mount.ReadOnly:
		return readOnly()
	}
	return nil
}

// put makes something at the target.
func (t *target) put(make func(dir *os.Root, name string) error) error {
	if err := t.inPlace(nil); err != nil {
		return err
	}
	if err := make(t.dir().root, t.name); err != nil {
		return err
	}
	return t.inPlace(nil)
}

// one is the resolution of a request on one path. refuse, which is not called
// if there is no target, is why the effect will fail.
func one(ctx context.Context, sc *abi.SyscallContext, last last, refuse func(*target) error) (abi.Resolution, error) {
	t, resources, failed, err := resolve(ctx, sc.Mounts, sc.Args[0], last)
	res := abi.Resolution{Resources: resources, Err: failed}
	if t != nil {
		res.Object, res.Err = t, fsError(t.path, refuse(t))
	}
	return res, err
}

func resolveMkdir(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	return one(ctx, sc, entry, (*target).vacant)
}

func mkdir(_ context.Context, _ *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	t := r.Object.(*target)
	return nil, fsError(t.path, t.put(func(dir *os.Root, name string) error { return dir.Mkdir(name, dirMode) }))
}

func resolveRemove(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	what, err := word(sc, 1, "file", "dir")
	if err != nil {
		return abi.Resolution{}, err
	}
	return one(ctx, sc, entry, func(t *target) error {
		switch isDir := t.name == "" || t.info != nil && t.info.IsDir(); {
		case t.name != "" && t.info == nil:
			return fs.ErrNotExist
		case what == "file" && isDir:
			return abi.Fail(abi.CodeIsDir, "is a directory")
		case what == "dir" && !isDir:
			return syscall.ENOTDIR
		case t.name != "" && t.dir().mount.ReadOnly:
			return readOnly()
		case t.name != "":
			return nil
		}
		switch path.Base(sc.Args[0]) { // as rmdir(2) has it
		case ".":
			return abi.Fail(abi.CodeInvalid, `"." cannot be removed`)
		case "..":
			return abi.Fail(codeNotEmpty, `the directory that ".." leads to is not empty`)
		}
		return abi.Fail(codeBusy, "is the root of a mount")
	})
}

func remove(_ context.Context, _ *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	t := r.Object.(*target)
	if err := t.inPlace(t.info); err != nil {
		return nil, fsError(t.path, err)
	}
	if err := removeAt(t.dir().root, t.name, t.info.IsDir()); err != nil {
		return nil, fsError(t.path, err)
	}
	return nil, fsError(t.path, t.inPlace(nil))
}

// pair is what the two paths of a request lead to.
type pair struct{ from, to *target }

// Close lets go of both.
func (p pair) Close() error { return errors.Join(p.from.Close(), p.to.Close()) }

// two is the resolution of a request on two paths, which concerns what both
// lead to. refuse is as in [one], and not called if there is nothing at from.
func two(ctx context.Context, sc *abi.SyscallContext, last last, refuse func(pair) error) (abi.Resolution, error) {
	from, resources, failed, err := resolve(ctx, sc.Mounts, sc.Args[0], last)
	if err != nil {
		return abi.Resolution{}, err
	}
	to, more, failedTo, err := resolve(ctx, sc.Mounts, sc.Args[1], entry)
	if err != nil {
		if from != nil {
			_ = from.Close()
		}
		return abi.Resolution{}, err
	}
	res := abi.Resolution{Resources: append(resources, more...), Err: failed}
	switch {
	case from != nil && from.name != "" && from.info == nil:
		res.Err = fsError(from.path, fs.ErrNotExist)
	case from != nil:
		res.Err = failedTo
	}
	switch p := (pair{from, to}); {
	case from != nil && to != nil:
		res.Object = p
		if res.Err == nil {
			res.Err = fsError(from.path, refuse(p))
		}
	case from != nil:
		res.Object = from
	case to != nil:
		res.Object = to
	}
	return res, nil
}

// place checks that both ends are in one mount that may be written to.
func (p pair) place() error {
	switch {
	case p.from.dir().mount != p.to.dir().mount:
		return abi.Fail(codeCross, "the two paths are in different mounts")
	case p.from.dir().mount.ReadOnly:
		return readOnly()
	}
	return nil
}

func resolveRename(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	var contents []string
	res, err := two(ctx, sc, entry, func(p pair) error {
		if err := p.renamable(sc.Mounts); err != nil || !p.from.info.IsDir() {
			return err
		}
		var err error
		contents, err = p.contents(ctx, sc.Capabilities)
		return err
	})
	res.Also = []string{"file_open", "file_read", "file_write", "file_remove"}
	if len(res.Resources)+len(contents) > maxDecided {
		res.Err, contents = tooMuch(), nil
	}
	res.Resources = append(res.Resources, contents...)
	return res, err
}

// renamable is why the one cannot be renamed to the other, or nil.
func (p pair) renamable(mounts []abi.Mount) error {
	from, to := p.from, p.to
	if from.name == "" || to.name == "" {
		return abi.Fail(codeBusy, `neither "." and "..", nor the root of a mount can be renamed or replaced`)
	}
	if err := p.place(); err != nil {
		return err
	}
	replacesDir := to.info != nil && to.info.IsDir()
	switch {
	case !from.info.IsDir() && replacesDir:
		return abi.Fail(abi.CodeIsDir, "a file cannot replace a directory")
	case from.info.IsDir() && to.info != nil && !replacesDir, !from.info.IsDir() && to.slash:
		return syscall.ENOTDIR
	case strings.HasPrefix(to.path, from.path+"/"):
		return abi.Fail(abi.CodeInvalid, "a directory cannot be moved into itself")
	}
	for _, m := range mounts {
		// What the mount covers would come to light.
		if strings.HasPrefix(m.Guest, from.path+"/") || strings.HasPrefix(m.Guest, to.path+"/") {
			return abi.Fail(codeBusy, "%s is mounted in it", m.Guest)
		}
	}
	return nil
}

// maxDecided is how many resources a request may have to be decided at all.
const maxDecided = 2 * maxResources

func tooMuch() error {
	return abi.Fail(codeCross, "the directory holds more than can be decided at once; move its parts, or copy it")
}

// contents are the resources of what lies in a directory, where it is and where
// it is to be: each has another name after it, and other rights may go with
// that. What is granted is checked here, since a denial would tell the name.
func (p pair) contents(ctx context.Context, granted capability.Set) (resources []string, err error) {
	// The "/." makes the system insist on directories: see [walk.descend].
	dir, err := p.from.dir().root.OpenRoot(p.from.name + "/.")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if now, err := dir.Stat("."); err != nil || !os.SameFile(now, p.from.info) {
		return nil, stale(p.from.path)
	}
	for below := []string{"."}; len(below) > 0; below = below[1:] {
		entries, err := some(dir, below[0], maxDecided)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := path.Join(below[0], e.Name())
			old, moved := fileURI(path.Join(p.from.path, name)), fileURI(path.Join(p.to.path, name))
			switch {
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case plain(e.Name()) != nil:
				return nil, abi.Fail(abi.CodePermission, "holds a name that no path can have")
			case !granted.Resource(old) || !granted.Resource(moved):
				return nil, abi.Fail(abi.CodePermission, "holds what is not granted, here or there")
			case len(resources) >= maxDecided:
				return nil, tooMuch()
			}
			resources = append(resources, old, moved)
			if e.IsDir() {
				below = append(below, name)
			}
		}
	}
	return resources, nil
}

// some are up to n entries of a directory.
func some(root *os.Root, name string, n int) ([]fs.DirEntry, error) {
	f, err := root.Open(name + "/.")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}

func rename(_ context.Context, _ *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	p := r.Object.(pair)
	return nil, fsError(p.from.path, p.rename())
}

func (p pair) rename() error {
	if err := errors.Join(p.from.inPlace(p.from.info), p.to.inPlace(p.to.info)); err != nil {
		return err
	}
	if p.to.info == nil {
		// Another has made it since, or it is there by another spelling.
		now, err := p.to.dir().root.Lstat(p.to.name)
		if err == nil && !os.SameFile(now, p.from.info) {
			return stale(p.to.path)
		}
	}
	if err := renameAt(p.from, p.to); err != nil {
		return err
	}
	return errors.Join(p.from.inPlace(nil), p.to.inPlace(nil))
}

func resolveLink(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	follow, err := word(sc, 2, "follow", "nofollow")
	if err != nil {
		return abi.Resolution{}, err
	}
	last := followed
	if follow == "nofollow" {
		last = kept
	}
	res, err := two(ctx, sc, last, func(p pair) error {
		switch {
		case p.from.name == "":
			return abi.Fail(abi.CodePermission, "a directory cannot have a further name")
		case !p.from.info.Mode().IsRegular() && p.from.info.Mode()&fs.ModeSymlink == 0:
			return irregular(p.from.info)
		case p.to.name == "" || p.to.info != nil:
			return fs.ErrExist
		case p.to.slash:
			return fs.ErrNotExist
		}
		return p.place()
	})
	res.Also = []string{"file_open", "file_read", "file_write"}
	return res, err
}

func link(_ context.Context, _ *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	p := r.Object.(pair)
	return nil, fsError(p.from.path, p.to.put(func(*os.Root, string) error { return linkAt(p.from, p.to) }))
}

func resolveSymlink(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	to := sc.Args[1]
	if err := plain(to); err != nil {
		return abi.Resolution{}, fmt.Errorf("target %.256q: %w", to, err)
	}
	return one(ctx, sc, entry, func(t *target) error {
		if err := t.vacant(); err != nil {
			return err
		}
		switch {
		case t.slash, to == "":
			return fs.ErrNotExist
		case len(to) > MaxPath:
			return abi.Fail(codeNameTooLong, "target of %d bytes: at most %d", len(to), MaxPath)
		case filepath.IsAbs(to), filepath.VolumeName(to) != "", os.IsPathSeparator(to[0]):
			return abi.Fail(abi.CodePermission, "an absolute target means nothing in a mount; make it relative")
		case t.leaves(to):
			return abi.Fail(abi.CodePermission, "the target lies outside of the mount")
		}
		return nil
	})
}

// leaves reports whether a link's target goes up, by "..", out of the mount. It
// goes by the text: links that lie on its way, and moving the link, may make
// it leave all the same, which is why it is checked again when it is followed.
func (t *target) leaves(to string) bool {
	depth := 0
	for _, d := range t.chain {
		if depth++; d.info == nil { // a mount's root
			depth = 0
		}
	}
	for _, c := range components(filepath.ToSlash(to)) {
		switch c {
		case ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return true
		}
	}
	return false
}

func symlink(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	t := r.Object.(*target)
	return nil, fsError(t.path, t.put(func(dir *os.Root, name string) error {
		return dir.Symlink(filepath.FromSlash(sc.Args[1]), name)
	}))
}

func resolveReadlink(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	return one(ctx, sc, kept, func(t *target) error {
		switch {
		case t.name != "" && t.info == nil:
			return fs.ErrNotExist
		case t.name == "" || t.info.Mode()&fs.ModeSymlink == 0:
			return abi.Fail(abi.CodeInvalid, "is no symbolic link")
		}
		return nil
	})
}

func readlink(_ context.Context, _ *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	t := r.Object.(*target)
	text, err := t.dir().root.Readlink(t.name)
	if err == nil {
		err = t.inPlace(t.info)
	}
	switch {
	case err != nil:
		return nil, fsError(t.path, err)
	case filepath.IsAbs(text), filepath.VolumeName(text) != "":
		return nil, fsError(t.path, abi.Fail(abi.CodePermission, "symbolic link to an absolute path, which is the host's"))
	}
	return []byte(filepath.ToSlash(text)), nil
}

// stamp is a time to set.
type stamp struct {
	ns        int64 // since 1970 UTC
	now, keep bool
}

func parseStamp(what, s string) (stamp, error) {
	switch s {
	case "now":
		return stamp{now: true}, nil
	case "keep":
		return stamp{keep: true}, nil
	}
	ns, err := count(what, s)
	return stamp{ns: int64(ns)}, err
}

func resolveTimes(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	res, err := objectOrPath(ctx, sc, 3)
	if err != nil || res.Err != nil {
		return res, err
	}
	ro := false
	switch o := res.Object.(type) {
	case handle:
		ro = o.readOnly
	case *target:
		ro = o.dir().mount.ReadOnly
		_, res.Err = o.stat()
		res.Err = fsError(o.path, res.Err)
	}
	if ro && res.Err == nil {
		res.Err = readOnly()
	}
	return res, nil
}

func times(_ context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
	accessed, err := parseStamp("accessed", sc.Args[1])
	if err != nil {
		return nil, err
	}
	modified, err := parseStamp("modified", sc.Args[2])
	if err != nil {
		return nil, err
	}
	switch o := r.Object.(type) {
	case handle:
		return nil, fsError(o.canonical, setTimes(o.File, accessed, modified))
	case *target:
		return nil, fsError(o.path, o.setTimes(accessed, modified))
	}
	return nil, nil
}

func (t *target) setTimes(accessed, modified stamp) error {
	if err := t.inPlace(t.info); err != nil {
		return err
	}
	var err error
	if t.name == "" {
		var dir *os.File
		if dir, err = t.dir().root.Open("."); err != nil {
			return err
		}
		err = errors.Join(setTimes(dir, accessed, modified), dir.Close())
	} else {
		err = setTimesAt(t.dir().root, t.name, accessed, modified)
	}
	if err != nil {
		return err
	}
	return t.inPlace(t.info)
}
