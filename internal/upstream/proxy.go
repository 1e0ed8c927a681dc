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

// proxied is a transport that says which proxy it uses.
type proxied interface {
	ProxyOf(r *http.Request) (*url.URL, error)
}

// Via is ", through proxy HOST:PORT" if a client's requests to a URL go through one, for texts
// about a wait or a failure; "" if they do not, or its transport does not say.
func Via(client *http.Client, target string) string {
	transport, says := client.Transport.(proxied)
	u, err := url.Parse(target)
	if !says || err != nil {
		return ""
	}
	proxy, err := transport.ProxyOf(&http.Request{URL: u})
	if err != nil || proxy == nil {
		return ""
	}
	return ", through proxy " + proxy.Host // the URL may have a password in it
}
