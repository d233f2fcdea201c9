package state

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"
)

// Limits of what a bucket holds.
const (
	MaxKey   = 4 << 10 // bytes; a key is never empty
	MaxValue = 8 << 20 // bytes
)

// Bucket is a named set of keys with values, in key order.
type Bucket struct {
	name []byte
	db   *DB       // nil within a transaction
	tx   *bbolt.Tx // nil outside of one
}

// Entry is a key and its value.
type Entry struct {
	Key   string
	Value []byte
}

// Get is the value of a key. The result is the caller's own. Errors:
// [ErrNotFound].
func (b *Bucket) Get(key string) (value []byte, err error) {
	err = b.view(func(bk *bbolt.Bucket) error {
		v := bk.Get([]byte(key))
		if v == nil {
			return ErrNotFound
		}
		value = bytes.Clone(v)
		return nil
	})
	if value == nil && err == nil { // the bucket is not there
		err = ErrNotFound
	}
	return value, err
}

// Put sets the value of a key. nil is kept as an empty value.
func (b *Bucket) Put(key string, value []byte) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("state: a key is 1 to %d bytes, this is %d", MaxKey, len(key))
	}
	if len(value) > MaxValue {
		return fmt.Errorf("state: a value is at most %d bytes, this is %d", MaxValue, len(value))
	}
	return b.update(func(tx *bbolt.Tx) error {
		bk, err := tx.CreateBucketIfNotExists(b.name)
		if err != nil {
			return err
		}
		return bk.Put([]byte(key), bytes.Clone(value))
	})
}

// Delete removes a key. One that is not there is no error.
func (b *Bucket) Delete(key string) error {
	return b.update(func(tx *bbolt.Tx) error {
		if bk := tx.Bucket(b.name); bk != nil {
			return bk.Delete([]byte(key))
		}
		return nil
	})
}

// List is the entries whose key begins with prefix, in key order, at most limit
// of them; a limit of 0 or less means all. The result is the caller's own.
func (b *Bucket) List(prefix string, limit int) (entries []Entry, err error) {
	err = b.view(func(bk *bbolt.Bucket) error {
		c := bk.Cursor()
		p := []byte(prefix)
		for k, v := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, v = c.Next() {
			if limit > 0 && len(entries) == limit {
				return nil
			}
			entries = append(entries, Entry{string(k), bytes.Clone(v)})
		}
		return nil
	})
	return entries, err
}

// view runs f on the bucket if it is there.
func (b *Bucket) view(f func(*bbolt.Bucket) error) error {
	in := func(tx *bbolt.Tx) error {
		if bk := tx.Bucket(b.name); bk != nil {
			return f(bk)
		}
		return nil
	}
	if b.tx != nil {
		return in(b.tx)
	}
	return b.db.explain(guard(func() error { return b.db.bolt.View(in) }))
}

func (b *Bucket) update(f func(*bbolt.Tx) error) error {
	if b.tx != nil {
		return f(b.tx)
	}
	return b.db.explain(guard(func() error { return b.db.bolt.Update(f) }))
}

// Keys is as List, without the values.
func (b *Bucket) Keys(prefix string, limit int) (keys []string, err error) {
	err = b.view(func(bk *bbolt.Bucket) error {
		c := bk.Cursor()
		p := []byte(prefix)
		for k, _ := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, _ = c.Next() {
			if limit > 0 && len(keys) == limit {
				return nil
			}
			keys = append(keys, string(k))
		}
		return nil
	})
	return keys, err
}
