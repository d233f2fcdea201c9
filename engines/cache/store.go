package cache

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	keySize = 32 // bytes
	// unfinished begins the names of files that are being written. One that is
	// older than staleAfter was left by a process that died.
	unfinished = "tmp-"
	staleAfter = time.Hour
)

// store is a directory of entries. Processes may share it: an entry appears whole
// or not at all, and may go at any time.
type store struct {
	root   *os.Root
	key    []byte
	max    int64 // bytes of all entries
	logger hclog.Logger

	warn sync.Once // of a directory that fails
}

// openStore opens a directory and its key, making what is missing.
func openStore(dir, keyFile string, maxBytes int64, logger hclog.Logger) (*store, error) {
	if keyFile == "" {
		return nil, errors.New("cache: a directory needs a key file")
	}
	key, err := openKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("cache: key file %s: %w", keyFile, err)
	}
	root, err := openPrivate(dir)
	if err != nil {
		return nil, fmt.Errorf("cache: directory %s: %w", dir, err)
	}
	return &store{root: root, key: key, max: maxBytes, logger: logger}, nil
}

// openPrivate opens a directory that nobody else can write to, making it if it is
// missing.
func openPrivate(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	fi, err := root.Stat(".")
	if err == nil {
		err = checkOwner(fi, 0o022)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// openKey reads a key, or makes it. Where several processes do at once, the first
// one's counts.
func openKey(path string) ([]byte, error) {
	root, err := openPrivate(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	file := filepath.Base(path)
	key, err := readKey(root, file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, keySize)
	_, _ = rand.Read(key) // it does not fail
	tmp := unfinished + file + hex.EncodeToString(key[:8])
	_, _ = rand.Read(key)
	defer func() { _ = root.Remove(tmp) }()
	if err := root.WriteFile(tmp, key, 0o600); err != nil {
		return nil, err
	}
	if err := root.Link(tmp, file); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readKey(root, file)
}

func readKey(root *os.Root, file string) ([]byte, error) {
	fi, err := root.Stat(file) // first: to open a pipe would wait for its other end
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() != keySize {
		return nil, fmt.Errorf("it is no key, which is a file of %d bytes: remove it to have one made", keySize)
	}
	f, err := root.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if fi, err = f.Stat(); err != nil { // of what was opened
		return nil, err
	}
	if err := checkOwner(fi, 0o077); err != nil {
		return nil, err
	}
	key := make([]byte, keySize)
	_, err = io.ReadFull(f, key)
	return key, err
}

// own makes of an origin that of the holders of the key: others may keep the code
// of the same module in the same directory.
func (s *store) own(origin []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write(origin)
	return h.Sum(nil)
}

// get is the code that is kept under a name. What is not authentic is removed.
func (s *store) get(n name) (code []byte, ok bool) {
	file := n.String()
	entry, err := s.read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		s.failed("read", err)
		return nil, false
	}
	code, err = unseal(s.key, n, entry)
	if err != nil {
		s.logger.Warn("an entry of the cache of machine code is refused and removed", "directory", s.root.Name(), "entry", file, "because", err)
		_ = s.root.Remove(file) // it is replaced anyway
		return nil, false
	}
	now := time.Now()
	_ = s.root.Chtimes(file, now, now) // says when it was used; without, it goes earlier
	return code, true
}

func (s *store) read(file string) ([]byte, error) {
	// What is no file is not opened: that of a pipe would wait for its other end.
	fi, err := s.root.Lstat(file)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > s.max {
		return nil, nil // which is not authentic
	}
	f, err := s.root.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	entry := make([]byte, fi.Size())
	n, err := io.ReadFull(f, entry)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return entry[:n], err
}

// put keeps code under a name, and drops what was used longest ago if there is
// too much. It does not wait for the disk: what a loss of power cuts short is not
// authentic.
func (s *store) put(n name, code []byte) {
	if int64(headerSize)+int64(len(code)) > s.max {
		s.logger.Debug("machine code is too large to be kept", "bytes", len(code), "limit", s.max)
		return
	}
	if err := s.write(n, code); err != nil {
		s.failed("write", err)
		return
	}
	if err := s.evict(); err != nil {
		s.failed("clear", err)
	}
}

func (s *store) write(n name, code []byte) (err error) {
	tmp := unfinished + rand.Text()
	f, err := s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.root.Remove(tmp)
		}
	}()
	_, err = f.Write(seal(s.key, n, code))
	if err == nil {
		_, err = f.Write(code)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.root.Rename(tmp, n.String())
}

// evict keeps the entries together within the limit.
func (s *store) evict() error {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		fi, err := e.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case strings.HasPrefix(fi.Name(), unfinished):
			if time.Since(fi.ModTime()) > staleAfter {
				_ = s.root.Remove(fi.Name()) // the next time will do
			}
		case len(fi.Name()) == hex.EncodedLen(len(name{})):
			files = append(files, fi)
			total += fi.Size()
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, fi := range files {
		if total <= s.max {
			break
		}
		if err := s.root.Remove(fi.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= fi.Size()
	}
	return nil
}

// failed warns of the first failure of the directory. Loads go on without it.
func (s *store) failed(what string, err error) {
	s.warn.Do(func() {
		s.logger.Warn("the cache of machine code fails: modules are compiled anew; this is said once", "cannot", what, "directory", s.root.Name(), "error", err)
	})
}

func (s *store) close() error { return s.root.Close() }
