//go:build linux || darwin

package worker_test

import (
	"bytes"
	"slices"

	"forgeone.dev/forgeone/engines"
	"forgeone.dev/forgeone/engines/worker"
)

// instead replaces frames of one operation.
func instead(op byte, of func(frame []byte) []byte) struct {
	op  byte
	lie func(frame []byte) []byte
} {
	return struct {
		op  byte
		lie func(frame []byte) []byte
	}{op, func(frame []byte) []byte {
		if frame[4] != op {
			return frame
		}
		return of(slices.Clone(frame))
	}}
}

// always is a frame, whatever it takes the place of.
func always(frame []byte) func([]byte) []byte { return func([]byte) []byte { return frame } }

// snapshotLies are those about snapshots.
var snapshotLies []string

// snapshot has a worker lie about a snapshot's size or, with opDone, about what
// is restored: before that, host functions are defined.
func snapshot(op byte, name string, instead []byte) {
	snapshotLies = append(snapshotLies, name)
	told, done := false, 0
	lies[name] = struct {
		op  byte
		lie func(frame []byte) []byte
	}{op, func(frame []byte) []byte {
		size := bytes.Equal(frame, worker.Frame(worker.OpWord, 0, 0, 1, 0, 0, 0, 0, 0))
		if told = told || size; told && frame[4] == worker.OpDone {
			done++
		}
		if size && op == worker.OpWord || done == 2 && op == worker.OpDone {
			return instead
		}
		return frame
	}}
}

func init() {
	result, word := worker.OpResult, make([]byte, 8)
	lies["a frame of 4 GiB"] = instead(result, always([]byte{0xff, 0xff, 0xff, 0xff, result}))
	lies["a frame of nothing"] = instead(result, always([]byte{0, 0, 0, 0, result}))
	lies["an unknown operation"] = instead(result, always(worker.Frame(250)))
	lies["a request"] = instead(result, always(worker.Frame(worker.OpCall, word...)))
	lies["too few results"] = instead(result, always(worker.Frame(result, word[:7]...)))
	lies["too many results"] = instead(result, always(worker.Frame(result, make([]byte, 800)...)))
	lies["more than was asked"] = instead(result, func(f []byte) []byte { return append(f, f...) })
	lies["another answer"] = instead(result, always(worker.Frame(worker.OpDone)))
	lies["a word"] = instead(result, always(worker.Frame(worker.OpWord, word...)))
	lies["a host error that was none"] = instead(result, always(worker.Frame(worker.OpError, worker.ErrHost)))
	lies["an interruption that was none"] = instead(result, always(worker.Frame(worker.OpError, worker.ErrTrap, byte(engines.TrapInterrupted), 0, 0, 0, 0)))
	lies["an error of no kind"] = instead(result, always(worker.Frame(worker.OpError, 99)))
	lies["an error cut short"] = instead(result, always(worker.Frame(worker.OpError, worker.ErrTrap, 1, 0xff, 0xff, 0, 0)))
	lies["an empty error"] = instead(result, always(worker.Frame(worker.OpError)))
	call := make([]byte, 16)
	call[0] = 99
	lies["a host function not linked"] = instead(result, always(worker.Frame(worker.OpHostCall, call...)))
	lies["a host function beyond the last"] = instead(worker.OpHostCall, func(f []byte) []byte { f[9] = 77; return f })
	lies["a host call with more parameters"] = instead(worker.OpHostCall, func(f []byte) []byte {
		return worker.Frame(worker.OpHostCall, append(f[5:], 0)...)
	})
	lies["memory that was not asked for"] = instead(worker.OpHostCall, func(f []byte) []byte { f[len(f)-4] = 2; return f })
	lies["too much data"] = instead(worker.OpData, func(f []byte) []byte { return worker.Frame(worker.OpData, append(f[5:], 0)...) })
	lies["too little data"] = instead(worker.OpData, func(f []byte) []byte { return worker.Frame(worker.OpData, f[6:]...) })
	lies["done for data"] = instead(worker.OpData, always(worker.Frame(worker.OpDone)))
	lies["silence"] = instead(result, always(nil))
	lies["half a frame"] = instead(result, func(f []byte) []byte { return f[:len(f)-1] })
	snapshot(worker.OpWord, "a snapshot of 1 TiB", worker.Frame(worker.OpWord, 0, 0, 0, 0, 0, 1, 0, 0))
	snapshot(worker.OpWord, "done for a snapshot", worker.Frame(worker.OpDone))
	snapshot(worker.OpWord, "a result for a snapshot", worker.Frame(result, word...))
	snapshot(worker.OpDone, "done and more", worker.Frame(worker.OpDone, 1))
	snapshot(worker.OpDone, "a word for done", worker.Frame(worker.OpWord, word...))
	lies["a flood"] = instead(result, always(make([]byte, 16<<20)))
}
