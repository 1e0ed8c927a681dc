package agentapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// Identify says who has made a connection. It must not block.
type Identify func(net.Conn) (peer.Caller, error)

// ListenLoopback listens at a literal loopback address with a port, as in 127.0.0.1:840. The
// listener does not speak Multipath TCP, under which the kernel goes on naming the owner of a
// socket that was closed.
func ListenLoopback(ctx context.Context, address string) (net.Listener, error) {
	if _, err := loopbackAddress(address); err != nil {
		return nil, err
	}
	ln, err := peer.ListenTCP(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("listening for programs: %w", err)
	}
	return ln, nil
}

func loopbackAddress(address string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || !addr.Addr().Unmap().IsLoopback() || addr.Addr().Zone() != "" {
		return addr, fmt.Errorf("%q is not a loopback address with a port, as in 127.0.0.1:840", address)
	}
	return addr, nil
}

// loopback completes a face that listens on loopback. Callers cannot be known on any other address,
// and a request with another name in Host may come from a page in a browser whose host's name was
// made to lead here.
func loopback(f *face) Way {
	addr, err := loopbackAddress(f.listener.Addr().String())
	if f.identify == nil {
		err = errors.Join(err, errors.New("callers cannot be identified"))
	}
	if err != nil {
		return Way{f, fmt.Errorf("serving programs: %w", err)}
	}
	f.host = hostOf(addr)
	f.about += " of http://" + f.host
	return Way{face: f}
}

// hostOf is how clients write an address into the header Host.
func hostOf(addr netip.AddrPort) string {
	if addr.Port() != 80 {
		return addr.String()
	}
	if addr.Addr().Is6() {
		return "[" + addr.Addr().String() + "]"
	}
	return addr.Addr().String()
}

// guards refuses two kinds of requests before anything else is read of them: those meant for
// another host, and those with a program's secret in a place that others log.
func (f *face) guards(r *http.Request, rec *record) *problem {
	if f.host != "" && r.Host != f.host {
		return newProblem(wire.CodeRefusedHeader, "header Host is not %s", f.host).withField("Host")
	}
	if rec.approval == nil && hasSecret(r.RequestURI) { // else it is a target that was looked at before
		return newProblem(wire.CodeInvalidParameter, "a program's secret is in the URL: it goes into the header %s", wire.HeaderIdentity).
			withField("query").withHint("give the program another secret: start it again")
	}
	return nil
}

// hasSecret reports whether a text has a program's secret in it, as it is or percent-encoded.
func hasSecret(text string) bool {
	for range 3 { // encoded twice, to be sure
		if strings.Contains(text, appsecret.Prefix) {
			return true
		}
		if !strings.Contains(text, "%") {
			return false
		}
		decoded, err := url.PathUnescape(text)
		if err != nil || decoded == text {
			return false
		}
		text = decoded
	}
	return false
}

// withoutSecrets is a text for the audit in which no program's secret is.
func withoutSecrets(text string) string {
	if hasSecret(text) {
		return "[redacted]"
	}
	return text
}
