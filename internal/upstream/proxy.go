package upstream

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/keyagent/keyagent/internal/cloud"
)

// Proxy makes the Proxy function of an http.Transport. rawURL is http or https, with
// user information if the proxy wants it; it serves https targets, by CONNECT, and no
// others. Bypass has NO_PROXY's forms: a domain with its subdomains, ".domain" for the
// subdomains alone, an address, a CIDR range, each with a port if need be. Loopback,
// localhost and the link-local metadata service are bypassed always. Errors do not show
// the URL, which may have a password in it.
func Proxy(rawURL string, bypass []string) (func(*http.Request) (*url.URL, error), error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, errors.New("proxy: not a URL such as http://proxy.example:3128")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("proxy: its URL is neither http nor https")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("proxy: its URL has more than a host and a port")
	}
	choose := (&httpproxy.Config{
		HTTPSProxy: u.String(),
		// A proxy would answer with its own machine's metadata, or read the traffic.
		NoProxy: strings.Join(slices.Concat(bypass, []string{cloud.MetadataAddress}), ","),
	}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }, nil
}
