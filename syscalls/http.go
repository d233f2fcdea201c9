package syscalls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
)

// Limits of http_request.
const (
	MaxURL              = 8 << 10  // bytes
	MaxHTTPHead         = 64 << 10 // bytes of the first line of the payload
	MaxHTTPHeaders      = 128      // values of a request's headers
	MaxHTTPBody         = 16 << 20 // bytes, of a request and of a response
	MaxHTTPResponseHead = 256 << 10
	MaxHTTPTime         = 2 * time.Minute // from the lookup to the last byte
)

// HTTPHead is the first line, JSON, of what http_request takes and returns; the
// body follows it.
type HTTPHead struct {
	Status  int                 `json:"status,omitempty"` // of a response
	Headers map[string][]string `json:"headers,omitempty"`
}

// requests are the HTTP syscalls. roots are the certificates that are trusted;
// nil for the system's.
func requests(n network, roots *x509.CertPool) []abi.Registration {
	return []abi.Registration{{
		Name: "http_request", Args: []string{"method", "url"}, MinTrust: capability.Standard, World: true, Timeout: MaxHTTPTime,
		Doc: fmt.Sprintf("Make an HTTP/1.1 request to an `http` or `https` URL. The payload is empty, or a line of JSON, `{\"headers\": {\"Name\": [\"value\"]}}`, and after it the body, at most %d bytes. "+
			"Returns the same: a line with `status` and `headers`, and the body, at most %d bytes. Certificates are verified, redirects are returned and not followed, no proxy is used. A `net_connect` to the host too.", MaxHTTPBody, MaxHTTPBody),
		Resolve: func(ctx context.Context, sc *abi.SyscallContext) (abi.Resolution, error) {
			q, err := parseHTTP(sc.Args[0], sc.Args[1])
			if err != nil {
				return abi.Resolution{}, err
			}
			res := n.resolve(ctx, sc, &q.to)
			res.Also, res.Object = []string{"net_connect"}, q
			return res, nil
		},
		Handler: func(ctx context.Context, sc *abi.SyscallContext, r *abi.Resolution) ([]byte, error) {
			return r.Object.(*httpRequest).do(ctx, sc.Payload, roots)
		},
	}}
}

// httpRequest is a request as it was decided.
type httpRequest struct {
	method string
	url    *url.URL // canonical scheme and host
	to     endpoint
}

func parseHTTP(method, text string) (*httpRequest, error) {
	switch {
	case method == "" || len(method) > 32 || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "":
		return nil, fmt.Errorf("method %.32q: want capital letters", method)
	case method == http.MethodConnect || method == http.MethodTrace:
		return nil, fmt.Errorf("method %s makes no sense here", method)
	case len(text) > MaxURL:
		return nil, fmt.Errorf("URL of %d bytes: at most %d", len(text), MaxURL)
	}
	bad := func(why string) (*httpRequest, error) { return nil, fmt.Errorf("URL %.128q: %s", text, why) }
	u, err := url.Parse(text)
	if err != nil || plain(text) != nil {
		return bad("not one")
	}
	port := u.Port()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("want http:// or https://")
	case u.User != nil:
		return bad("holds a user: send an Authorization header")
	case u.Opaque != "" || u.Host == "":
		return bad("names no host")
	case strings.Contains(text, "#"):
		return bad("holds a fragment, which is not for servers")
	case strings.Contains(text, `\`):
		return bad(`holds a \, which some take for a /`)
	case slices.ContainsFunc(strings.Split(u.Path, "/"), func(s string) bool { return s == "." || s == ".." }):
		return bad("holds a . or .. segment") // an argument policy sees the path that the server sees
	case port == "" && strings.HasSuffix(u.Host, ":"):
		return bad("names no port")
	case port == "" && u.Scheme == "http":
		port = "80"
	case port == "":
		port = "443"
	}
	q := &httpRequest{method: method, url: u}
	if q.to, err = parseEndpoint("tcp", u.Hostname(), port); err != nil {
		return nil, err
	}
	standard := map[string]uint16{"http": 80, "https": 443}[u.Scheme]
	if u.Host = q.to.String(); q.to.port == standard {
		u.Host = strings.TrimSuffix(u.Host, fmt.Sprintf(":%d", standard))
	}
	return q, nil
}

// framing are the headers that say where a message ends and what becomes of its
// connection (RFC 9110, section 7.6.1): they are the kernel's to write, as is
// where the request goes.
var framing = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true, "Transfer-Encoding": true,
	"Upgrade": true, "Http2-Settings": true, "Content-Length": true, "Host": true, "Expect": true, "Proxy-Authorization": true, "Proxy-Authenticate": true,
}

// decodeHTTP reads the payload of a request.
func decodeHTTP(payload []byte) (http.Header, []byte, error) {
	headers := http.Header{}
	if len(payload) == 0 {
		return headers, nil, nil
	}
	line, body, found := bytes.Cut(payload, []byte{'\n'})
	switch {
	case !found:
		return nil, nil, errors.New("the payload has no line end after its head")
	case len(line) > MaxHTTPHead:
		return nil, nil, fmt.Errorf("a head of %d bytes: at most %d", len(line), MaxHTTPHead)
	case len(body) > MaxHTTPBody:
		return nil, nil, fmt.Errorf("a body of %d bytes: at most %d", len(body), MaxHTTPBody)
	}
	var head HTTPHead
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&head); err != nil {
		return nil, nil, fmt.Errorf("the head is not a JSON object of headers: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || head.Status != 0 {
		return nil, nil, errors.New("the head holds more than headers")
	}
	count := 0
	for _, name := range slices.Sorted(maps.Keys(head.Headers)) {
		key := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return nil, nil, fmt.Errorf("header %.64q: not a name", name)
		case framing[key]:
			return nil, nil, fmt.Errorf("header %s is the kernel's to write", key)
		}
		for _, value := range head.Headers[name] {
			if count++; count > MaxHTTPHeaders {
				return nil, nil, fmt.Errorf("more than %d headers", MaxHTTPHeaders)
			}
			if !httpguts.ValidHeaderFieldValue(value) || strings.Trim(value, " \t") != value {
				return nil, nil, fmt.Errorf("header %s: a value with control characters, or with blanks at an end", key)
			}
			headers[key] = append(headers[key], value)
		}
	}
	return headers, body, nil
}

// build is the request as it is sent.
func (q *httpRequest) build(ctx context.Context, payload []byte) (*http.Request, error) {
	headers, body, err := decodeHTTP(payload)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, q.method, q.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if headers.Get("User-Agent") == "" {
		headers.Set("User-Agent", "ForgeOne")
	}
	req.Header = headers
	return req, nil
}

// do makes the request on a connection of its own to what was decided: one that
// is shared could be to what another plugin was allowed.
func (q *httpRequest) do(ctx context.Context, payload []byte, roots *x509.CertPool) ([]byte, error) {
	req, err := q.build(ctx, payload)
	if err != nil {
		return nil, abi.Fail(abi.CodeInvalid, "%v", err)
	}
	t := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return q.to.dial(ctx) },
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		// What the plugin gets is what the server sent.
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: MaxHTTPResponseHead,
	}
	defer t.CloseIdleConnections()
	res, err := t.RoundTrip(req)
	if err != nil {
		return nil, httpError(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nil, abi.Fail(abi.CodeIO, "the server switched to a protocol that was not asked for")
	}
	head, err := json.Marshal(HTTPHead{Status: res.StatusCode, Headers: res.Header})
	if err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(append(head, '\n'))
	n, err := io.Copy(out, io.LimitReader(res.Body, MaxHTTPBody+1))
	if err != nil {
		return nil, httpError(ctx, err)
	}
	if err := tooLarge("the length of the body", int(n), MaxHTTPBody); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func httpError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return netError(err)
}
