package syscalls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"forgeone.dev/forgeone/abi"
)

// Limits of looking a name up.
const (
	MaxAddresses  = 16 // of a name that are tried
	lookupTimeout = 10 * time.Second
)

// endpoint is where a connection leads: a name or an address, and a port.
type endpoint struct {
	proto string // tcp or udp
	host  string // canonical: a name in lower case and punycode, without a dot at its end; "" for an address
	port  uint16
	addrs []netip.AddrPort // what it stands for; of a name, once it was looked up
}

// parseEndpoint reads what a plugin wrote. An error is a malformed request.
func parseEndpoint(proto, host, port string) (endpoint, error) {
	e := endpoint{proto: proto}
	if proto != "tcp" && proto != "udp" {
		return e, fmt.Errorf("protocol %.16q: want tcp or udp", proto)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return e, fmt.Errorf("port %.16q: want a number from 1 to 65535", port)
	}
	e.port = uint16(p)
	if addr, err := parseAddr(host); err == nil {
		e.addrs = []netip.AddrPort{netip.AddrPortFrom(addr, e.port)}
		return e, nil
	}
	e.host, err = canonicalName(host)
	return e, err
}

// parseAddr reads an address in its usual forms, and in none of the others that
// a C library takes, such as "127.1". An IPv4 address in an IPv6 one is itself.
func parseAddr(s string) (netip.Addr, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	addr, err := netip.ParseAddr(s)
	if err == nil && addr.Zone() != "" {
		err = errors.New("an address with a zone")
	}
	return addr.Unmap(), err
}

// nameProfile maps what people write to what is looked up: IDNA 2008 as UTS #46 has it.
// Underscores stand, as they do in names of services.
var nameProfile = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.StrictDomainName(false))

// maxName is the length of a name (RFC 1035, section 2.3.4), maxLabel of a part of it.
const (
	maxName  = 253
	maxLabel = 63
)

// canonicalName is the one spelling of a host's name.
func canonicalName(s string) (string, error) {
	bad := func(why string) (string, error) { return "", fmt.Errorf("host %.64q: %s", s, why) }
	if len(s) > 4*maxName {
		return bad("too long")
	}
	name, err := nameProfile.ToASCII(s)
	if err != nil {
		return bad("want a name or an address: " + err.Error())
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if again, err := nameProfile.ToASCII(name); err != nil || again != name {
		return bad("want a name in Unicode or punycode that is valid")
	}
	if name == "" || len(name) > maxName {
		return bad(fmt.Sprintf("want a name of 1 to %d bytes", maxName))
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return bad(fmt.Sprintf("its parts have 1 to %d bytes and no hyphen at an end", maxLabel))
		}
		for _, c := range []byte(label) {
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return bad("want letters, digits, hyphens and dots")
			}
		}
	}
	// The name of no host ends in a number (WHATWG URL, "ends in a number"): it is
	// an address in a form that some resolvers take for one.
	last := labels[len(labels)-1]
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == "" {
		return bad("neither a name nor an address in its usual form")
	}
	return name, nil
}

// String is host and port.
func (e *endpoint) String() string {
	if e.host == "" {
		return e.addrs[0].String()
	}
	return e.host + ":" + strconv.Itoa(int(e.port))
}

// uri is the resource of what was asked for.
func (e *endpoint) uri() string {
	if e.host == "" {
		return addressURI(e.proto, e.addrs[0])
	}
	return "net://" + e.proto + "/" + e.String()
}

// addressURI is the resource of an address: of one that is not of the public
// internet under a head of its own, so that no pattern of public names and
// addresses, "net://tcp/*:443", covers what lies behind the kernel's firewall.
func addressURI(proto string, a netip.AddrPort) string {
	if internal(a.Addr()) {
		return "net://internal/" + proto + "/" + a.String()
	}
	return "net://" + proto + "/" + a.String()
}

// special are the blocks, of IPv4 and of IPv6's global unicast space, that are
// not of the public internet: the special-purpose registries of IANA (RFC 6890),
// multicast, what embeds an IPv4 address, and the metadata service of Azure,
// which has a public one.
var special = func() (out []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

// globalUnicast is what IANA has given out of IPv6 (RFC 4291, section 2.4).
var globalUnicast = netip.MustParsePrefix("2000::/3")

// internal reports whether an address is anything but one of the public internet.
func internal(a netip.Addr) bool {
	a = a.Unmap()
	if a.Is6() && !globalUnicast.Contains(a) {
		return true
	}
	for _, p := range special {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// network is what connections are made with.
type network struct{ resolver *net.Resolver }

// resolve says what an endpoint stands for, and looks its name up, once: what is
// connected to is what was decided. The resources are the name, which is enough
// for public addresses, and each address that is not public. A name that is not
// granted is not looked up, since a question to a name server can carry data out.
func (n network) resolve(ctx context.Context, sc *abi.SyscallContext, e *endpoint) abi.Resolution {
	res := resource(e.uri())
	res.Object = e
	if e.host == "" || !sc.Capabilities.Resource(res.Resources[0]) || !sc.Capabilities.Syscall("net_connect") {
		return res
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	// The dot keeps the search domains of the host out of it.
	found, err := n.resolver.LookupNetIP(ctx, "ip", e.host+".")
	if err != nil {
		res.Err = lookupError(e.host, err)
		return res
	}
	seen := map[netip.Addr]bool{}
	for _, a := range found {
		if a = a.Unmap().WithZone(""); seen[a] || len(e.addrs) == MaxAddresses {
			continue
		}
		seen[a] = true
		to := netip.AddrPortFrom(a, e.port)
		e.addrs = append(e.addrs, to)
		if internal(a) {
			res.Resources = append(res.Resources, addressURI(e.proto, to))
		}
	}
	return res
}

// lookupError tells a plugin what it may know of a failed lookup: not which
// server was asked.
func lookupError(name string, err error) error {
	var de *net.DNSError
	switch {
	case errors.As(err, &de) && de.IsNotFound:
		return abi.Fail(abi.CodeNotFound, "%s has no address", name)
	case errors.As(err, &de) && de.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return abi.Fail(abi.CodeTimeout, "looking %s up took too long", name)
	}
	return abi.Fail(abi.CodeIO, "%s cannot be looked up", name)
}
