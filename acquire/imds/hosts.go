package imds

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/internal/cloud"
)

// HostList names the hosts that IMDS may send the agent to. An entry is matched
// without regard to case, and is one of:
//
//	mtlsauth.microsoft.com       this host, port 443
//	127.0.0.1:8443               this host and port
//	.mtlsauth.microsoft.com      every host below this domain, port 443
//
// The nil list allows nothing.
type HostList []string

// MicrosoftMTLSHosts returns the mutual-TLS token endpoints of Microsoft Entra, global and
// regional, in all its clouds.
func MicrosoftMTLSHosts() HostList {
	var list HostList
	for _, c := range cloud.All() {
		list = append(list, c.MTLSHost, "."+c.MTLSHost)
	}
	return list
}

// MicrosoftAttestationHosts returns the domains of Microsoft Azure Attestation. Any Azure tenant
// can have an instance there, so the list keeps evidence inside Microsoft's service; it does not
// say whose instance that is.
func MicrosoftAttestationHosts() HostList {
	var list HostList
	for _, c := range cloud.All() {
		if c.AttestationDomain != "" {
			list = append(list, "."+c.AttestationDomain)
		}
	}
	return list
}

// Check parses raw and returns it without trailing slash if it is an https URL
// of an allowed host, with neither user information, query nor fragment.
func (l HostList) Check(raw string) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "", fmt.Errorf("endpoint %q is not a URL", raw)
	case u.Scheme != "https":
		return "", fmt.Errorf("endpoint %q is not https", raw)
	case u.User != nil || strings.Contains(raw, `\`):
		return "", fmt.Errorf("endpoint %q carries user information or a backslash", raw)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("endpoint %q carries a query or a fragment", raw)
	case !l.allows(u):
		return "", fmt.Errorf("host %q is not a trusted host (setting trusted_hosts)", u.Host)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func (l HostList) allows(u *url.URL) bool {
	name, port := strings.ToLower(u.Hostname()), u.Port()
	if name == "" || (strings.HasSuffix(name, ".azure.net") && strings.Contains(name, ".test.")) {
		return false // Microsoft's attestation test service must never be believed
	}
	if port == "443" {
		port = ""
	}
	return slices.ContainsFunc(l, func(entry string) bool {
		entry = strings.ToLower(entry)
		if strings.HasPrefix(entry, ".") {
			return port == "" && strings.HasSuffix(name, entry)
		}
		if port == "" {
			return entry == name || entry == name+":443"
		}
		return entry == strings.ToLower(u.Host)
	})
}
