// Package vowels is the work that both plugins do: what Extism's count_vowels
// does.
package vowels

import "strconv"

// Count is the number of vowels in text, as JSON.
func Count(text []byte) []byte {
	n := 0
	for _, c := range text {
		switch c {
		case 'a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U':
			n++
		}
	}
	return append(strconv.AppendInt([]byte(`{"count":`), int64(n), 10), `}`...)
}
