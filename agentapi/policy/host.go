package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	defaultPort   = "443"
	maxNameBytes  = 253 // of a host name as text (RFC 1035, 2.3.4)
	maxLabelBytes = 63
)

// Host is a host and port that is called over https. The zero value is no host.
type Host struct {
	name, port string // the name in lower case, an IPv6 address without brackets
}

// ParseHost accepts a host with or without a port, which is 443 if it is left out: a name in lower
// case, or an IP address in its one usual form, IPv6 in brackets. It refuses what a resolver or
// another program could take for something else: upper case, a trailing dot, percent-encoding, user
// names, and numbers that some programs take for addresses, as in 127.1 or 0x7f000001.
func ParseHost(s string) (Host, error) {
	name, port, err := splitPort(s)
	if err != nil {
		return Host{}, fmt.Errorf("host %q: %w", s, err)
	}
	if address, ok := strings.CutPrefix(name, "["); ok {
		name = strings.TrimSuffix(address, "]")
		err = checkIPv6(name)
	} else {
		err = checkName(name)
	}
	if err != nil {
		return Host{}, fmt.Errorf("host %q: %w", s, err)
	}
	return Host{name, port}, nil
}

// Name returns the name or address without port and brackets, as a certificate has it.
func (h Host) Name() string { return h.name }

// String returns the host as an https URL has it: without the port if that is 443.
func (h Host) String() string {
	name := h.name
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if h.port == defaultPort {
		return name
	}
	return name + ":" + h.port
}

// splitPort separates a port, in its one usual form, from the name before it.
func splitPort(s string) (name, port string, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasSuffix(s, "]") {
		return s, defaultPort, nil
	}
	name, port = s[:i], s[i+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return "", "", fmt.Errorf("%q is not a port", port)
	}
	return name, port, nil
}

func checkIPv6(s string) error {
	if address, err := netip.ParseAddr(s); err != nil || !address.Is6() || address.Is4In6() || address.Zone() != "" || address.String() != s {
		return errors.New("not the usual form of an IPv6 address")
	}
	return nil
}

// checkName accepts a host name of letters, digits and hyphens (RFC 1123, 2.1) in lower case, or an
// IPv4 address.
func checkName(s string) error {
	if len(s) > maxNameBytes {
		return fmt.Errorf("longer than %d bytes", maxNameBytes)
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	if !isNumber(labels[len(labels)-1]) {
		return nil
	}
	if address, err := netip.ParseAddr(s); err != nil || address.String() != s {
		return errors.New("neither a name nor the usual form of an IPv4 address")
	}
	return nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("a part between dots is empty")
	case len(label) > maxLabelBytes:
		return fmt.Errorf("a part between dots is longer than %d bytes", maxLabelBytes)
	case label[0] == '-' || label[len(label)-1] == '-':
		return errors.New("a part between dots begins or ends with a hyphen")
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return errors.New("only lower-case letters, digits, hyphens and dots make a name")
		}
	}
	return nil
}

// isNumber reports whether the last label of a name makes programs take the name for an IPv4
// address (WHATWG URL, "ends in a number").
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// CoversHost reports whether the rule's callers may use a bound token at a host.
func (r *Rule) CoversHost(h Host) bool {
	return h != Host{} && slices.ContainsFunc(r.Hosts, func(s string) bool {
		granted, err := parseGranted(s)
		return err == nil && granted.covers(h)
	})
}

// grantedHost is an entry of [Rule.Hosts]: one host, or all names below a domain.
type grantedHost struct {
	Host
	below bool
}

// parseGranted accepts what [ParseHost] does, and such a name of two labels at least with a dot
// before it: all names below it, but not the name itself.
func parseGranted(s string) (grantedHost, error) {
	domain, below := strings.CutPrefix(s, ".")
	host, err := ParseHost(domain)
	if err != nil {
		return grantedHost{}, err
	}
	if below && (!strings.Contains(host.name, ".") || isAddress(host.name)) {
		return grantedHost{}, fmt.Errorf("host %q: a dot stands before a domain of two parts at least, as in .vault.azure.net", s)
	}
	return grantedHost{host, below}, nil
}

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

func (g grantedHost) covers(h Host) bool {
	if !g.below {
		return g.Host == h
	}
	return g.port == h.port && strings.HasSuffix(h.name, "."+g.name)
}

func (r *Rule) validateHosts() error {
	for _, s := range r.Hosts {
		if _, err := parseGranted(s); err != nil {
			return err
		}
	}
	if len(r.Hosts) > 0 && !slices.Contains(r.TokenTypes, boundType) {
		return fmt.Errorf("hosts are those that take tokens of type %s, and the rule does not give that type", boundType)
	}
	return nil
}
