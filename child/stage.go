package child

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxBinary bounds the size of a child's binary, in bytes.
const maxBinary = 512 << 20

// stage copies the binary into a directory that nobody else may enter and
// verifies the copy, which is what is run: whoever changes the original later
// changes nothing. (go-plugin's own check hashes a path and then runs what is
// there by that time.)
func stage(cfg Config) (dir, binary string, err error) {
	bad := func(reason, remedy string) error {
		return &Error{Kind: ErrChecksum, Name: cfg.Name, Path: cfg.Path, Reason: reason, Remedy: remedy}
	}
	want, err := hex.DecodeString(cfg.SHA256)
	if err != nil || len(want) != sha256.Size {
		return "", "", bad(fmt.Sprintf("the configured sha256 %q is not 64 hexadecimal digits", clip(cfg.SHA256, 80)), "take it with sha256sum")
	}
	src, err := openRegular(cfg.Path)
	if err != nil {
		return "", "", fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	defer func() { _ = src.Close() }()

	private, err := os.MkdirTemp("", "forgeone-") // mode 0700
	if err != nil {
		return "", "", fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(private)
		}
	}()
	binary = filepath.Join(private, filepath.Base(cfg.Path))
	dst, err := os.OpenFile(binary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o500)
	if err != nil {
		return "", "", fmt.Errorf("start %s: %w", cfg.Name, err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, sum), io.LimitReader(src, maxBinary+1))
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	switch got := hex.EncodeToString(sum.Sum(nil)); {
	case err != nil:
		return "", "", fmt.Errorf("start %s: copy %s: %w", cfg.Name, cfg.Path, err)
	case n > maxBinary:
		return "", "", fmt.Errorf("start %s: %s is larger than %d bytes", cfg.Name, cfg.Path, maxBinary)
	case !strings.EqualFold(got, cfg.SHA256):
		return "", "", bad(fmt.Sprintf("it has sha256 %s, configured is %s", got, strings.ToLower(cfg.SHA256)), "restore the file, or configure the new checksum if the change is meant")
	}
	return private, binary, nil
}

// openRegular opens a regular file; the check comes first because the opening
// of a pipe or device may block or have an effect.
func openRegular(path string) (*os.File, error) {
	fi, err := os.Stat(path)
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}
