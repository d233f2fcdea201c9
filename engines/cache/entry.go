package cache

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
)

// An entry is the format, the authentication code of name and code, and the code.
const headerSize = len(format) + sha256.Size

// seal is the header of an entry.
func seal(key []byte, n name, code []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(format))
	h.Write(n[:])
	h.Write(code)
	return h.Sum([]byte(format))
}

var (
	errOtherFormat = errors.New("it is cut short or of another format")
	errForged      = errors.New("it was not made by this kernel for this module, or was changed since")
)

// unseal is the code of an entry, if it is authentic.
func unseal(key []byte, n name, entry []byte) ([]byte, error) {
	if len(entry) < headerSize || string(entry[:len(format)]) != format {
		return nil, errOtherFormat
	}
	code := entry[headerSize:]
	if !hmac.Equal(seal(key, n, code), entry[:headerSize]) {
		return nil, errForged
	}
	return code, nil
}
