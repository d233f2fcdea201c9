package extism

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"forgeone.dev/forgeone/abi/internal/guest"
	"forgeone.dev/forgeone/engines"
)

// maxRedirects is how many a request follows, as Extism's do.
const maxRedirects = 10

// httpRequest is an HTTP request as a plugin makes it.
type httpRequest struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"` // GET if empty
	Headers map[string]string `json:"headers"`
}

// httpHead is the first line of what the syscall http_request takes and returns;
// the body follows.
type httpHead struct {
	Status  int         `json:"status,omitempty"`
	Headers http.Header `json:"headers,omitempty"`
}

// connectionHeaders are of the connection, which is the kernel's: plugins that
// set them lose nothing.
var connectionHeaders = []string{"Host", "Content-Length", "Transfer-Encoding", "Trailer", "Connection", "Keep-Alive", "Te"}

// secretHeaders are for the host that a request is made to, and for no other that
// it is redirected to.
var secretHeaders = []string{"Authorization", "Cookie", "Www-Authenticate"}

// importHTTPRequest is http_request(request, n, body, n) -> length. What keeps it
// from being done ends the call, as the plugin has no way to learn of it.
func (x *execution) importHTTPRequest(ctx context.Context, mem engines.Memory, stack []uint64) error {
	x.status, x.headers = 0, nil
	text, err := read(mem, stack[0], stack[1])
	if err != nil {
		return err
	}
	var asked httpRequest
	if err := json.Unmarshal(text, &asked); err != nil {
		return x.end("http_request: the request is no JSON object of url, method and headers: %v", err)
	}
	if stack[3] > MaxBody {
		return x.end("http_request: a body of %d bytes is above the limit of %d", stack[3], MaxBody)
	}
	body, err := read(mem, stack[2], stack[3])
	if err != nil {
		return err
	}
	to, err := url.Parse(asked.URL)
	if err != nil {
		return x.end("http_request: %v", err)
	}
	request := request{method: strings.ToUpper(cmp.Or(asked.Method, http.MethodGet)), to: to, headers: http.Header{}, body: body}
	for name, value := range asked.Headers {
		request.headers.Set(name, textproto.TrimString(value))
	}
	for _, name := range connectionHeaders {
		request.headers.Del(name)
	}
	for range maxRedirects + 1 {
		head, body, err := x.send(ctx, &request)
		if err != nil {
			return err
		}
		again, err := request.redirect(head)
		if err != nil {
			return x.end("http_request: %v", err)
		}
		if !again {
			return x.respond(stack, head, body)
		}
	}
	return x.end("http_request: stopped after %d redirects", maxRedirects)
}

// request is one that is sent, or was redirected.
type request struct {
	method  string
	to      *url.URL
	headers http.Header
	body    []byte
}

// send makes one request, which is decided by itself.
func (x *execution) send(ctx context.Context, r *request) (httpHead, []byte, error) {
	payload, err := json.Marshal(httpHead{Headers: r.headers})
	if err != nil {
		return httpHead{}, nil, err
	}
	to := *r.to
	to.Fragment, to.RawFragment = "", "" // which is not for servers
	res, err := guest.Syscall(ctx, "http_request", []string{r.method, to.String()}, 0, append(append(payload, '\n'), r.body...))
	if err != nil {
		return httpHead{}, nil, err
	}
	if err := res.Error(); err != nil {
		return httpHead{}, nil, x.end("http_request: %v", err)
	}
	line, body, _ := bytes.Cut(res.Data, []byte{'\n'})
	var head httpHead
	if err := json.Unmarshal(line, &head); err != nil {
		return httpHead{}, nil, fmt.Errorf("the head of the response: %w", err)
	}
	return head, body, nil
}

// redirect makes the request the one that a response says to make instead (RFC
// 9110, section 15.4), and reports whether it says so.
func (r *request) redirect(head httpHead) (bool, error) {
	location := head.Headers.Get("Location")
	if location == "" {
		return false, nil
	}
	switch head.Status {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		if r.method != http.MethodGet && r.method != http.MethodHead {
			r.method, r.body = http.MethodGet, nil
			r.headers.Del("Content-Type")
		}
	default:
		return false, nil
	}
	to, err := r.to.Parse(location)
	if err != nil {
		return false, fmt.Errorf("it is redirected: %w", err)
	}
	if to.Scheme != r.to.Scheme || to.Host != r.to.Host {
		for _, name := range secretHeaders {
			r.headers.Del(name)
		}
	}
	r.to = to
	return true, nil
}

// respond keeps what a plugin may ask of a response, and returns the body.
func (x *execution) respond(stack []uint64, head httpHead, body []byte) (err error) {
	headers := make(map[string]string, len(head.Headers))
	for name, values := range head.Headers {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	if x.headers, err = json.Marshal(headers); err != nil {
		return err
	}
	x.status = head.Status
	return x.give(stack, body)
}

// importHTTPStatusCode is http_status_code() -> status.
func (x *execution) importHTTPStatusCode(_ context.Context, _ engines.Memory, stack []uint64) error {
	stack[0] = uint64(x.status)
	return nil
}

// importHTTPHeaders is http_headers() -> length.
func (x *execution) importHTTPHeaders(_ context.Context, _ engines.Memory, stack []uint64) error {
	return x.give(stack, x.headers)
}
