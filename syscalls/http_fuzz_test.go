package syscalls

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"testing"
)

// FuzzHTTP: whatever a plugin asks for, what is sent is one request, which a
// server reads as it was decided: its method, host, headers and body.
func FuzzHTTP(f *testing.F) {
	for _, s := range []string{
		"", "{}\nbody", `{"headers":{"A":["b"],"a":["c"]}}` + "\nx", `{"headers":{"A":["b\r\n\r\nGET / HTTP/1.1"]}}` + "\n",
		`{"headers":{"Content-Length":["0"]}}` + "\nGET / HTTP/1.1\r\n\r\n", `{"Headers":{"ſ":["x"]}}` + "\n", `{"headers":{"User-Agent":[""]}}` + "\n",
		`{"headers":{"Cookie":["a=b","c=d"],"Referer":["x"]}}` + "\n",
	} {
		f.Add("POST", "http://example.com:8080/a?b", []byte(s))
	}
	f.Add("GET", "http://EXAMPLE.com/%0d%0aX:y", []byte(nil))
	f.Add("GET", "https://[::1]:443?q", []byte("{}\n"))
	f.Fuzz(func(t *testing.T, method, url string, payload []byte) {
		q, err := parseHTTP(method, url)
		if err != nil {
			return
		}
		req, err := q.build(t.Context(), payload)
		if err != nil {
			return
		}
		_, body, err := decodeHTTP(payload)
		if err != nil {
			t.Fatal("built of what cannot be read")
		}
		want := req.Header.Clone()
		var wire bytes.Buffer
		if err := req.Write(&wire); err != nil {
			return
		}
		r := bufio.NewReader(&wire)
		got, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("%q %q %q: %v", method, url, payload, err)
		}
		read, err := io.ReadAll(got.Body)
		if err != nil || !bytes.Equal(read, body) {
			t.Fatalf("body %q (%v), want %q", read, err, body)
		}
		if rest, _ := io.ReadAll(r); len(rest) > 0 {
			t.Fatalf("a second request: %q", rest)
		}
		got.Header.Del("Content-Length")
		if len(want["User-Agent"]) > 1 {
			want["User-Agent"] = want["User-Agent"][:1] // as net/http writes it
		}
		if got.Method != method || got.Host != q.url.Host || !reflect.DeepEqual(got.Header, want) {
			t.Fatalf("%s %s %v, want %s %s %v", got.Method, got.Host, got.Header, method, q.url.Host, want)
		}
		if e, err := parseEndpoint("tcp", got.Host, "1"); q.url.Port() == "" && (err != nil || e.host != q.to.host) {
			t.Fatalf("host %q is not that of %s", got.Host, q.to.uri())
		}
	})
}
