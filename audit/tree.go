package audit

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

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
	// edge[l] are the hashes of the last tile of level l, as long as that tile
	// is not full. Tiles are those of the C2SP specification tlog-tiles.
	edge [][]tlog.Hash
}

// tile is a full or partial hash tile.
type tile struct {
	level  int
	index  uint64
	hashes []tlog.Hash
}

// path is the tile's file below the log's directory, as C2SP tlog-tiles has it
// (tlog.Tile.Path gives another layout).
func (t tile) path() string {
	p := filepath.Join("tile", strconv.Itoa(t.level), filepath.FromSlash(tileIndex(t.index)))
	if len(t.hashes) < tileWidth {
		p = filepath.Join(p+".p", strconv.Itoa(len(t.hashes)))
	}
	return p
}

// tileIndex writes n in groups of three digits, all but the last with an x.
func tileIndex(n uint64) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	return s
}

func (t tile) bytes() []byte {
	b := make([]byte, 0, len(t.hashes)*tlog.HashSize)
	for i := range t.hashes {
		b = append(b, t.hashes[i][:]...)
	}
	return b
}

// readTile reads the hashes of a tile that holds width of them.
func readTile(dir string, level int, index uint64, width int) ([]tlog.Hash, error) {
	t := tile{level, index, make([]tlog.Hash, width)}
	name := filepath.Join(dir, t.path())
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if len(b) != width*tlog.HashSize {
		return nil, fmt.Errorf("%s is %d bytes long, not %d", name, len(b), width*tlog.HashSize)
	}
	for i := range t.hashes {
		t.hashes[i] = tlog.Hash(b[i*tlog.HashSize:])
	}
	return t.hashes, nil
}

// add appends a leaf, and hands each tile that it fills to full. The hashes of
// a tile are only valid during that call.
func (t *tree) add(leaf tlog.Hash, full func(tile)) {
	t.size++
	h := leaf
	for level := 0; ; level++ {
		if level == len(t.edge) {
			t.edge = append(t.edge, make([]tlog.Hash, 0, tileWidth))
		}
		t.edge[level] = append(t.edge[level], h)
		if len(t.edge[level]) < tileWidth {
			return
		}
		full(tile{level, t.size>>(tileHeight*(level+1)) - 1, t.edge[level]})
		h = perfect(t.edge[level])
		t.edge[level] = t.edge[level][:0]
	}
}

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

// partial returns the tiles at the right edge.
func (t *tree) partial() []tile {
	var tiles []tile
	for level, hashes := range t.edge {
		if len(hashes) > 0 {
			tiles = append(tiles, tile{level, t.size >> (tileHeight * (level + 1)), slices.Clone(hashes)})
		}
	}
	return tiles
}

func (t *tree) clone() tree {
	c := tree{size: t.size, edge: make([][]tlog.Hash, len(t.edge))}
	for i, e := range t.edge {
		c.edge[i] = append(make([]tlog.Hash, 0, tileWidth), e...)
	}
	return c
}

// loadTree builds the tree over the first size leaves, a multiple of the tile
// width, from the full tiles in dir. What it returns is to be trusted only as
// far as its root is found to be signed.
func loadTree(dir string, size uint64) (tree, error) {
	t := tree{size: size}
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		edge := make([]tlog.Hash, 0, tileWidth)
		if level > 0 {
			end := size >> (tileHeight * level)
			for i := end &^ (tileWidth - 1); i < end; i++ {
				below, err := readTile(dir, level-1, i, tileWidth)
				if err != nil {
					return tree{}, err
				}
				edge = append(edge, perfect(below))
			}
		}
		t.edge = append(t.edge, edge)
	}
	return t, nil
}
