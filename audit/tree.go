package audit

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// tree is the right edge of the Merkle tree of RFC 6962 over the lines, which
// is all that adding a leaf and computing the root need. Its zero value is the
// empty tree.
type tree struct {
	size uint64
	// edge[l] are the hashes of level l that are not in a full tile yet, a
	// tile being 256 of them, and the roots of its tiles the level above.
	edge [][]tlog.Hash
}

// add appends a leaf, and hands each hash that this adds to a level to emit.
func (t *tree) add(leaf tlog.Hash, emit func(level int, h tlog.Hash)) {
	t.size++
	h := leaf
	for level := 0; ; level++ {
		if level == len(t.edge) {
			t.edge = append(t.edge, make([]tlog.Hash, 0, tileWidth))
		}
		emit(level, h)
		t.edge[level] = append(t.edge[level], h)
		if len(t.edge[level]) < tileWidth {
			return
		}
		h = perfect(t.edge[level])
		t.edge[level] = t.edge[level][:0]
	}
}

// drop is an emit for trees of which nothing is stored.
func drop(int, tlog.Hash) {}

// perfect is the hash of a perfect subtree over hashes, a power of two of them.
func perfect(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(perfect(hashes[:half]), perfect(hashes[half:]))
}

// root is the Merkle tree hash.
func (t *tree) root() tlog.Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	var root tlog.Hash
	empty := true
	for _, hashes := range t.edge {
		for n := len(hashes); n > 0; {
			low := n & -n // the lowest, so the rightmost, perfect subtree
			h := perfect(hashes[n-low : n])
			n -= low
			if empty {
				root, empty = h, false
			} else {
				root = tlog.NodeHash(h, root)
			}
		}
	}
	return root
}

func (t *tree) clone() tree {
	c := tree{size: t.size, edge: make([][]tlog.Hash, len(t.edge))}
	for i, e := range t.edge {
		c.edge[i] = append(make([]tlog.Hash, 0, tileWidth), e...)
	}
	return c
}

// hashesPath is the file that holds the hashes of a level, one after another:
// the tiles of C2SP tlog-tiles end to end, tile N of level L being 8192 bytes
// of file L from N*8192 on, and the last one partial. (A file for each tile,
// as that specification serves them, would be 2,000 files a second under load,
// and making them costs more than all the rest of the log.)
func hashesPath(dir string, level int) string {
	return filepath.Join(dir, fmt.Sprintf("hashes.%d", level))
}

// readHashes reads hashes from to end of a level.
func readHashes(dir string, level int, from, end uint64) ([]tlog.Hash, error) {
	if from == end {
		return nil, nil
	}
	f, err := os.Open(hashesPath(dir, level))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, (end-from)*tlog.HashSize)
	n, err := f.ReadAt(b, int64(from)*tlog.HashSize)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	hashes := make([]tlog.Hash, n/tlog.HashSize, tileWidth)
	for i := range hashes {
		hashes[i] = tlog.Hash(b[i*tlog.HashSize:])
	}
	if len(hashes) == int(end-from) {
		err = nil
	}
	return hashes, err
}

// loadTree builds the tree over the first size leaves from stored hashes. It
// is to be trusted only as far as its root is found to be signed.
func loadTree(dir string, size uint64) (tree, error) {
	t := tree{size: size}
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		end := size >> (tileHeight * level)
		hashes, err := readHashes(dir, level, end&^(tileWidth-1), end)
		if err != nil {
			return tree{}, err
		}
		t.edge = append(t.edge, hashes)
	}
	return t, nil
}
