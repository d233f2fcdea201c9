// Package state keeps what must survive a restart: quarantine cases, histories,
// the plugins' own keys. It is a thin layer over bbolt with a lock on the whole
// state directory, so that one kernel at a time works on it.
//
// Every write is one transaction, synced to disk before it returns: a kernel
// that is killed at any moment finds either all or nothing of it.
package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	dbFile   = "state.db"
	newFile  = "state.db.new" // a database that is being made; never opened as state
	lockName = "lock"

	metaBucket = "forgeone"
	versionKey = "version"
	version    = "1" // of the layout of the buckets

	// openTimeout bounds the wait for bbolt's own lock on state.db, which only
	// a program that ignores the directory's lock can hold.
	openTimeout = time.Second
)

var (
	// ErrNotFound is returned by Get for a key that is not there.
	ErrNotFound = errors.New("state: no such key")
	// ErrLocked is what a [LockedError] is.
	ErrLocked = errors.New("state: directory is in use")
	// ErrCorrupt is what every error about a damaged state.db is.
	ErrCorrupt = errors.New("state: database is damaged")
	// ErrVersion is returned by Open for a state.db of another layout.
	ErrVersion = errors.New("state: database is of another version")
	// ErrClosed is returned by every use of a DB after Close.
	ErrClosed = errors.New("state: database is closed")
)

// LockedError says that another kernel works on a state directory.
type LockedError struct {
	Dir string
	PID int // of the process that holds it; 0 if it cannot be told
}

func (e *LockedError) Error() string {
	holder := "another process"
	if e.PID != 0 {
		holder = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("state: %s is in use by %s; stop it, or talk to it through its control socket", e.Dir, holder)
}

// Unwrap makes the error an [ErrLocked].
func (e *LockedError) Unwrap() error { return ErrLocked }

// DB is an open state directory. It is safe for concurrent use.
type DB struct {
	path string
	lock *os.File
	bolt *bbolt.DB
}

// Open opens a state directory, which is made with mode 0700 if it is missing,
// and locks it until Close. It does not wait for the lock. Errors:
// *[LockedError], [ErrCorrupt], [ErrVersion], and those of the file system.
func Open(dir string) (*DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	db := &DB{path: filepath.Join(dir, dbFile), lock: lock}
	if err := db.open(dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return db, nil
}

func (db *DB) open(dir string) error {
	_, err := os.Stat(db.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = create(dir)
	}
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	var file *os.File
	err = guard(func() (err error) {
		db.bolt, err = bbolt.Open(db.path, 0o600, &bbolt.Options{
			Timeout: openTimeout,
			OpenFile: func(name string, flag int, perm os.FileMode) (_ *os.File, err error) {
				file, err = os.OpenFile(name, flag, perm)
				return file, err
			},
		})
		return err
	})
	if err != nil {
		if file != nil {
			// bbolt has done so, unless it panicked on the way; then its memory
			// map is left, which would hold the lock.
			unlockFile(file)
			_ = file.Close()
		}
		return db.explain(err)
	}
	if err := guard(db.check); err != nil {
		return errors.Join(db.explain(err), db.bolt.Close())
	}
	return nil
}

// create makes state.db whole or not at all.
func create(dir string) error {
	name := filepath.Join(dir, newFile)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	bolt, err := bbolt.Open(name, 0o600, &bbolt.Options{Timeout: openTimeout})
	if err != nil {
		return err
	}
	err = bolt.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(metaBucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(versionKey), []byte(version))
	})
	if err := errors.Join(err, bolt.Close()); err != nil {
		return err
	}
	if err := os.Rename(name, filepath.Join(dir, dbFile)); err != nil {
		return err
	}
	return syncDir(dir)
}

// check finds what bbolt does not look for when it opens a file: one that was
// cut, and one that is not ours.
func (db *DB) check() error {
	return db.bolt.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(db.path)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("%w: %d bytes of %d are left", ErrCorrupt, info.Size(), tx.Size())
		}
		b := tx.Bucket([]byte(metaBucket))
		if b == nil {
			return fmt.Errorf("%w: it was not made by this program", ErrCorrupt)
		}
		if v := b.Get([]byte(versionKey)); string(v) != version {
			return fmt.Errorf("%w: %q, this program reads %q", ErrVersion, v, version)
		}
		return nil
	})
}

// explain gives an error of bbolt its place and remedy.
func (db *DB) explain(err error) error {
	switch {
	case errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum),
		errors.Is(err, bbolterrors.ErrInvalidMapping), errors.Is(err, bbolterrors.ErrVersionMismatch):
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("%w: %s is held open by another program", ErrLocked, db.path)
	case errors.Is(err, bbolterrors.ErrDatabaseNotOpen):
		return ErrClosed
	}
	switch {
	case errors.Is(err, ErrCorrupt):
		return fmt.Errorf("%w (%s); restore it from a backup, or move it aside to start without quarantine cases, histories and keys", err, db.path)
	case errors.Is(err, ErrVersion):
		return fmt.Errorf("%w (%s); use the program that made it", err, db.path)
	}
	return err
}

// guard turns what bbolt does on meeting a damaged page, a panic or a memory
// fault, into an error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, v)
		}
	}()
	return f()
}

// Close ends the use of the directory. What is under way is finished first.
func (db *DB) Close() error {
	return errors.Join(db.bolt.Close(), db.lock.Close())
}

// Update runs f in one transaction: all of what it did through tx is kept, or
// nothing if it returns an error, which Update returns. Other writers wait, so
// f should not do anything else.
func (db *DB) Update(f func(tx *Tx) error) error {
	err := guard(func() error {
		return db.bolt.Update(func(tx *bbolt.Tx) error { return f(&Tx{tx}) })
	})
	return db.explain(err)
}

// Tx is a transaction under way. It must not be used after the function that
// it was given to.
type Tx struct{ tx *bbolt.Tx }

// Bucket names a bucket in the transaction.
func (tx *Tx) Bucket(name string) *Bucket { return &Bucket{name: []byte(name), tx: tx.tx} }

// Bucket names a bucket. Each use of it is a transaction of its own. A bucket
// exists once something was put in it.
func (db *DB) Bucket(name string) *Bucket { return &Bucket{name: []byte(name), db: db} }
