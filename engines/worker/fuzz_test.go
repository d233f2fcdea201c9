//go:build linux || darwin

package worker_test

import (
	"bytes"
	"testing"

	"forgeone.dev/forgeone/engines/meter"
	"forgeone.dev/forgeone/engines/wazero"
	"forgeone.dev/forgeone/engines/worker"
)

// FuzzAnswers gives the kernel's side whatever a worker could send: no panic,
// and no memory for what was announced and not sent.
func FuzzAnswers(f *testing.F) {
	f.Add(worker.Frame(worker.OpDone))
	f.Add(worker.Frame(worker.OpError, worker.ErrTrap, 1, 2, 0, 0, 0, 'h', 'i'))
	f.Add(append(worker.Frame(worker.OpResult, make([]byte, 16)...), worker.Frame(worker.OpData, make([]byte, 9000)...)...))
	f.Add([]byte{0xff, 0xff, 0x0f, 0x00, worker.OpData, 1, 2, 3})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		if err := worker.Answers(bytes.NewReader(stream)); err == nil {
			t.Error("the stream has no end")
		}
	})
}

// FuzzRequests gives the worker's side whatever a kernel could send.
func FuzzRequests(f *testing.F) {
	for _, stream := range worker.Conversation(sample()) {
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		inner, err := wazero.New()
		if err != nil {
			t.Fatal(err)
		}
		e := meter.Wrap(inner, meter.Limits{})
		defer e.Close()
		if err := worker.Requests(e, bytes.NewReader(stream)); err == nil {
			t.Error("the stream has no end")
		}
	})
}
