package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"forgeone.dev/forgeone/quarantine"
)

// ErrNotRunning is returned by Dial when no kernel answers on a socket.
var ErrNotRunning = errors.New("no kernel is running")

// maxAnswer bounds what a client reads of an answer, in bytes.
const maxAnswer = 256 << 20

// Client talks to a running kernel. It is safe for concurrent use. Every method
// returns an *[Error] if the kernel answered with one.
type Client struct {
	http   *http.Client
	socket string
}

// Dial makes a client of the kernel on a socket. Errors: [ErrNotRunning], or
// why the socket cannot be used.
func Dial(ctx context.Context, socket string) (*Client, error) {
	if unsupported != "" {
		return nil, fmt.Errorf("%w on %s, and none can: %s", ErrNotRunning, socket, unsupported)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s: start one with forgeone serve", ErrNotRunning, socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: the control socket is for the kernel's own user and root", err)
	case err != nil:
		return nil, fmt.Errorf("control socket: %w", err)
	}
	_ = conn.Close()
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
		IdleConnTimeout:    idleTimeout / 2, // before the server gives up on it
	}}}, nil
}

// Close lets go of the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status describes the kernel.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Plugins describes every plugin, in name order.
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) {
	return ask[[]Plugin](ctx, c, http.MethodGet, "/v1/plugins", nil)
}

// Plugin describes the plugin of that name or id.
func (c *Client) Plugin(ctx context.Context, ref string) (Plugin, error) {
	return ask[Plugin](ctx, c, http.MethodGet, pluginPath(ref), nil)
}

// Load loads a plugin of the kernel's configuration, by name.
func (c *Client) Load(ctx context.Context, name string) (Plugin, error) {
	return c.verb(ctx, name, "load")
}

// Start starts a plugin, by name or id as for all that follow.
func (c *Client) Start(ctx context.Context, ref string) (Plugin, error) {
	return c.verb(ctx, ref, "start")
}

// Pause makes a plugin refuse calls until it is resumed.
func (c *Client) Pause(ctx context.Context, ref string) (Plugin, error) {
	return c.verb(ctx, ref, "pause")
}

// Resume lets a paused plugin take calls again.
func (c *Client) Resume(ctx context.Context, ref string) (Plugin, error) {
	return c.verb(ctx, ref, "resume")
}

// Stop ends a plugin after its calls in flight.
func (c *Client) Stop(ctx context.Context, ref string) (Plugin, error) {
	return c.verb(ctx, ref, "stop")
}

// Unload forgets a plugin that is not running.
func (c *Client) Unload(ctx context.Context, ref string) (Plugin, error) {
	return c.verb(ctx, ref, "unload")
}

// Reload replaces a plugin by what the configuration in force and its artifact
// on disk now say.
func (c *Client) Reload(ctx context.Context, ref string) (Plugin, error) {
	return c.verb(ctx, ref, "reload")
}

func (c *Client) verb(ctx context.Context, ref, verb string) (Plugin, error) {
	return ask[Plugin](ctx, c, http.MethodPost, pluginPath(ref)+"/"+verb, nil)
}

// Call calls a function of a plugin. The call is cancelled when ctx ends; the
// kernel knows of its deadline, and reports it as an exceeded limit.
func (c *Client) Call(ctx context.Context, ref, function string, input []byte) ([]byte, error) {
	q := url.Values{"function": {function}}
	if t, ok := ctx.Deadline(); ok {
		left := time.Until(t)
		if left <= 0 {
			return nil, fmt.Errorf("the time for the call was over before it was sent: %w", context.DeadlineExceeded)
		}
		q.Set("timeout", left.String())
		// The kernel's own answer says more than a connection cut off.
		var cancel context.CancelFunc
		ctx, cancel = graceful(ctx)
		defer cancel()
	}
	return c.do(ctx, http.MethodPost, pluginPath(ref)+"/call?"+q.Encode(), "application/octet-stream", input)
}

// answerTime is how long a client waits for the answer to a call past its deadline.
const answerTime = 2 * time.Second

// graceful is ctx, but for an end by its deadline, which comes later by answerTime.
func graceful(ctx context.Context) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t := time.NewTimer(answerTime)
			defer t.Stop()
			select {
			case <-t.C:
			case <-later.Done():
			}
		}
		cancel()
	})
	return later, func() { stop(); cancel() }
}

// Explain says how a request of a plugin would be decided by the policy in
// force, for each syscall that it takes.
func (c *Client) Explain(ctx context.Context, q ExplainRequest) ([]Explanation, error) {
	return ask[[]Explanation](ctx, c, http.MethodPost, "/v1/explain", q)
}

// Cases lists the quarantine cases, in order of opening.
func (c *Client) Cases(ctx context.Context) ([]quarantine.Case, error) {
	return ask[[]quarantine.Case](ctx, c, http.MethodGet, "/v1/quarantine", nil)
}

// Case is one quarantine case.
func (c *Client) Case(ctx context.Context, id string) (quarantine.Case, error) {
	return ask[quarantine.Case](ctx, c, http.MethodGet, casePath(id), nil)
}

// Release closes a quarantine case. The reason is put on record, with the user
// id of this process.
func (c *Client) Release(ctx context.Context, id, reason string) (quarantine.Case, error) {
	return ask[quarantine.Case](ctx, c, http.MethodPost, casePath(id)+"/release", releaseRequest{Reason: reason})
}

func pluginPath(ref string) string { return "/v1/plugins/" + url.PathEscape(ref) }
func casePath(id string) string    { return "/v1/quarantine/" + url.PathEscape(id) }

// ask sends a request with a JSON body, if there is one, and decodes the answer.
func ask[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var v T
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return v, fmt.Errorf("control request: %w", err)
		}
	}
	answer, err := c.do(ctx, method, path, "application/json", b)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return v, fmt.Errorf("answer of the kernel on %s: %w", c.socket, err)
	}
	return v, nil
}

func (c *Client) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://forgeone"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("control request: %w", err)
	}
	req.Header.Set("Content-Type", contentType)
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("kernel on %s: %w", c.socket, errors.Unwrap(err)) // without the made-up URL
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("answer of the kernel on %s: %w", c.socket, err)
	case len(answer) > maxAnswer:
		return nil, &Error{Kind: Limit, Message: fmt.Sprintf("the answer is larger than the %d bytes that are taken", maxAnswer)}
	case res.StatusCode == http.StatusOK:
		return answer, nil
	}
	e := &Error{}
	if err := json.Unmarshal(answer, e); err != nil || e.Kind == "" {
		return nil, fmt.Errorf("kernel on %s: %s", c.socket, res.Status)
	}
	return nil, e
}
