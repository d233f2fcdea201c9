package audit

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Limits of what a record holds of what somebody else said, so that nothing a
// plugin says makes its record too large to write.
const (
	clipText  = 1 << 10 // bytes of one text
	clipTotal = 4 << 10 // bytes of a list of them
	clipCount = 64      // texts in a list
	clipShown = 8       // texts that are left of a list that was cut
)

// Clip is s if it is at most 1 KiB long, else its beginning with the length and
// the SHA-256 of the whole.
func Clip(s string) string {
	if len(s) <= clipText {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes, sha256 %x)", s[:clipText/4], len(s), sha256.Sum256([]byte(s)))
}

// ClipList is list if it is at most 4 KiB of at most 64 texts, none longer than
// 1 KiB; else its first texts, clipped, with the length of the list and the
// SHA-256 of its texts, each followed by a NUL byte.
func ClipList(list []string) []string {
	total, fits := 0, len(list) <= clipCount
	for _, s := range list {
		total += len(s)
		fits = fits && len(s) <= clipText
	}
	if fits && total <= clipTotal {
		return list
	}
	out := make([]string, 0, clipShown+1)
	for i, s := range list {
		if i == clipShown {
			break
		}
		out = append(out, Clip(s))
	}
	if len(list) > clipShown {
		whole := sha256.Sum256([]byte(strings.Join(list, "\x00") + "\x00"))
		out = append(out, fmt.Sprintf("… (%d in all, sha256 %x)", len(list), whole))
	}
	return out
}
