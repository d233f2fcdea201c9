package syscalls_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/syscalls"
)

// snapshot is a tree as text: each path with its type and content, or target.
func snapshot(t *rapid.T, dir string) string {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		content := ""
		switch d.Type() {
		case 0:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%q", data)
		case fs.ModeSymlink:
			if content, err = os.Readlink(p); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(&b, "%s %v %s\n", p[len(dir):], d.Type(), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// both is a file that is open by the gate and by the system.
type both struct {
	h    abi.Handle
	path string
	fd   int
}

// twins are two trees: a plugin works on one through the gate, the system itself
// on the other.
type twins struct {
	*rapid.T
	p         *plugin
	gate, sys string
	open      []both
	done      int // operations that succeeded
}

// agree does an operation on both and compares what became of it. It reports
// whether it succeeded.
func (w *twins) agree(h abi.Handle, payload []byte, system func() (string, error), name string, args ...string) (res abi.SyscallResult, ok bool) {
	res = w.p.do(name, h, payload, args...)
	switch {
	case res.Status != abi.Success && res.Status != abi.Failure:
		w.Fatalf("%s%q: %v", name, args, res.Error())
	case res.Status == abi.Failure && (res.Err.Code == abi.CodePermission || res.Err.Code == 40):
		return res, false // out of the mount, a directory's hard link, or more links than we follow
	}
	want, err := system()
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		w.Fatal(err)
	}
	got := syscall.Errno(0)
	if res.Status == abi.Failure {
		got = syscall.Errno(res.Err.Code)
	}
	slash := slices.ContainsFunc(args, func(a string) bool { return strings.HasSuffix(a, "/") })
	if (name == "file_rename" || slash) && got != 0 && errno != 0 {
		errno = got // which end, or whether the slash, is looked at first is not promised
	}
	if got != errno || err == nil && want != string(res.Data) && want != "-" {
		w.Fatalf("%s%q: %q (%v), the system: %q (%v)\n%s", name, args, res.Data, res.Error(), want, err, snapshot(w.T, w.gate))
	}
	if err == nil {
		w.done++
	}
	return res, err == nil
}

// The whole family on random trees is what the system's own calls are: the same
// results, the same error numbers, the same tree after it.
func TestFilesAgreeWithTheSystem(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	path := rapid.Custom(func(t *rapid.T) string {
		p := "/" + strings.Join(rapid.SliceOfN(name, 1, 3).Draw(t, "names"), rapid.SampledFrom([]string{"/", "/", "//", "/./"}).Draw(t, "separator"))
		if rapid.IntRange(0, 5).Draw(t, "slash") == 0 {
			p += "/"
		}
		return p
	})
	target := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", ".."}), 1, 3).Draw(t, "target"), "/")
	})
	follow := rapid.SampledFrom([]string{"follow", "nofollow"})
	done := 0
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "twins")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		// Deep, so that a link that leads out leads to nothing.
		w := twins{T: t, gate: filepath.Join(dir, "g"), sys: filepath.Join(dir, "1/2/3/4/5/6/7/8/s")}
		if err := errors.Join(os.MkdirAll(w.gate, 0o755), os.MkdirAll(w.sys, 0o755)); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(w.gate)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		w.p = k.fresh(abi.Mount{Guest: "/data", Root: root})
		defer w.p.s.Container.Close("done")
		defer func() {
			for _, f := range w.open {
				_ = unix.Close(f.fd)
			}
			done += w.done
		}()
		on := func(h func(both)) func(*rapid.T) {
			return func(t *rapid.T) {
				if len(w.open) == 0 {
					t.Skip("nothing is open")
				}
				w.T = t
				h(rapid.SampledFrom(w.open).Draw(t, "handle"))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if g, s := snapshot(t, w.gate), snapshot(t, w.sys); g != s {
					t.Fatalf("the gate left\n%s\nthe system\n%s", g, s)
				}
			},
			"mkdir": func(t *rapid.T) {
				w.T = t
				p := path.Draw(t, "path")
				w.agree(0, nil, func() (string, error) { return "", unix.Mkdir(w.sys+p, 0o755) }, "file_mkdir", "/data"+p)
			},
			"remove": func(t *rapid.T) {
				w.T = t
				p, what := path.Draw(t, "path"), rapid.SampledFrom([]string{"file", "dir"}).Draw(t, "what")
				w.agree(0, nil, func() (string, error) {
					if what == "dir" {
						return "", unix.Rmdir(w.sys + p)
					}
					return "", unix.Unlink(w.sys + p)
				}, "file_remove", "/data"+p, what)
			},
			"rename": func(t *rapid.T) {
				w.T = t
				from, to := path.Draw(t, "from"), path.Draw(t, "to")
				w.agree(0, nil, func() (string, error) { return "", unix.Rename(w.sys+from, w.sys+to) }, "file_rename", "/data"+from, "/data"+to)
			},
			"link": func(t *rapid.T) {
				w.T = t
				from, to, f := path.Draw(t, "from"), path.Draw(t, "to"), follow.Draw(t, "follow")
				flags := 0
				if f == "follow" {
					flags = unix.AT_SYMLINK_FOLLOW
				}
				w.agree(0, nil, func() (string, error) {
					return "", unix.Linkat(unix.AT_FDCWD, w.sys+from, unix.AT_FDCWD, w.sys+to, flags)
				}, "file_link", "/data"+from, "/data"+to, f)
			},
			"symlink": func(t *rapid.T) {
				w.T = t
				p, to := path.Draw(t, "path"), target.Draw(t, "to")
				w.agree(0, nil, func() (string, error) { return "", unix.Symlink(to, w.sys+p) }, "file_symlink", "/data"+p, to)
			},
			"readlink": func(t *rapid.T) {
				w.T = t
				p := path.Draw(t, "path")
				w.agree(0, nil, func() (string, error) {
					b := make([]byte, 100)
					n, err := unix.Readlink(w.sys+p, b)
					return string(b[:max(n, 0)]), err
				}, "file_readlink", "/data"+p)
			},
			"stat": func(t *rapid.T) {
				w.T = t
				p, f := path.Draw(t, "path"), follow.Draw(t, "follow")
				var st unix.Stat_t
				res, ok := w.agree(0, nil, func() (string, error) {
					if f == "follow" {
						return "-", unix.Stat(w.sys+p, &st)
					}
					return "-", unix.Lstat(w.sys+p, &st)
				}, "file_stat", "/data"+p, f)
				if ok {
					sameStat(t, string(res.Data), st)
				}
			},
			"times": func(t *rapid.T) {
				w.T = t
				p, f := path.Draw(t, "path"), follow.Draw(t, "follow")
				flags := 0
				if f == "nofollow" {
					flags = unix.AT_SYMLINK_NOFOLLOW
				}
				a, m := rapid.Int64Range(0, 1e18).Draw(t, "a"), rapid.Int64Range(0, 1e18).Draw(t, "m")
				w.agree(0, nil, func() (string, error) {
					return "", unix.UtimesNanoAt(unix.AT_FDCWD, w.sys+p, []unix.Timespec{unix.NsecToTimespec(a), unix.NsecToTimespec(m)}, flags)
				}, "file_times", "/data"+p, strconv.FormatInt(a, 10), strconv.FormatInt(m, 10), f)
			},
			"open": func(t *rapid.T) {
				if len(w.open) > 20 {
					t.Skip("enough")
				}
				w.T = t
				p := path.Draw(t, "path")
				modes := map[string]int{
					"r": unix.O_RDONLY, "rn": unix.O_RDONLY | unix.O_NOFOLLOW, "rd": unix.O_RDONLY | unix.O_DIRECTORY, "rc": unix.O_RDONLY | unix.O_CREAT,
					"r+": unix.O_RDWR, "r+cx": unix.O_RDWR | unix.O_CREAT | unix.O_EXCL, "r+t": unix.O_RDWR | unix.O_TRUNC, "r+c": unix.O_RDWR | unix.O_CREAT,
					"w": unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC, "wek": unix.O_WRONLY, "wk": unix.O_WRONLY | unix.O_CREAT, "w+s": unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC | unix.O_SYNC,
					"a": unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND, "a+e": unix.O_RDWR | unix.O_APPEND, "a+t": unix.O_RDWR | unix.O_CREAT | unix.O_APPEND | unix.O_TRUNC,
				}
				names := make([]string, 0, len(modes))
				for m := range modes {
					names = append(names, m)
				}
				slices.Sort(names)
				mode := rapid.SampledFrom(names).Draw(t, "mode")
				fd := -1
				res, ok := w.agree(0, nil, func() (_ string, err error) {
					fd, err = unix.Open(w.sys+p, modes[mode]|unix.O_CLOEXEC, 0o644)
					// The system opens a directory without being asked for one.
					if err == nil && mode != "rd" && isDir(fd) {
						err = errors.Join(unix.EISDIR, unix.Close(fd))
					}
					return "-", err
				}, "file_open", "/data"+p, mode)
				if ok {
					w.open = append(w.open, both{handleOf(res), "/data" + p, fd})
				}
			},
			"write": on(func(f both) {
				b := []byte(rapid.StringMatching(`[x-z]{0,5}`).Draw(w.T, "data"))
				switch where := rapid.SampledFrom([]string{"", "0", "3", "9"}).Draw(w.T, "where"); where {
				case "":
					w.agree(f.h, b, func() (string, error) { n, err := unix.Write(f.fd, b); return strconv.Itoa(n), err }, "file_write", f.path)
				default:
					// The system's pwrite appends to a file that is open for that.
					flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
					if err != nil {
						w.Fatal(err)
					}
					at, _ := strconv.ParseInt(where, 10, 64)
					w.agree(f.h, b, func() (string, error) {
						if _, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags&^unix.O_APPEND); err != nil {
							return "", err
						}
						n, err := unix.Pwrite(f.fd, b, at)
						_, failed := unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags)
						return strconv.Itoa(n), errors.Join(err, failed)
					}, "file_write", f.path, where)
				}
			}),
			"read": on(func(f both) {
				b := make([]byte, rapid.IntRange(0, 9).Draw(w.T, "n"))
				if isDir(f.fd) {
					w.agree(f.h, nil, func() (string, error) { return "", unix.EISDIR }, "file_read", f.path, strconv.Itoa(len(b)))
					return
				}
				if at := rapid.Int64Range(-1, 9).Draw(w.T, "at"); at >= 0 {
					w.agree(f.h, nil, func() (string, error) { n, err := unix.Pread(f.fd, b, at); return string(b[:max(n, 0)]), err }, "file_read", f.path, strconv.Itoa(len(b)), strconv.FormatInt(at, 10))
					return
				}
				w.agree(f.h, nil, func() (string, error) { n, err := unix.Read(f.fd, b); return string(b[:max(n, 0)]), err }, "file_read", f.path, strconv.Itoa(len(b)))
			}),
			"seek": on(func(f both) {
				at, whence := rapid.Int64Range(-3, 9).Draw(w.T, "at"), rapid.IntRange(0, 2).Draw(w.T, "whence")
				w.agree(f.h, nil, func() (string, error) {
					if isDir(f.fd) {
						return "", unix.EISDIR // it is listed by cookies
					}
					n, err := unix.Seek(f.fd, at, whence)
					return strconv.FormatInt(n, 10), err
				}, "file_seek", f.path, strconv.FormatInt(at, 10), []string{"set", "cur", "end"}[whence])
			}),
			"truncate": on(func(f both) {
				size := rapid.Int64Range(0, 9).Draw(w.T, "size")
				w.agree(f.h, nil, func() (string, error) { return "", unix.Ftruncate(f.fd, size) }, "file_truncate", f.path, strconv.FormatInt(size, 10))
			}),
			"stat handle": on(func(f both) {
				var st unix.Stat_t
				if res, ok := w.agree(f.h, nil, func() (string, error) { return "-", unix.Fstat(f.fd, &st) }, "file_stat", f.path); ok {
					sameStat(w.T, string(res.Data), st)
				}
			}),
			"list": on(func(f both) {
				var names []string
				res, ok := w.agree(f.h, nil, func() (string, error) {
					b := make([]byte, 1<<16)
					if _, err := unix.Getdents(f.fd, b); err != nil {
						return "", err
					}
					if _, err := unix.Seek(f.fd, 0, 0); err != nil {
						return "", err
					}
					n, err := unix.Getdents(f.fd, b)
					if err == nil {
						_, _, names = unix.ParseDirent(b[:n], -1, nil)
					}
					return "-", err
				}, "file_list", f.path, "0", "100000")
				if !ok {
					return
				}
				var got []string
				for _, e := range decodeList(w.p.t, string(res.Data))[2:] {
					got = append(got, e.name)
				}
				slices.Sort(got)
				slices.Sort(names)
				if !slices.Equal(got, names) {
					w.Fatalf("%s lists %q, the system %q", f.path, got, names)
				}
			}),
			"close": on(func(f both) {
				w.agree(f.h, nil, func() (string, error) { return "", unix.Close(f.fd) }, "file_close", f.path)
				w.open = slices.DeleteFunc(w.open, func(o both) bool { return o.h == f.h })
			}),
		})
	})
	if done == 0 {
		t.Error("nothing succeeded")
	}
}

func isDir(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// sameStat compares what does not depend on the clock and on the inode.
func sameStat(t *rapid.T, got string, st unix.Stat_t) {
	kinds := map[uint32]uint64{unix.S_IFREG: 4, unix.S_IFDIR: 3, unix.S_IFLNK: 7}
	b := []byte(got)
	kind, links, size := uint64(b[16]), binary.LittleEndian.Uint64(b[24:]), binary.LittleEndian.Uint64(b[32:])
	isDir := kind == 3
	if kind != kinds[st.Mode&unix.S_IFMT] || !isDir && (links != st.Nlink || size != uint64(st.Size)) {
		t.Fatalf("type %d, links %d, size %d; the system: %+v", kind, links, size, st)
	}
}
