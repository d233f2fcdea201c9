package wasi

import (
	"encoding/binary"
	"strconv"
)

// argsGet is args_get(argv, argv_buf).
func argsGet(x frame) error { return x.strings(x.config().Args) }

// argsSizesGet is args_sizes_get(argc, argv_buf_size).
func argsSizesGet(x frame) error { return x.sizes(x.config().Args) }

// environGet is environ_get(environ, environ_buf).
func environGet(x frame) error { return x.strings(x.config().Env) }

// environSizesGet is environ_sizes_get(count, environ_buf_size).
func environSizesGet(x frame) error { return x.sizes(x.config().Env) }

func (x frame) config() Config {
	if x.p.config == nil {
		return Config{}
	}
	return *x.p.config
}

// strings writes the addresses of a list of strings, and the strings, each with
// a zero byte after it.
func (x frame) strings(list []string) error {
	var pointers, text []byte
	for _, s := range list {
		pointers = binary.LittleEndian.AppendUint32(pointers, uint32(x.args[1])+uint32(len(text)))
		text = append(append(text, s...), 0)
	}
	if err := x.put(x.args[0], pointers); err != nil {
		return err
	}
	return x.put(x.args[1], text)
}

// sizes writes how many strings a list has, and of how many bytes.
func (x frame) sizes(list []string) error {
	size := 0
	for _, s := range list {
		size += len(s) + 1
	}
	if err := x.putUint32(x.args[0], uint32(len(list))); err != nil {
		return err
	}
	return x.putUint32(x.args[1], uint32(size))
}

// procExit is proc_exit(code).
func procExit(x frame) error { return &ExitError{Code: uint32(x.args[0])} }

// Signals of proc_raise whose default is not to end the process.
const (
	sigNone  = 0
	sigChld  = 16
	sigCont  = 17
	sigStop  = 18 // and 19 to 21, which stop it too
	sigTtou  = 21
	sigUrg   = 22
	sigWinch = 27
	sigLast  = 30
)

// procRaise is proc_raise(signal). Nothing can catch a signal in preview 1, so
// it does what is its default on POSIX. Nobody could continue what was stopped.
func procRaise(x frame) error {
	switch s := uint32(x.args[0]); {
	case s > sigLast:
		return einval
	case s == sigNone, s == sigChld, s == sigCont, s == sigUrg, s == sigWinch:
		return nil
	case s >= sigStop && s <= sigTtou:
		return enotsup
	default:
		return &ExitError{Code: 128 + s} // as a shell tells it
	}
}

// schedYield is sched_yield(). A guest has one thread.
func schedYield(frame) error { return nil }

// maxRandom is what one random_get syscall yields, in bytes; the function makes
// several.
const maxRandom = 64 << 10

// randomGet is random_get(buf, buf_len).
func randomGet(x frame) error {
	ptr, left := x.args[0], uint32(x.args[1])
	if err := x.room(ptr, left); err != nil {
		return err
	}
	for left > 0 {
		n := min(left, maxRandom)
		data, err := x.syscall("random_get", 0, nil, strconv.FormatUint(uint64(n), 10))
		if err != nil {
			return err
		}
		if len(data) != int(n) {
			return eio
		}
		if err := x.put(ptr, data); err != nil {
			return err
		}
		ptr, left = ptr+uint64(n), left-n
	}
	return nil
}

// sock is what every function of sockets answers: a guest has none, since
// nothing of preview 1 makes the first one.
func sock(x frame) error {
	if _, err := x.p.descriptor(x.args[0], 0); err != nil {
		return err
	}
	return enotsock
}
