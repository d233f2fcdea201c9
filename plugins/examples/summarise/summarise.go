// Package summarise is what the example plugins summarise-wasm and
// summarise-native do: the same code, over the same kernel, in either kind of
// plugin. It needs file_open, file_read, kv_get, kv_put and log_write.
package summarise

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"forgeone.dev/forgeone/sdk"
)

// Summary is what [Run] says of a document, as JSON.
type Summary struct {
	Document  string `json:"document"` // its path
	Words     int    `json:"words"`
	Sentences int    `json:"sentences"`
	Top       []Word `json:"top"`   // the most frequent words, at most five
	Count     int    `json:"count"` // documents summarised so far, this one included
}

// Word is a word of more than three letters, in lower case.
type Word struct {
	Word  string `json:"word"`
	Count int    `json:"count"`
}

// Run summarises the document whose path the input is.
func Run(ctx context.Context, k *sdk.Kernel, input []byte) ([]byte, error) {
	path := string(bytes.TrimSpace(input))
	if path == "" {
		return nil, errors.New("the input is empty; it must be the path of a document, such as /data/report.txt")
	}
	text, err := k.ReadFile(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	s := summarise(string(text))
	s.Document = path
	if s.Count, err = count(ctx, k); err != nil {
		return nil, fmt.Errorf("keep the count: %w", err)
	}
	if err := k.Log(ctx, "info", "document summarised", "path", path, "words", strconv.Itoa(s.Words)); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return json.Marshal(s)
}

const key = "documents" // of the running count, in decimal

// count adds one to the running count.
func count(ctx context.Context, k *sdk.Kernel) (n int, err error) {
	old, err := k.KVGet(ctx, key)
	if failed, ok := errors.AsType[*sdk.SyscallError](err); ok && failed.Code == sdk.CodeNotFound {
		old, err = []byte("0"), nil
	}
	if err != nil {
		return 0, err
	}
	if n, err = strconv.Atoi(string(old)); err != nil {
		return 0, err
	}
	return n + 1, k.KVPut(ctx, key, strconv.AppendInt(nil, int64(n+1), 10))
}

func summarise(text string) Summary {
	s := Summary{Top: []Word{}}
	counts := map[string]int{}
	for _, w := range strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && r != '\'' }) {
		s.Words++
		if w = strings.ToLower(w); len([]rune(w)) > 3 {
			counts[w]++
		}
	}
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(".!?", r) }) {
		if strings.ContainsFunc(part, unicode.IsLetter) {
			s.Sentences++
		}
	}
	for w, n := range counts {
		s.Top = append(s.Top, Word{w, n})
	}
	slices.SortFunc(s.Top, func(a, b Word) int { return cmp.Or(b.Count-a.Count, strings.Compare(a.Word, b.Word)) })
	s.Top = s.Top[:min(len(s.Top), 5)]
	return s
}
