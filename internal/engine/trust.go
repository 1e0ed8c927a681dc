package engine

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/upstream"
)

// proxy is the HTTP proxy for connections that leave the VM; the zero value is none.
type proxy struct {
	url    secret.String // with the user's name and password
	bypass []string
	choose func(*http.Request) (*url.URL, error)
}

func newProxy(address string, bypass []string) (proxy, error) {
	choose, err := upstream.Proxy(address, bypass)
	return proxy{secret.New(address), bypass, choose}, err
}

func (p proxy) same(other proxy) bool {
	return p.url.Equal(other.url) && reflect.DeepEqual(p.bypass, other.bypass)
}

// sameWayOut reports whether another plan has the same proxy and the same certificate authorities
// for servers outside of the VM.
func (p *Plan) sameWayOut(other *Plan) bool {
	sameRoots := p.rootCAs == nil && other.rootCAs == nil ||
		p.rootCAs != nil && other.rootCAs != nil && p.rootCAs.Equal(other.rootCAs)
	return sameRoots && p.proxy.same(other.proxy)
}

// sameAttestation reports whether another plan attests the binding key in the same way.
func (p *Plan) sameAttestation(other *Plan) bool {
	return p.sameWayOut(other) && p.Provider == other.Provider && reflect.DeepEqual(p.attestHosts, other.attestHosts) &&
		reflect.DeepEqual(p.anchors, other.anchors) && reflect.DeepEqual(p.evidence, other.evidence) &&
		slices.Equal(p.command, other.command) && slices.Equal(p.pcrs, other.pcrs) && p.eventLog == other.eventLog
}

// Withdraws reports whether next trusts less than p: it lacks a host or a certificate authority of
// p.
func (p *Plan) Withdraws(next *Plan) bool {
	return lacks(next.mtlsHosts, p.mtlsHosts, func(a, b string) bool { return a == b }) ||
		lacks(next.attestHosts, p.attestHosts, func(a, b string) bool { return a == b }) ||
		lacks(next.authorities, p.authorities, (*x509.Certificate).Equal)
}

// lacks reports whether an element of another list is not in a list.
func lacks[E any](list, of []E, equal func(a, b E) bool) bool {
	return slices.ContainsFunc(of, func(a E) bool {
		return !slices.ContainsFunc(list, func(b E) bool { return equal(a, b) })
	})
}

// attestation is the source of attestation tokens that is in force. It is safe for concurrent use.
type attestation struct {
	inForce atomic.Pointer[binding.Attestor]
	until   atomic.Pointer[time.Time] // when the token that was obtained last expires; nil: there is none
}

func (a *attestation) use(source binding.Attestor) {
	a.until.Store(nil)
	a.inForce.Store(&source)
}

// Attest implements [binding.Attestor].
func (a *attestation) Attest(ctx context.Context, endpoint string) (token secret.String, expires time.Time, err error) {
	token, expires, err = (*a.inForce.Load()).Attest(ctx, endpoint)
	if err == nil && !expires.IsZero() {
		a.until.Store(&expires)
	}
	return token, expires, err
}

// Discard implements [binding.Attestor].
func (a *attestation) Discard(endpoint string) {
	a.until.Store(nil)
	(*a.inForce.Load()).Discard(endpoint)
}

// AttestedUntil is when the attestation token that was obtained last expires; nil if the engine has
// none.
func (e *Engine) AttestedUntil() *time.Time { return e.attested.until.Load() }
