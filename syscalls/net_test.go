package syscalls_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"forgeone.dev/forgeone/abi"
	"forgeone.dev/forgeone/capability"
	"forgeone.dev/forgeone/syscalls"
)

// nameServer is a name server on loopback. Each question for a name takes the
// next of its answers, and the last one for ever.
type nameServer struct {
	mu      sync.Mutex
	answers map[string][][]string // by name with its dot
	asked   map[string]int        // questions for IPv4 addresses
}

func newNameServer(t testing.TB, answers map[string][][]string) (*nameServer, *net.Resolver) {
	t.Helper()
	s := &nameServer{answers: answers, asked: map[string]int{}}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		p := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(p)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(p[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			if out, err := s.answer(m); err == nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
	return s, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
}

func (s *nameServer) answer(m dnsmessage.Message) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := m.Questions[0]
	name := q.Name.String()
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	rounds := s.answers[name]
	if rounds == nil {
		m.RCode = dnsmessage.RCodeNameError
		if q.Type == dnsmessage.TypeA {
			s.asked[name]++
		}
		return m.Pack()
	}
	for _, text := range rounds[min(s.asked[name], len(rounds)-1)] {
		a := netip.MustParseAddr(text)
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	if q.Type == dnsmessage.TypeA {
		s.asked[name]++
	}
	return m.Pack()
}

func (s *nameServer) questions(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// echo is a server on loopback that sends back what it gets.
func echo(t testing.TB) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	return portOf(l.Addr().String())
}

func portOf(addr string) string { return strconv.Itoa(int(netip.MustParseAddrPort(addr).Port())) }

func socketOf(data []byte) abi.Handle { return abi.Handle(binary.LittleEndian.Uint64(data)) }

var inside = capability.Grant{Resources: []string{"net://**"}}

func TestConnect(t *testing.T) {
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, inside)
	h := socketOf(p.ok("net_connect", nil, "tcp", "127.0.0.1", echo(t)))
	if res := p.do("net_send", h, []byte("hello")); string(res.Data) != "5" {
		t.Fatalf("sent %q (%v)", res.Data, res.Error())
	}
	if res := p.do("net_recv", h, nil, "3"); string(res.Data) != "hel" {
		t.Fatalf("received %q (%v)", res.Data, res.Error())
	}
	if res := p.do("net_recv", h, nil, "64"); string(res.Data) != "lo" {
		t.Fatalf("received %q (%v)", res.Data, res.Error())
	}
	p.failed(11, p.do("net_recv", h, nil, "1", "1000000"))
	p.failed(abi.CodeTooLarge, p.do("net_recv", h, nil, strconv.Itoa(syscalls.MaxReceive+1)))
	p.failed(abi.CodeInvalid, p.do("net_recv", h, nil, "many"))
	p.failed(abi.CodeBadHandle, p.do("file_close", h, nil, "/data"))
	// What gave up leaves the connection as it was.
	p.do("net_send", h, []byte("x"))
	if res := p.do("net_recv", h, nil, "64"); string(res.Data) != "x" {
		t.Fatalf("received %q (%v)", res.Data, res.Error())
	}
	if err := p.do("net_close", h, nil).Error(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"net_send", "net_close"} {
		p.failed(abi.CodeBadHandle, p.do(name, h, nil))
	}
	p.failed(abi.CodeBadHandle, p.do("net_recv", h, nil, "1"))
}

func TestConnectRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(l.Addr().String())
	l.Close()
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, inside)
	if res := p.do("net_connect", 0, nil, "tcp", "127.0.0.1", port); res.Status != abi.Failure {
		t.Errorf("%v (%v), want a failure", res.Status, res.Error())
	}
}

func TestDatagrams(t *testing.T) {
	peer, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, inside)
	h := socketOf(p.ok("net_connect", nil, "udp", "127.0.0.1", portOf(peer.LocalAddr().String())))
	if err := p.do("net_send", h, []byte("ping")).Error(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, from, err := peer.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "ping" {
		t.Fatalf("%q (%v)", buf[:n], err)
	}
	if _, err := peer.WriteTo([]byte("pong"), from); err != nil {
		t.Fatal(err)
	}
	if res := p.do("net_recv", h, nil, "64"); string(res.Data) != "pong" {
		t.Errorf("received %q (%v)", res.Data, res.Error())
	}
	if res := p.do("net_send", h, make([]byte, 1<<17)); res.Status != abi.Failure {
		t.Errorf("a datagram of 128 KiB: %v", res.Status)
	}
}

// A wait ends with its container, and what was open is closed.
func TestQuarantineEndsWaits(t *testing.T) {
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Trusted, inside)
	h := socketOf(p.ok("net_connect", nil, "tcp", "127.0.0.1", echo(t)))
	l := socketOf(p.ok("net_listen", nil, "tcp", "127.0.0.1", "0"))
	done := make(chan abi.SyscallResult)
	go func() { done <- p.do("net_recv", h, nil, "64") }()
	go func() { done <- p.do("net_accept", l, nil) }()
	go func() { done <- p.do("net_recv", h, nil, "64") }() // waits for its turn
	time.Sleep(10 * time.Millisecond)
	p.s.Container.Quarantine("test")
	for range 3 {
		if res := <-done; res.Status == abi.Success {
			t.Errorf("went on: %q", res.Data)
		}
	}
	if err := p.s.Container.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if res := p.do("net_send", h, []byte("x")); res.Status != abi.Quarantined {
		t.Errorf("%v after quarantine", res.Status)
	}
}

// A grant of a name suffices for public addresses alone: what is behind the
// kernel's firewall is granted by its address.
func TestGrants(t *testing.T) {
	port := echo(t)
	server, resolver := newNameServer(t, map[string][][]string{
		"db.internal.":    {{"127.0.0.1"}},
		"half.example.":   {{"93.184.216.34", "10.0.0.1"}},
		"public.example.": {{"93.184.216.34"}},
		"meta.example.":   {{"169.254.169.254"}},
		"mapped.example.": {{"::ffff:127.0.0.1"}},
		"ula.example.":    {{"fd00:ec2::254"}},
		"zero.example.":   {{"0.0.0.0"}},
	})
	k := newKernel(t, syscalls.Options{Resolver: resolver})
	grant := func(resources ...string) *plugin {
		return k.plugin("p"+strconv.Itoa(len(resources)), capability.Standard, capability.Grant{Resources: resources})
	}

	everyName := grant("net://tcp/**")
	for _, host := range []string{
		"db.internal", "half.example", "meta.example", "mapped.example", "ula.example", "zero.example",
		"127.0.0.1", "::1", "[::1]", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254", "10.1.2.3", "fd00::1", "fe80::1",
		"64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "100.100.100.200", "168.63.129.16", "224.0.0.1", "255.255.255.255",
	} {
		everyName.s.Container = abi.NewContainer("c-" + host)
		if reason := everyName.blocked("net_connect", nil, "tcp", host, port); !strings.Contains(reason, "net://internal/tcp/") {
			t.Errorf("%s: %s", host, reason)
		}
		if strings.Contains(host, ":") {
			continue
		}
		everyName.blocked("http_request", nil, "GET", "http://"+host+":"+port+"/")
	}

	both := grant("net://tcp/db.internal:"+port, "net://internal/tcp/127.0.0.1:"+port)
	both.ok("net_connect", nil, "tcp", "DB.Internal.", port)
	both.ok("net_connect", nil, "tcp", "127.0.0.1", port)
	both.ok("net_connect", nil, "tcp", "::ffff:127.0.0.1", port)
	both.blocked("net_connect", nil, "tcp", "127.0.0.2", port)
	addressAlone := grant("net://internal/tcp/127.0.0.1:*")
	addressAlone.blocked("net_connect", nil, "tcp", "db.internal", port)

	// Allowed, whatever becomes of it here.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	res := k.gate.SecureSyscall(ctx, &abi.SyscallContext{Subject: grant("net://tcp/public.example:443").s, Syscall: "net_connect", Args: []string{"tcp", "public.example", "443"}})
	if res.Status == abi.Blocked {
		t.Errorf("a public name: %v", res.Error())
	}

	// A name that is not granted is not asked for.
	before := server.questions("public.example.")
	both.blocked("net_connect", nil, "tcp", "public.example", port)
	both.blocked("http_request", nil, "GET", "http://public.example/")
	if n := server.questions("public.example."); n != before {
		t.Errorf("%d questions for a name that is not granted", n-before)
	}
	noConnect := k.plugin("h", capability.Standard, capability.Grant{Syscalls: []string{"http_request"}, Resources: []string{"net://**"}})
	noConnect.blocked("http_request", nil, "GET", "http://public.example/")
	if n := server.questions("public.example."); n != before {
		t.Errorf("%d questions for a plugin that may not connect", n-before)
	}
	everyName.code(abi.CodeNotFound, "net_connect", nil, "tcp", "gone.example", "1")
}

// The connection goes to the address that was decided on, whatever the name
// server says a moment later.
func TestNoRebinding(t *testing.T) {
	port := echo(t)
	server, resolver := newNameServer(t, map[string][][]string{"turn.example.": {{"127.0.0.1"}, {"127.0.0.2"}}})
	p := newKernel(t, syscalls.Options{Resolver: resolver}).plugin("p", capability.Standard, capability.Grant{
		Resources: []string{"net://tcp/turn.example:*", "net://internal/tcp/127.0.0.1:*"},
	})
	h := socketOf(p.ok("net_connect", nil, "tcp", "turn.example", port))
	if err := p.do("net_send", h, []byte("x")).Error(); err != nil {
		t.Error(err)
	}
	if n := server.questions("turn.example."); n != 1 {
		t.Errorf("%d lookups for one connection", n)
	}
	if reason := p.blocked("net_connect", nil, "tcp", "turn.example", port); !strings.Contains(reason, "127.0.0.2") {
		t.Errorf("%s", reason)
	}
}

func TestMalformedEndpoints(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	for i, args := range [][]string{
		{"sctp", "example.com", "1"}, {"", "example.com", "1"}, {"tcp", "", "1"}, {"tcp", "example.com", "0"}, {"tcp", "example.com", "65536"},
		{"tcp", "example.com", "http"}, {"tcp", "example.com", "-1"}, {"tcp", "127.1", "1"}, {"tcp", "2130706433", "1"}, {"tcp", "0x7f000001", "1"},
		{"tcp", "0177.0.0.1", "1"}, {"tcp", "１２７.０.０.１", "1"}, {"tcp", "fe80::1%eth0", "1"}, {"tcp", "a b", "1"}, {"tcp", "a/b", "1"}, {"tcp", "a\x00b", "1"},
		{"tcp", "a:b", "1"}, {"tcp", "*.example.com", "1"}, {"tcp", "..", "1"}, {"tcp", "a..b", "1"}, {"tcp", "-a.com", "1"}, {"tcp", "a%2eb", "1"},
		{"tcp", strings.Repeat("a", 64) + ".com", "1"}, {"tcp", strings.Repeat("a.", 150), "1"}, {"tcp", strings.Repeat("\xff", 70000), "1"},
	} {
		p := k.plugin(fmt.Sprint("p", i), capability.Standard, inside)
		if reason := p.blocked("net_connect", nil, args...); strings.Contains(reason, "no grant") || len(reason) > 1024 {
			t.Errorf("%.80q: %.200s", args, reason)
		}
	}
}

func TestListen(t *testing.T) {
	k := newKernel(t, syscalls.Options{})
	p := k.plugin("p", capability.Trusted, capability.Grant{Resources: []string{"net://listen/tcp/127.0.0.1:*"}})
	data := p.ok("net_listen", nil, "tcp", "127.0.0.1", "0")
	l, addr := socketOf(data), string(data[8:])
	p.failed(11, p.do("net_accept", l, nil, "1000000"))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	res := p.do("net_accept", l, nil)
	if err := res.Error(); err != nil {
		t.Fatal(err)
	}
	if got := string(res.Data[8:]); got != c.LocalAddr().String() {
		t.Errorf("accepted %s, want %s", got, c.LocalAddr())
	}
	h := socketOf(res.Data)
	if err := p.do("net_send", h, []byte("welcome")).Error(); err != nil {
		t.Fatal(err)
	}
	if err := p.do("net_close", h, nil).Error(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); string(got) != "welcome" {
		t.Errorf("%q (%v)", got, err)
	}
	p.failed(abi.CodeBadHandle, p.do("net_recv", l, nil, "1"))
	p.failed(98, p.do("net_listen", 0, nil, "tcp", "127.0.0.1", portOf(addr)))
	for _, args := range [][]string{{"udp", "127.0.0.1", "0"}, {"tcp", "localhost", "0"}, {"tcp", "127.0.0.1", "x"}, {"tcp", "0.0.0.0", "0"}} {
		p.blocked("net_listen", nil, args...)
	}
	if err := p.do("net_close", l, nil).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("it listens on")
	}
	// To connect is not to listen.
	k.plugin("q", capability.Trusted, capability.Grant{Resources: []string{"net://tcp/**", "net://internal/**"}}).blocked("net_listen", nil, "tcp", "127.0.0.1", "0")
	k.plugin("r", capability.Standard, inside).blocked("net_listen", nil, "tcp", "127.0.0.1", "0")
}

// A large send is either whole or says how much of it went.
func TestBulk(t *testing.T) {
	p := newKernel(t, syscalls.Options{}).plugin("p", capability.Standard, inside)
	h := socketOf(p.ok("net_connect", nil, "tcp", "127.0.0.1", echo(t)))
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	sent := make(chan error, 1)
	go func() {
		rest := want
		for len(rest) > 0 {
			res := p.do("net_send", h, rest)
			n, err := strconv.Atoi(string(res.Data))
			if err = errors.Join(err, res.Error()); err != nil {
				sent <- err
				return
			}
			rest = rest[n:]
		}
		sent <- nil
	}()
	var got []byte
	for len(got) < len(want) {
		res := p.do("net_recv", h, nil, strconv.Itoa(syscalls.MaxReceive))
		if err := res.Error(); err != nil || len(res.Data) == 0 {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		got = append(got, res.Data...)
	}
	if err := <-sent; err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d came back (%v)", len(got), len(want), err)
	}
}
