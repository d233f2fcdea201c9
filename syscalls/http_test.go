package syscalls_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
)

// response is what http_request returned.
func response(t *testing.T, data []byte) (head syscalls.HTTPHead, body string) {
	t.Helper()
	line, rest, ok := bytes.Cut(data, []byte{'\n'})
	if err := json.Unmarshal(line, &head); !ok || err != nil {
		t.Fatalf("%.200q: %v", data, err)
	}
	return head, string(rest)
}

func TestHTTP(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // is not looked at
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/big":
			_, _ = w.Write(make([]byte, syscalls.MaxHTTPBody+1))
		case "/heads":
			w.Header().Set("X", strings.Repeat("x", syscalls.MaxHTTPResponseHead))
		case "/cut":
			w.Header().Set("Content-Length", "10")
		case "/elsewhere":
			t.Error("a redirect was followed")
		default:
			body, _ := io.ReadAll(r.Body)
			w.Header()["X-Got"] = append(r.Header["X-Sent"], r.Method, r.URL.RequestURI(), r.Header.Get("User-Agent"), r.Header.Get("Accept-Encoding"))
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write(append([]byte("got "), body...))
		}
	}))
	defer server.Close()
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, inside)

	head, body := response(t, p.ok("http_request", []byte(`{"headers":{"x-sent":["a","b"],"User-Agent":["me"]}}`+"\nline\nline"), "POST", server.URL+"/a%2Fb?q=1"))
	if want := []string{"a", "b", "POST", "/a%2Fb?q=1", "me", ""}; head.Status != http.StatusTeapot || strings.Join(head.Headers["X-Got"], " ") != strings.Join(want, " ") || body != "got line\nline" {
		t.Errorf("%+v %q", head, body)
	}
	if head, body = response(t, p.ok("http_request", nil, "GET", server.URL)); head.Status != http.StatusTeapot || body != "got " {
		t.Errorf("%+v %q", head, body)
	}
	if head, _ = response(t, p.ok("http_request", nil, "GET", server.URL+"/moved")); head.Status != http.StatusFound || head.Headers["Location"][0] != "/elsewhere" {
		t.Errorf("%+v", head)
	}
	p.code(abi.CodeTooLarge, "http_request", nil, "GET", server.URL+"/big")
	for _, path := range []string{"/heads", "/cut"} {
		if res := p.do("http_request", 0, nil, "GET", server.URL+path); res.Status != abi.Failure {
			t.Errorf("%s: %v", path, res.Status)
		}
	}
	for _, payload := range []string{
		"{}", "x\n", "[]\n", `{"headers":{"a":"b"}}` + "\n", `{"cookies":{}}` + "\n", `{"status":1}` + "\n", "{}{}\n",
		`{"headers":{"A":["b\r\nHost: evil"]}}` + "\n", `{"headers":{"A":["b\nX: y"]}}` + "\n", `{"headers":{"A\r\nB":["c"]}}` + "\n", `{"headers":{"A:":["c"]}}` + "\n",
		`{"headers":{"":["c"]}}` + "\n", `{"headers":{"A ":["c"]}}` + "\n", `{"headers":{"A":[" c"]}}` + "\n", `{"headers":{"A":["\u0000"]}}` + "\n",
		`{"headers":{"content-length":["3"]}}` + "\n", `{"headers":{"TRANSFER-ENCODING":["chunked"]}}` + "\n", `{"headers":{"Host":["evil"]}}` + "\n",
		`{"headers":{"Connection":["close"]}}` + "\n", `{"headers":{"te":["trailers"]}}` + "\n", `{"headers":{"upgrade":["h2c"]}}` + "\n", `{"headers":{"Expect":["100-continue"]}}` + "\n",
		`{"headers":{"Proxy-Authorization":["x"]}}` + "\n", `{"headers":{"A":[` + strings.Repeat(`"",`, syscalls.MaxHTTPHeaders) + `""]}}` + "\n",
		`{"headers":{"A":["` + strings.Repeat("x", syscalls.MaxHTTPHead) + `"]}}` + "\n",
	} {
		if res := p.do("http_request", 0, []byte(payload), "GET", server.URL); res.Status != abi.Failure || res.Err.Code != abi.CodeInvalid {
			t.Errorf("%.80q: %v (%v)", payload, res.Status, res.Error())
		}
	}
}

func TestHTTPMalformed(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	for _, args := range [][]string{
		{"get", "http://a/"}, {"", "http://a/"}, {"GET /x", "http://a/"}, {"CONNECT", "http://a/"}, {"TRACE", "http://a/"},
		{"GET", ""}, {"GET", "a"}, {"GET", "//a/"}, {"GET", "http:a"}, {"GET", "http:///x"}, {"GET", "ftp://a/"}, {"GET", "file:///etc/passwd"}, {"GET", "http://u:p@a/"},
		{"GET", "http://a@b/"}, {"GET", "http://a:/"}, {"GET", "http://a:99999/"}, {"GET", "http://a/#x"}, {"GET", "http://a/#"}, {"GET", "http://a/../b"}, {"GET", "http://a/%2e%2E/b"}, {"GET", "http://a/.%2fb"},
		{"GET", "http://a\\@b/"}, {"GET", "http://a/\r\nX: y"}, {"GET", "http://a/\x00"}, {"GET", "http://127.1/"}, {"GET", "http://0x7f000001/"}, {"GET", "http://[fe80::1%25eth0]/"},
		{"GET", "http://a/" + strings.Repeat("x", syscalls.MaxURL)},
	} {
		p := k.plugin("p", capability.Standard, inside)
		if reason := p.blocked("http_request", nil, args...); strings.Contains(reason, "no grant") || len(reason) > 1024 {
			t.Errorf("%.80q: %.200s", args, reason)
		}
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) }))
	server.Config.ErrorLog = nil
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, resolver := newNameServer(t, map[string][][]string{"example.com.": {{"127.0.0.1"}}, "other.test.": {{"127.0.0.1"}}})
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	grant := capability.Grant{Resources: []string{"net://tcp/example.com:*", "net://tcp/other.test:*", "net://internal/tcp/127.0.0.1:" + u.Port()}}
	p := newKernel(t, syscalls.Options{Resolver: resolver, Roots: roots}).plugin("p", capability.Standard, grant)
	if _, host := response(t, p.ok("http_request", nil, "GET", "https://EXAMPLE.com:"+u.Port()+"/")); host != "example.com:"+u.Port() {
		t.Errorf("host %q", host)
	}
	if res := p.do("http_request", 0, nil, "GET", "https://other.test:"+u.Port()+"/"); res.Status != abi.Failure || !strings.Contains(res.Err.Message, "certificate") {
		t.Errorf("another's certificate: %v (%v)", res.Status, res.Error())
	}
	p = newKernel(t, syscalls.Options{Resolver: resolver}).plugin("p", capability.Standard, grant)
	if res := p.do("http_request", 0, nil, "GET", "https://example.com:"+u.Port()+"/"); res.Status != abi.Failure || !strings.Contains(res.Err.Message, "certificate") {
		t.Errorf("a certificate of nobody known: %v (%v)", res.Status, res.Error())
	}
}

// A server that says nothing, and one that never ends, hold a request no longer
// than its container lives and its caller waits.
func TestHTTPEnds(t *testing.T) {
	reached := make(chan struct{}, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/drip" {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
		}
		reached <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	for _, path := range []string{"/silent", "/drip"} {
		p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, inside)
		done := make(chan abi.SyscallResult)
		go func() { done <- p.do("http_request", 0, nil, "GET", server.URL+path) }()
		<-reached
		p.s.Container.Quarantine("test")
		if res := <-done; res.Status == abi.Success {
			t.Errorf("%s: went on", path)
		}
		if err := p.s.Container.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	}
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, inside)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	p.failed(abi.CodeTimeout, p.gate.SecureSyscall(ctx, &abi.SyscallContext{Subject: p.s, Syscall: "http_request", Args: []string{"GET", server.URL + "/silent"}}))
}

// A server that switches protocols unasked gets no tunnel.
func TestHTTPUpgrade(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, _ = c.Read(make([]byte, 1)) // until the kernel closes it
	}()
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, inside)
	p.code(abi.CodeIO, "http_request", nil, "GET", "http://"+l.Addr().String()+"/")
	<-done
}
