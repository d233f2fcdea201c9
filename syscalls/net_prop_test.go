package syscalls

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A host and port have one resource, however they are written, and it is read
// back as itself.
func TestEndpointIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		label := rapid.StringMatching(`[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?`)
		labels := rapid.SliceOfN(label, 1, 4).Draw(t, "labels")
		host := strings.Join(append(labels, rapid.SampledFrom([]string{"com", "internal", "xn--p1ai", "рф", "example"}).Draw(t, "top")), ".")
		port := rapid.Uint16Min(1).Draw(t, "port")
		e, err := parseEndpoint("tcp", host, strconv.Itoa(int(port)))
		if err != nil {
			return // such as a label with hyphens at 3 and 4
		}
		other := host
		if rapid.Bool().Draw(t, "upper") {
			other = strings.ToUpper(other)
		}
		if rapid.Bool().Draw(t, "dot") {
			other += "."
		}
		if rapid.Bool().Draw(t, "wide dots") {
			other = strings.ReplaceAll(other, ".", "。")
		}
		digits := strings.Repeat("0", rapid.IntRange(0, 3).Draw(t, "zeros")) + strconv.Itoa(int(port))
		same, err := parseEndpoint("tcp", other, digits)
		if err != nil || same.uri() != e.uri() {
			t.Fatalf("%q:%s is %s (%v), %q is %s", other, digits, same.uri(), err, host, e.uri())
		}
		again, err := parseEndpoint("tcp", e.host, strconv.Itoa(int(e.port)))
		if err != nil || again.uri() != e.uri() {
			t.Fatalf("%s is read back as %s (%v)", e.uri(), again.uri(), err)
		}
		if e.uri() != strings.ToLower(e.uri()) || strings.ContainsAny(e.uri(), "* ") {
			t.Fatalf("%q is not canonical", e.uri())
		}
	})
}

// Every spelling of an address has one resource, and an IPv4 address is as
// internal in an IPv6 one as it is.
func TestAddressIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a netip.Addr
		if rapid.Bool().Draw(t, "v4") {
			a = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes")))
		} else {
			a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes")))
		}
		want, err := parseEndpoint("udp", a.String(), "53")
		if err != nil {
			t.Fatal(err)
		}
		spellings := []string{a.StringExpanded(), strings.ToUpper(a.String()), netip.AddrFrom16(a.As16()).String(), "[" + a.String() + "]"}
		for _, s := range spellings {
			e, err := parseEndpoint("udp", s, "53")
			if err != nil || e.uri() != want.uri() || e.addrs[0] != want.addrs[0] {
				t.Fatalf("%s is %s (%v), want %s", s, e.uri(), err, want.uri())
			}
		}
		if internal(a) != internal(netip.AddrFrom16(a.As16())) || strings.HasPrefix(want.uri(), "net://internal/") != internal(a) {
			t.Fatalf("%s: %s", a, want.uri())
		}
		if (a.IsPrivate() || a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast()) && !internal(a) {
			t.Fatalf("%s is not internal", a)
		}
	})
}

func TestPublicAddresses(t *testing.T) {
	for _, s := range []string{"1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "192.0.1.1", "100.128.0.1", "2606:2800:220:1::1", "2001:4860:4860::8888", "2a00:1450::1"} {
		if internal(netip.MustParseAddr(s)) {
			t.Errorf("%s is taken for internal", s)
		}
	}
}

// FuzzEndpoint: no host that a plugin writes stands for a resource of another,
// or for a pattern.
func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"example.com", "EXAMPLE.com.", "münchen.de", "xn--mnchen-3ya.de", "127.1", "[::1]", "::ffff:1.2.3.4", "1.2.3.4.", "a。b", "\xff", "ß.de", "０x7f.1"} {
		f.Add(s, "443")
	}
	f.Fuzz(func(t *testing.T, host, port string) {
		e, err := parseEndpoint("tcp", host, port)
		if err != nil {
			return
		}
		if e.host != "" {
			if _, err := parseAddr(e.host); err == nil {
				t.Fatalf("%q is a name that is an address: %q", host, e.host)
			}
			if again, err := canonicalName(e.host); err != nil || again != e.host {
				t.Fatalf("%q: %q is not canonical: %q (%v)", host, e.host, again, err)
			}
		}
		if strings.ContainsAny(strings.TrimPrefix(e.uri(), "net://"), "*%@?# \\") {
			t.Fatalf("%q: %q", host, e.uri())
		}
	})
}
