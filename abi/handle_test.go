package abi

import (
	"errors"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"forgeone.dev/forgeone/zta"
)

func TestHandlesBelongToOneContainer(t *testing.T) {
	a, b := &SyscallContext{Subject: &Subject{Container: NewContainer("a")}}, &SyscallContext{Subject: &Subject{Container: NewContainer("b")}}
	h, err := a.Open(closer(func() {}), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(closer(func() {}), "y"); err != nil {
		t.Fatal(err)
	}
	b.Handle = h
	if _, _, ok := b.Object(); ok && a.Container.gen != b.Container.gen {
		t.Error("a handle of one container names something in another")
	}
	if err := b.CloseHandle(); err == nil && a.Container.gen != b.Container.gen {
		t.Error("a handle of one container closed something in another")
	}
	for range MaxHandles - 1 {
		if _, err := a.Open(closer(func() {}), "x"); err != nil {
			t.Fatal(err)
		}
	}
	closed := false
	if _, err := a.Open(closer(func() { closed = true }), "x"); !errors.Is(err, ErrHandles) || !closed {
		t.Errorf("beyond the limit: %v, closed %v", err, closed)
	}
}

// Whatever calls do, each sees the handles that it opened itself and has not
// closed, or all see all where handles are the container's; an object is closed
// once, and none is left open by who owned it.
func TestHandlesBelongToTheirCall(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t, zta.Enforce, everything, allowAll)
		w.subject.CallHandles = rapid.Bool().Draw(r, "call handles")
		type object struct {
			handle Handle
			call   int
			closed int
		}
		calls := []*Call{nil} // a request that is of no call is the container's
		ended := map[int]bool{}
		var objects []*object
		dead := false
		request := func(call int, h Handle) *SyscallContext {
			return &SyscallContext{Subject: w.subject, Call: calls[call], Handle: h}
		}
		someCall := func(t *rapid.T) int { return rapid.IntRange(0, len(calls)-1).Draw(t, "call") }
		visible := func(o *object, call int) bool {
			return o.closed == 0 && (o.call == call || !w.subject.CallHandles)
		}
		r.Repeat(map[string]func(*rapid.T){
			"begin": func(*rapid.T) {
				if !dead {
					calls = append(calls, w.begin(t))
				}
			},
			"open": func(t *rapid.T) {
				o := &object{call: someCall(t)}
				h, err := request(o.call, 0).Open(closer(func() { o.closed++ }), "r")
				if refused := dead || (w.subject.CallHandles && ended[o.call]); refused != (err != nil) || refused != (o.closed == 1) {
					t.Fatalf("open: %v, closed %d times", err, o.closed)
				}
				if err == nil {
					o.handle = h
					objects = append(objects, o)
				}
			},
			"close": func(t *rapid.T) {
				if len(objects) == 0 {
					t.Skip("nothing was opened")
				}
				o, call := rapid.SampledFrom(objects).Draw(t, "object"), someCall(t)
				may := visible(o, call)
				if err := request(call, o.handle).CloseHandle(); (err == nil) != may {
					t.Fatalf("call %d closes %+v: %v", call, o, err)
				}
			},
			"end": func(t *rapid.T) {
				if call := someCall(t); call > 0 && !ended[call] {
					ended[call] = true
					if err := calls[call].End(nil, nil); err != nil {
						t.Fatal(err)
					}
				}
			},
			"die": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "die") == 0 {
					dead = true
					w.subject.Container.Close("test")
				}
			},
			"": func(t *rapid.T) {
				open := map[int]int{}
				for _, o := range objects {
					if gone := dead || (w.subject.CallHandles && ended[o.call]); o.closed > 1 || (gone && o.closed == 0) {
						t.Fatalf("%+v, dead %v, ended %v", o, dead, ended)
					}
					if o.closed == 0 {
						open[o.call]++
					}
					for call := range calls {
						if _, _, ok := request(call, o.handle).Object(); ok != visible(o, call) {
							t.Fatalf("call %d sees %+v: %v", call, o, ok)
						}
					}
				}
				if w.subject.CallHandles && !dead {
					for i, c := range calls {
						if c != nil && !ended[i] && c.Handles() != open[i] {
							t.Fatalf("call %d has %d handles, counts %d", i, open[i], c.Handles())
						}
					}
				}
			},
		})
	})
}

// Calls that run at once see nothing of each other, and leave nothing.
func TestHandlesOfCallsAtOnce(t *testing.T) {
	w := newWorld(t, zta.Enforce, everything, allowAll)
	w.subject.CallHandles = true
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				c := w.begin(t)
				var mine, other Handle
				for i := range 3 {
					h, err := (&SyscallContext{Subject: w.subject, Call: c}).Open(closer(func() { w.closed.Add(1) }), "r")
					if err != nil {
						t.Error(err)
					}
					if i == 0 {
						mine, other = h, h+1
					}
				}
				if _, _, ok := (&SyscallContext{Subject: w.subject, Call: c, Handle: mine}).Object(); !ok {
					t.Error("a call's own handle is gone")
				}
				if err := (&SyscallContext{Subject: w.subject, Call: c, Handle: mine}).CloseHandle(); err != nil {
					t.Error(err)
				}
				_, _, _ = (&SyscallContext{Subject: w.subject, Call: c, Handle: other}).Object() // perhaps another's: for the race detector
				if err := c.End(nil, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(w.subject.Container.handles); n != 0 || w.closed.Load() != 4*100*3 {
		t.Errorf("%d handles left, %d objects closed", n, w.closed.Load())
	}
}
