package syscalls

import (
	"context"
	"fmt"
	"sync"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of channels between plugins.
const (
	MaxIPCMessage = 1 << 20  // bytes of one
	MaxQueued     = 256      // messages that wait in a channel
	MaxIPCMemory  = 64 << 20 // bytes that wait in all channels of the kernel
)

// channels are the channels between plugins, by name. One that is empty and that
// nobody waits at is forgotten.
type channels struct {
	mu     sync.Mutex // guards what follows; held across no wait
	byName map[string]*channel
	bytes  int
}

type channel struct {
	messages [][]byte
	waiting  int           // receivers
	came     chan struct{} // closed when a message comes, and then another
}

func ipc() []abi.Registration {
	c := &channels{byName: map[string]*channel{}}
	return []abi.Registration{
		{
			Name: "ipc_send", Args: []string{"channel"}, MinTrust: capability.Standard, World: true, Fold: true,
			Doc:     fmt.Sprintf("Put the payload, a message of at most %d bytes, in a channel, from which one receiver takes it. Fails with EAGAIN (%d) where %d wait in the channel, or %d bytes in all of them.", MaxIPCMessage, codeAgain, MaxQueued, MaxIPCMemory),
			Resolve: named("ipc"), Handler: c.send,
		},
		{
			Name: "ipc_recv", Args: []string{"channel", "wait..."}, MinTrust: capability.Standard, World: true, Fold: true, Timeout: MaxNetWait,
			Doc:     fmt.Sprintf("Take the oldest message from a channel. Waits for one, or as long as wait says, in ns: it then fails with EAGAIN (%d).", codeAgain),
			Resolve: atMost(2, named("ipc")), Handler: c.receive,
		},
	}
}

// at is the channel of a name. It is called with mu held.
func (c *channels) at(name string) *channel {
	ch := c.byName[name]
	if ch == nil {
		ch = &channel{came: make(chan struct{})}
		c.byName[name] = ch
	}
	return ch
}

// forget lets go of a channel that is as if it had never been. It is called with
// mu held.
func (c *channels) forget(name string, ch *channel) {
	if len(ch.messages) == 0 && ch.waiting == 0 {
		delete(c.byName, name)
	}
}

// cost is what a message counts for: its bytes, and what keeps them.
func cost(message []byte) int { return len(message) + 64 }

func (c *channels) send(_ context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	if err := tooLarge("payload", len(sc.Payload), MaxIPCMessage); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.at(sc.Args[0])
	if len(ch.messages) >= MaxQueued || c.bytes+cost(sc.Payload) > MaxIPCMemory {
		c.forget(sc.Args[0], ch)
		return nil, abi.Fail(codeAgain, "%d messages wait in the channel, %d bytes in all; try again when some were received", len(ch.messages), c.bytes)
	}
	message := append(make([]byte, 0, len(sc.Payload)), sc.Payload...) // which is valid until the syscall returns
	ch.messages = append(ch.messages, message)
	c.bytes += cost(message)
	close(ch.came)
	ch.came = make(chan struct{})
	return nil, nil
}

func (c *channels) receive(ctx context.Context, sc *abi.SyscallContext, _ *abi.Resolution) ([]byte, error) {
	limited, done, err := waiting(ctx, sc, 1)
	if err != nil {
		return nil, err
	}
	defer done()
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.at(sc.Args[0])
	defer c.forget(sc.Args[0], ch)
	for len(ch.messages) == 0 {
		came := ch.came
		ch.waiting++
		c.mu.Unlock()
		select {
		case <-came:
		case <-limited.Done():
		}
		c.mu.Lock()
		ch.waiting--
		switch {
		case ctx.Err() != nil: // the message is for who can take it
			return nil, context.Cause(ctx)
		case len(ch.messages) == 0 && limited.Err() != nil:
			return nil, abi.Fail(codeAgain, "no message yet")
		}
	}
	message := ch.messages[0]
	ch.messages[0] = nil
	ch.messages = ch.messages[1:]
	c.bytes -= cost(message)
	return message, nil
}
