// Command command is a WASI command for tests, as the Go toolchain builds it. It
// prints what it finds, and what came of what it did.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Println("usage: command env|cat|files|copy FROM TO|sleep|spin|exit CODE")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "env":
		fmt.Println(os.Args, os.Environ())
	case "cat":
		n, err := io.Copy(os.Stdout, os.Stdin)
		fmt.Fprintln(os.Stderr, n, err)
	case "files":
		files()
	case "copy":
		if err := copyFile(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "sleep":
		began := time.Now()
		time.Sleep(10 * time.Millisecond)
		fmt.Println(time.Since(began) >= 10*time.Millisecond)
	case "spin":
		for {
		}
	case "exit":
		code, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		os.Exit(code)
	}
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	dst, err := os.Create(to)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, 64<<10))
	return errors.Join(err, src.Close(), dst.Close())
}

// files does a bit of everything in /data, and tries to get out of it.
func files() {
	show := func(what string, err error) { fmt.Println(what+":", err) }
	show("mkdir", os.MkdirAll("/data/a/b", 0o755))
	show("write", os.WriteFile("/data/a/one", []byte("one"), 0o644))
	show("link", os.Link("/data/a/one", "/data/a/b/two"))
	show("rename", os.Rename("/data/a/one", "/data/three"))
	show("symlink", os.Symlink("../three", "/data/a/link"))

	f, err := os.OpenFile("/data/a/link", os.O_RDWR|os.O_APPEND, 0)
	show("open", err)
	_, err = f.WriteString(" two")
	show("append", err)
	at, err := f.Seek(-3, io.SeekEnd)
	fmt.Println("seek:", at, err)
	rest, err := io.ReadAll(f)
	fmt.Printf("read: %q %v\n", rest, err)
	show("truncate", f.Truncate(5))
	show("sync", f.Sync())
	show("close", f.Close())

	when := time.Unix(1e9, 123)
	show("times", os.Chtimes("/data/three", when, when))
	info, err := os.Stat("/data/a/b/two")
	fmt.Println("stat:", info.Size(), info.Mode().IsRegular(), info.ModTime().Equal(when), err)
	target, err := os.Readlink("/data/a/link")
	fmt.Println("readlink:", target, err)
	show("walk", fs.WalkDir(os.DirFS("/data"), ".", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(" ", path, d.Type(), err)
		return err
	}))

	_, err = os.ReadFile("/data/../secret")
	show("out by ..", err)
	show("a link out", os.Symlink("../secret", "/data/out"))
	_, err = os.ReadFile("/data/out")
	show("out by a link", err)
	_, err = os.ReadFile("/secret")
	show("elsewhere", err)
	_, err = os.ReadFile("/data/none")
	fmt.Println("missing:", errors.Is(err, fs.ErrNotExist))
	_, err = os.OpenFile("/data/three", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	fmt.Println("exclusive:", errors.Is(err, fs.ErrExist))
	show("remove", os.Remove("/data/a"))
	show("remove all", os.RemoveAll("/data/a"))
}
