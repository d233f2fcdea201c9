package audit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Names of the files beside the segments.
const (
	checkpointsFile = "checkpoints"
	publicKeyFile   = "log.pub"
	privateKeyFile  = "key"
)

// GenerateKey makes an Ed25519 key for a log of the given name and returns the
// signer text, which is secret, and the verifier text, which is to be given to
// whoever checks the log. Both are in the encoding of golang.org/x/mod/sumdb/note.
func GenerateKey(name string) (signer, verifier string, err error) {
	if name == "" || strings.ContainsAny(name, " +\t\r\n") {
		return "", "", fmt.Errorf("audit: %q cannot name a log: it is empty or holds a space or a plus sign", name)
	}
	return note.GenerateKey(rand.Reader, name)
}

// verifierText returns the verifier text that belongs to a signer text.
func verifierText(signer string) (string, error) {
	// note has no way to ask a signer for its public key: the last field of
	// PRIVATE+KEY+name+hash+data is an algorithm byte, 1, and the seed.
	fields := strings.SplitN(strings.TrimSpace(signer), "+", 5)
	data, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(fields) != 5 || len(data) != 1+ed25519.SeedSize {
		return "", errors.New("audit: the key is not an Ed25519 signer key")
	}
	public := ed25519.NewKeyFromSeed(data[1:]).Public().(ed25519.PublicKey)
	return note.NewEd25519VerifierKey(fields[2], public)
}

// maxOpen bounds how many unanswered records a checkpoint lists.
const maxOpen = 256

// checkpoint is a signed statement of the log's size and Merkle root: a C2SP
// tlog-checkpoint, with one extension line where intents or folded runs were
// open at that size, so that a log opened after a crash knows what to look for
// without reading itself from the start.
type checkpoint struct {
	size uint64
	root tlog.Hash
	// open are records below scan that were not answered at size; those from
	// scan on are to be found by reading.
	scan uint64
	open []uint64
}

// newCheckpoint states what was open, in any order.
func newCheckpoint(size uint64, root tlog.Hash, open []uint64) checkpoint {
	c := checkpoint{size: size, root: root, scan: size, open: open}
	slices.Sort(c.open)
	if len(c.open) > maxOpen {
		c.scan, c.open = c.open[maxOpen], c.open[:maxOpen]
	}
	return c
}

func (c checkpoint) text(origin string) string {
	b := fmt.Appendf(nil, "%s\n%d\n%v\n", origin, c.size, c.root)
	if len(c.open) > 0 {
		b = fmt.Appendf(b, "open %d", c.scan)
		for _, seq := range c.open {
			b = fmt.Appendf(b, " %d", seq)
		}
		b = append(b, '\n')
	}
	return string(b)
}

// sign returns the note as it is written, with the empty line that ends it.
func (c checkpoint) sign(signer note.Signer) ([]byte, error) {
	msg, err := note.Sign(&note.Note{Text: c.text(signer.Name())}, signer)
	if err != nil {
		return nil, fmt.Errorf("audit: sign checkpoint of %d records: %w", c.size, err)
	}
	return append(msg, '\n'), nil
}

// openCheckpoint verifies and reads a note without the empty line that ends it.
func openCheckpoint(msg []byte, verifier note.Verifier) (checkpoint, error) {
	var c checkpoint
	n, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return c, err
	}
	lines := strings.Split(strings.TrimSuffix(n.Text, "\n"), "\n")
	if len(lines) < 3 {
		return c, errors.New("checkpoint has fewer than three lines")
	}
	if c.size, err = strconv.ParseUint(lines[1], 10, 64); err != nil {
		return c, fmt.Errorf("size %q is not a number", lines[1])
	}
	if c.root, err = tlog.ParseHash(lines[2]); err != nil {
		return c, fmt.Errorf("root %q is not a hash", lines[2])
	}
	c.scan = c.size
	if len(lines) > 3 {
		for i, field := range strings.Fields(lines[3])[1:] {
			seq, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				return c, fmt.Errorf("open record %q is not a number", field)
			}
			if i == 0 {
				c.scan = seq
			} else {
				c.open = append(c.open, seq)
			}
		}
	}
	if c.text(verifier.Name()) != n.Text {
		return c, errors.New("checkpoint is not in the form that the log writes")
	}
	for _, s := range n.Sigs {
		if raw, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil || len(raw) == 0 {
			return c, errors.New("signature is not in canonical base64")
		}
	}
	return c, nil
}

// checkpoints reads the notes of a checkpoints file one after another.
type checkpoints struct {
	r      *bufio.Reader
	offset int64 // of what next returns
	end    int64 // after it
}

// maxNote bounds a note in bytes.
const maxNote = 64 << 10

var (
	errTorn = errors.New("checkpoint without an end") // as a crash or a live log leaves it
	errLong = fmt.Errorf("checkpoint longer than %d bytes", maxNote)
)

// next returns the next note without its closing empty line, io.EOF at the
// end, or errTorn with the note as far as it goes.
func (c *checkpoints) next() ([]byte, error) {
	c.offset = c.end
	var msg []byte
	for blank := 0; ; {
		line, err := c.r.ReadSlice('\n')
		msg = append(msg, line...)
		c.end += int64(len(line))
		switch {
		case len(msg) > maxNote:
			return nil, errLong
		case err == io.EOF && len(msg) == 0:
			return nil, io.EOF
		case err == io.EOF:
			return msg, errTorn
		case err != nil && err != bufio.ErrBufferFull:
			return nil, err
		}
		if len(line) == 1 && line[0] == '\n' {
			if blank++; blank == 2 {
				return msg[:len(msg)-1], nil
			}
		}
	}
}

// tearable reports whether msg is what a crash may leave of a note: a prefix of
// one, and zeroes.
func tearable(msg []byte, verifier note.Verifier) bool {
	msg = bytes.TrimRight(msg, "\x00")
	text, sigs, signed := bytes.Cut(msg, []byte("\n\n"))
	mark := []byte("— ")
	if bytes.Contains(text, mark) { // which has a space, as no name in the text has
		return false
	}
	if !signed {
		return true
	}
	if bytes.HasSuffix(sigs, []byte("\n")) { // all but the empty line is there
		_, err := openCheckpoint(msg, verifier)
		return err == nil
	}
	return !bytes.Contains(sigs, []byte("\n")) && (bytes.HasPrefix(sigs, mark) || bytes.HasPrefix(mark, sigs))
}

// lastCheckpoint reads the last complete note of a file and where it ends. A
// file without any gives a zero checkpoint.
func lastCheckpoint(name string, verifier note.Verifier) (c checkpoint, end int64, err error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return checkpoint{}, 0, nil
	}
	if err != nil {
		return c, 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return c, 0, err
	}
	from := max(0, size-2*maxNote)
	tail := make([]byte, size-from)
	if _, err := f.ReadAt(tail, from); err != nil && err != io.EOF {
		return c, 0, err
	}
	// Parts are in turn the text and the signatures of a note; only what an
	// empty line follows is complete.
	parts := bytes.Split(tail, []byte("\n\n"))
	end = size
	for i := len(parts) - 1; i > 0; i-- {
		end -= int64(len(parts[i])) + 2
		sigs := parts[i-1]
		if i < 2 || !bytes.HasPrefix(sigs, []byte("— ")) {
			continue
		}
		if len(parts) > i+2 {
			return c, 0, fmt.Errorf("audit: %s: what follows byte %d is not a checkpoint", name, end+2)
		}
		msg := slices.Concat(parts[i-2], []byte("\n\n"), sigs, []byte("\n"))
		c, err = openCheckpoint(msg, verifier)
		if err != nil {
			return c, 0, fmt.Errorf("audit: %s: the last checkpoint does not verify: %w", name, err)
		}
		return c, end + 2, nil
	}
	if from > 0 || len(parts) > 2 {
		return c, 0, fmt.Errorf("audit: %s: no checkpoint in the last %d bytes", name, len(tail))
	}
	return checkpoint{}, 0, nil
}
