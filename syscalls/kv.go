package syscalls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/state"
)

// Limits of the kv syscalls.
const (
	MaxKVKey   = 1 << 10  // bytes of a key
	MaxKVValue = 1 << 20  // bytes of a value
	MaxKVKeys  = 64 << 10 // keys of one plugin
	MaxKVBytes = 64 << 20 // bytes of one plugin's keys and values together
	MaxKVList  = 10_000   // keys that one kv_list returns
)

// Buckets of the state.
const (
	kvBucket    = "kv/"      // and the plugin's name: its keys
	usageBucket = "kv_usage" // by plugin: what its keys take
)

// keys are the kv syscalls: a plugin has keys of its own, by its name.
func keys(db *state.DB) []abi.Registration {
	kv := kvStore{db}
	return []abi.Registration{
		{
			Name: "kv_get", Args: []string{"key"}, MinTrust: capability.Limited,
			Doc:     "Get the value of one of the plugin's own keys.",
			Resolve: resolveKey, Handler: kv.get,
		},
		{
			Name: "kv_put", Args: []string{"key"}, MinTrust: capability.Limited, World: true,
			Doc:     fmt.Sprintf("Set one of the plugin's own keys, of at most %d bytes, to the payload, of at most %d. A plugin has at most %d keys and %d bytes. It is on disk when the call returns.", MaxKVKey, MaxKVValue, MaxKVKeys, MaxKVBytes),
			Resolve: resolveKey, Handler: kv.put,
		},
		{
			Name: "kv_delete", Args: []string{"key"}, MinTrust: capability.Limited, World: true,
			Doc:     "Remove one of the plugin's own keys.",
			Resolve: resolveKey, Handler: kv.delete,
		},
		{
			Name: "kv_list", Args: []string{"prefix"}, MinTrust: capability.Limited,
			Doc:     fmt.Sprintf("List the plugin's own keys that begin with the prefix, in byte order, as a JSON array; fails if they are more than %d.", MaxKVList),
			Resolve: resolvePrefix, Handler: kv.list,
		},
	}
}

func resolveKey(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	if sc.Args[0] == "" {
		return abi.Resolution{}, errors.New("the key is empty")
	}
	return resolvePrefix(ctx, sc)
}

func resolvePrefix(_ context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
	key := sc.Args[0]
	if len(key) > MaxKVKey {
		return abi.Resolution{}, fmt.Errorf("key of %d bytes: at most %d", len(key), MaxKVKey)
	}
	if err := plain(key); err != nil {
		return abi.Resolution{}, fmt.Errorf("key %.256q: %w", key, err)
	}
	return resource(keyURI(sc.Plugin, key)), nil
}

// keyURI is the resource of a key: percent-encoded but for its slashes, so that
// a policy can speak of "kv://plugin/cache/**".
func keyURI(plugin, key string) string {
	return "kv://" + url.PathEscape(plugin) + "/" + strings.ReplaceAll(url.PathEscape(key), "%2F", "/")
}

type kvStore struct{ db *state.DB }

// usage is what a plugin's keys take.
type usage struct {
	Keys  int `json:"keys"`
	Bytes int `json:"bytes"` // of keys and values
}

func (kv kvStore) ready() error {
	if kv.db == nil {
		return abi.Fail(abi.CodeUnsupported, "this kernel keeps no keys: it runs without a state directory; set kernel.state_dir")
	}
	return nil
}

func (kv kvStore) get(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	if err := kv.ready(); err != nil {
		return nil, err
	}
	value, err := kv.db.Bucket(kvBucket + sc.Plugin).Get(sc.Args[0])
	return value, kvError(sc, err)
}

func (kv kvStore) put(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	if err := tooLarge("payload", len(sc.Payload), MaxKVValue); err != nil {
		return nil, err
	}
	return nil, kv.change(sc, func(b *state.Bucket, u *usage, old int) error {
		if old < 0 {
			u.Keys++
			u.Bytes += len(sc.Args[0])
		}
		u.Bytes += len(sc.Payload) - max(old, 0)
		if u.Keys > MaxKVKeys || u.Bytes > MaxKVBytes {
			return abi.Fail(abi.CodeNoSpace, "the plugin would have %d keys and %d bytes, of at most %d and %d; delete some", u.Keys, u.Bytes, MaxKVKeys, MaxKVBytes)
		}
		return b.Put(sc.Args[0], sc.Payload)
	})
}

func (kv kvStore) delete(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	return nil, kv.change(sc, func(b *state.Bucket, u *usage, old int) error {
		if old < 0 {
			return state.ErrNotFound
		}
		u.Keys--
		u.Bytes -= len(sc.Args[0]) + old
		return b.Delete(sc.Args[0])
	})
}

// change runs f on the plugin's keys and on what they take, in one transaction.
// old is the length of the key's value, or -1 for none.
func (kv kvStore) change(sc *abi.SyscallContext, f func(b *state.Bucket, u *usage, old int) error) error {
	if err := kv.ready(); err != nil {
		return err
	}
	err := kv.db.Update(func(tx *state.Tx) error {
		usages, b := tx.Bucket(usageBucket), tx.Bucket(kvBucket+sc.Plugin)
		var u usage
		text, err := usages.Get(sc.Plugin)
		if err == nil {
			err = json.Unmarshal(text, &u)
		}
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return err
		}
		old := -1
		switch value, err := b.Get(sc.Args[0]); {
		case err == nil:
			old = len(value)
		case !errors.Is(err, state.ErrNotFound):
			return err
		}
		if err := f(b, &u, old); err != nil {
			return err
		}
		if text, err = json.Marshal(u); err != nil {
			return err
		}
		return usages.Put(sc.Plugin, text)
	})
	return kvError(sc, err)
}

func (kv kvStore) list(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	if err := kv.ready(); err != nil {
		return nil, err
	}
	found, err := kv.db.Bucket(kvBucket+sc.Plugin).Keys(sc.Args[0], MaxKVList+1)
	if err != nil {
		return nil, kvError(sc, err)
	}
	if len(found) > MaxKVList {
		return nil, abi.Fail(abi.CodeTooLarge, "more than %d keys begin with %.256q; ask for a longer prefix", MaxKVList, sc.Args[0])
	}
	if found == nil {
		found = []string{}
	}
	return json.Marshal(found)
}

func kvError(sc *abi.SyscallContext, err error) error {
	if errors.Is(err, state.ErrNotFound) {
		return abi.Fail(abi.CodeNotFound, "no key %.256q", sc.Args[0])
	}
	return err
}
