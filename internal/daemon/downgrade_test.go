package daemon_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// unbound stands in the tables of this file for what an identity gets that prefers to be bound: a
// token that is not, and says so.
const unbound wire.Code = "an unbound token"

// attack is something that is done to one step towards a token, and what comes of it.
type attack struct {
	name    string
	fault   fault.Fault // at the endpoint of the table
	require wire.Code   // what an identity gets that must be bound
	prefer  wire.Code   // what one gets that prefers it
}

// anybodys are the attacks that are open to anybody who can write into a connection, or answer in a
// service's place, at any endpoint. None of them makes a token unbound.
func anybodys() []attack {
	return []attack{
		{"the connection is reset", fault.Fault{Kind: fault.Reset}, wire.CodeUnavailable, wire.CodeUnavailable},
		{"500", fault.Fault{Kind: fault.Status, Status: 500}, wire.CodeUnavailable, wire.CodeUnavailable},
		{"503 with Retry-After", status(503, "", "Retry-After", "20"), wire.CodeUnavailable, wire.CodeUnavailable},
		{"503 that speaks of a feature", status(503, codes(51000)), wire.CodeUnavailable, wire.CodeUnavailable},
		{"a redirect", status(302, "", "Location", "http://127.0.0.1:1/"), wire.CodeCredentialRefused, wire.CodeCredentialRefused},
	}
}

// spoken are the same for services whose statuses and bodies mean what they say.
func spoken() []attack {
	return append(anybodys(),
		attack{"429", status(429, ""), wire.CodeThrottled, wire.CodeThrottled},
		attack{"429 with Retry-After", status(429, "", "Retry-After", "20"), wire.CodeThrottled, wire.CodeThrottled},
		attack{"429 that speaks of a feature", status(429, codes(51000)), wire.CodeThrottled, wire.CodeThrottled},
		attack{"garbage", fault.Fault{Kind: fault.Body, Body: "<html>"}, wire.CodeCredentialRefused, wire.CodeCredentialRefused},
		attack{"an empty answer", fault.Fault{Kind: fault.Body}, wire.CodeCredentialRefused, wire.CodeCredentialRefused},
	)
}

func status(code int, body string, headers ...string) fault.Fault {
	f := fault.Fault{Kind: fault.Status, Status: code, Body: body, Headers: map[string]string{}}
	for i := 0; i+1 < len(headers); i += 2 {
		f.Headers[headers[i]] = headers[i+1]
	}
	return f
}

// codes is a refusal of Entra's.
func codes(aadsts ...int) string {
	return fmt.Sprintf(`{"error":"invalid_request","error_description":"as the test wants","error_codes":%s}`,
		strings.Join(strings.Fields(fmt.Sprint(aadsts)), ","))
}

// A table is the attacks on one endpoint.
type table struct {
	operation       string
	require, prefer string // names of identities
	attacks         []attack
}

// What comes of everything that an attacker in the network's path, or in IMDS' place, can do, and
// of what the real services say: whether an identity that prefers to be bound gets an unbound
// token, and that one that must be bound never does.
func TestNobodyOnTheWayChoosesTheWeakerForm(t *testing.T) {
	const refused, unavailable = wire.CodeCredentialRefused, wire.CodeUnavailable
	absent := attack{"404: the host has no binding certificates", status(404, ""), refused, unbound}
	strangers := []attack{
		{"404 of something that is not IMDS", status(404, "", "Server", "nginx"), refused, refused},
		{"400 of something that is not IMDS", status(400, `{"error":"invalid_request"}`, "Server", "nginx"), refused, refused},
		{"502 of something that is not IMDS", status(502, "", "Server", "nginx"), unavailable, unavailable},
	}
	for _, table := range []table{
		{"imds.getplatformmetadata", "vm", "vm-user", append(append(spoken(), strangers...), absent,
			attack{"410", status(410, ""), unavailable, unavailable},
			attack{"400", status(400, `{"error":"invalid_request"}`), refused, refused},
			attack{"403", status(403, ""), refused, refused},
			attack{"403 of a guest agent in enforce mode", status(403, "", "Server", "-"), refused, refused},
			attack{"407 of a proxy", status(407, "", "Server", "-"), refused, refused},
			attack{"200 of a captive portal", status(200, "<html>", "Server", "-"), refused, refused},
			attack{"the identity is not the VM's", status(400, `{"error":"identity_not_found"}`), wire.CodeIdentityNotFound, wire.CodeIdentityNotFound},
			attack{"403 of a container engine", status(403, "unreachable"), unavailable, unavailable},
		)},
		{"imds.issuecredential", "vm", "vm-user", append(append(spoken(), strangers...),
			attack{"404, which getplatformmetadata does not confirm", status(404, ""), unavailable, unavailable},
			attack{"403", status(403, ""), refused, refused},
			attack{"410", status(410, ""), unavailable, unavailable},
			attack{"the issuer refuses", status(400, `{"error":"invalid_request"}`), refused, unbound},
		)},
		{"imds.thim", "vm", "vm-user", []attack{{"the connection is reset", fault.Fault{Kind: fault.Reset}, unavailable, unavailable}}},
		{"imds.thim", "vm", "vm-user", []attack{{"404, which is no verdict on this machine", status(404, ""), unavailable, unavailable}}},
		{"maa.attest", "vm", "vm-user", append(anybodys()[:4],
			attack{"a redirect", status(302, "", "Location", "https://127.0.0.1:1/"), unavailable, unavailable},
			attack{"429", status(429, ""), unavailable, unavailable},
			attack{"garbage", fault.Fault{Kind: fault.Body, Body: "<html>"}, unavailable, unavailable},
			attack{"the service wants its callers to authenticate", status(401, ""), refused, refused},
			attack{"the service does not know the path", status(404, ""), refused, refused},
			attack{"the evidence is refused", status(400, `{"error":{"code":"PolicyEvaluationError"}}`), refused, unbound},
		)},
		{"entra.mtls.token", "vm", "vm-user", entraAttacks()},
		{"entra.mtls.token", "app-cert", "app-prefer", append(entraAttacks(),
			attack{"the certificate is not registered (700027)", status(401, codes(700027)), refused, unbound},
		)},
	} {
		t.Run(table.operation+", "+table.require, func(t *testing.T) { table.run(t) })
	}
}

// entraAttacks are what the token endpoint can say.
func entraAttacks() []attack {
	const refused = wire.CodeCredentialRefused
	answer := func(body string) fault.Fault { return fault.Fault{Kind: fault.Body, Body: body} }
	return append(spoken(),
		attack{"a token of the wrong type", answer(`{"token_type":"mtls_pop","access_token":"a.b.c","expires_in":3600}`), refused, refused},
		attack{"an answer without a token", answer(`{"token_type":"Bearer","expires_in":3600}`), refused, refused},
		attack{"mutual TLS is not enabled (51000)", status(400, codes(51000)), refused, unbound},
		attack{"mutual TLS is not enabled, with status 412", status(412, codes(51000)), refused, unbound},
		attack{"a certificate that is merely uploaded (392189)", status(400, codes(392189)), refused, unbound},
		attack{"the resource takes no bound tokens (392196)", status(400, codes(392196)), refused, unbound},
		attack{"the tenant takes no bound tokens (3921996)", status(400, codes(3921996)), refused, unbound},
		attack{"the certificate is rejected, and so is another (7000214)", status(401, codes(7000214)), refused, unbound},
		attack{"the attestation is rejected, twice (1000612)", status(401, codes(1000612)), refused, unbound},
		attack{"the certificate is outside its validity (1000502)", status(401, codes(1000502)), refused, refused},
		attack{"token_not_after has passed (1000901)", status(400, codes(1000901)), refused, refused},
		attack{"the attestation is outside its time (1000610)", status(401, codes(1000610)), refused, refused},
		attack{"the assertion is outside its time (700024)", status(401, codes(700024)), refused, refused},
		attack{"an unknown application (700016)", status(400, codes(700016)), refused, refused},
		attack{"an unknown resource (500011)", status(400, codes(500011)), wire.CodeInvalidResource, wire.CodeInvalidResource},
		attack{"a code that is not known", status(400, codes(99999999)), refused, refused},
	)
}

// newDuel is a stage whose agent has, besides the platform's own identities, vm-user and app-prefer
// that prefer to be bound. The application's endpoint is at mtls, if that is not "". Nothing waits,
// and nothing is renewed.
func newDuel(t *testing.T, mtls string) *chaos {
	t.Helper()
	c := &chaos{stage: newStage(t), turned: sync.NewCond(&sync.Mutex{})}
	c.sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	c.wait = func(ctx context.Context, _ time.Duration) error { <-ctx.Done(); return ctx.Err() }
	c.proxy = tpmtest.NewProxy(t, c.cfg.TPM)
	c.cfg.TPM = c.proxy.Device()
	c.identities()
	c.certifyApplication()
	for _, id := range c.cfg.Identities {
		if id.Name != "app-cert" {
			continue
		}
		if mtls != "" {
			id.Application.MTLSEndpoint = mtls
		}
		app := *id.Application
		app.Credentials = []config.Credential{app.Credentials[0]}
		app.Credentials[0].Bound = config.BoundPrefer
		c.cfg.Identities = append(c.cfg.Identities, config.Identity{Name: "app-prefer", Application: &app})
		c.cfg.Rules[0].Identities = append(c.cfg.Rules[0].Identities, "app-prefer")
	}
	c.start()
	return c
}

func (tb table) run(t *testing.T) {
	c := newDuel(t, "")
	for _, a := range tb.attacks {
		c.advance(8 * 24 * time.Hour) // what was obtained before is over
		a.fault.Operation = tb.operation
		c.add(a.fault)
		c.checkDuel(a, tb.require, tb.prefer, "")
		c.platform.Faults().Clear()
		c.advance(time.Hour)
		token, err := c.client.Token(t.Context(), client.TokenRequest{Identity: tb.require, Resource: resource})
		if err != nil || !token.Bound {
			t.Errorf("%s: afterwards got bound %v, %v", a.name, token.Bound, err)
		}
	}
	c.checkUnboundOf(tb.require)
}

// checkDuel asks for one token of each identity, of a type or ("") a Bearer one.
func (c *chaos) checkDuel(a attack, require, prefer, kind string) {
	c.t.Helper()
	for name, want := range map[string]wire.Code{require: a.require, prefer: a.prefer} {
		token, err := c.client.Token(c.t.Context(), client.TokenRequest{Identity: name, Resource: resource, Type: kind})
		strength := wire.StrengthNone
		if strings.HasPrefix(name, "app") { // by an assertion that the TPM signs
			strength = wire.StrengthTPMSigned
		}
		e, _ := errors.AsType[*client.Error](err)
		switch {
		case want == unbound && (err != nil || token.Bound || !token.Fallback || token.Strength != strength):
			c.t.Errorf("%s: %s got %+v, %v; want an unbound token, marked", a.name, name, token, err)
		case want != unbound && err == nil:
			c.t.Errorf("%s: %s got a token, bound: %v", a.name, name, token.Bound)
		case want != unbound && (e == nil || e.Problem.Code != want):
			c.t.Errorf("%s: %s got %v, want %s", a.name, name, err, want)
		}
	}
}

// checkUnboundOf wants no request for an unbound token of an identity.
func (c *chaos) checkUnboundOf(name string) {
	c.t.Helper()
	if strings.HasPrefix(name, "app") {
		return // the one that prefers to be bound is the same application
	}
	for _, e := range c.platform.Journal().Operation("imds.token") {
		if e.Detail["client_id"] == c.clientID(name) {
			c.t.Errorf("an unbound token was asked for: %+v", e)
		}
	}
}

// A token of type mtls_pop is never replaced by another one, whatever anybody says; and one that
// names another certificate is none.
func TestABoundTokenIsThatOrNothing(t *testing.T) {
	c := newDuel(t, "")
	foreign := "eyJhbGciOiJub25lIn0.eyJjbmYiOnsieDV0I1MyNTYiOiJBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBIn19.c2ln"
	const refused = wire.CodeCredentialRefused
	for _, a := range []attack{
		{"bound to another certificate", fault.Fault{Kind: fault.Body, Body: `{"token_type":"mtls_pop","access_token":"` + foreign + `","expires_in":3600}`}, refused, refused},
		{"bound to none", fault.Fault{Kind: fault.Body, Body: `{"token_type":"mtls_pop","access_token":"e30.e30.c2ln","expires_in":3600}`}, refused, refused},
		{"a Bearer token instead", fault.Fault{Kind: fault.Body, Body: `{"token_type":"Bearer","access_token":"e30.e30.c2ln","expires_in":3600}`}, refused, refused},
		{"not enabled", status(400, codes(51000)), refused, refused},
		{"not for this resource", status(400, codes(392196)), refused, refused},
		{"not for this tenant", status(400, codes(3921996)), refused, refused},
		{"rejected", status(401, codes(7000214)), refused, refused},
	} {
		for require, prefer := range map[string]string{"vm": "vm-user", "app-cert": "app-prefer"} {
			c.advance(8 * 24 * time.Hour)
			a.fault.Operation = "entra.mtls.token"
			c.add(a.fault)
			c.checkDuel(a, require, prefer, wire.TypePoP)
			c.platform.Faults().Clear()
		}
	}
	for _, operation := range []string{"imds.token", "entra.login.token"} {
		if n := len(c.platform.Journal().Operation(operation)); n != 0 {
			t.Errorf("%d requests on %s", n, operation)
		}
	}
}

// A TPM that cannot be used is no reason to do without it: an attacker who can take it away must
// not choose the weaker form, either.
func TestATPMThatFailsMakesNothingUnbound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		handle tpmtest.Handler
	}{
		{"it hangs up", func([]byte, tpmtest.Forward) ([]byte, error) { return nil, tpmtest.ErrHangUp }},
		{"it is in failure mode", func([]byte, tpmtest.Forward) ([]byte, error) { return tpmtest.Response(0x101), nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newDuel(t, "")
			c.proxy.Handle(tt.handle)
			a := attack{name: tt.name, require: wire.CodeUnavailable, prefer: wire.CodeUnavailable}
			c.checkDuel(a, "vm", "vm-user", "")
			c.checkDuel(a, "app-cert", "app-prefer", "")
			c.proxy.Handle(nil)
		})
	}
}

// interceptor is an attacker in the network's path before the token endpoint.
type interceptor struct {
	net.Listener
	handle chan func(net.Conn) // the one value that is in force
}

func newInterceptor(t *testing.T) *interceptor {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &interceptor{l, make(chan func(net.Conn), 1)}
	i.handle <- func(net.Conn) {}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle := <-i.handle
			i.handle <- handle
			serving.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return i
}

func (i *interceptor) does(handle func(net.Conn)) {
	<-i.handle
	i.handle <- handle
}

// alert answers a ClientHello with a fatal alert in the clear.
func alert(code byte) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = conn.Write([]byte{21, 3, 3, 0, 2, 2, code})
		_, _ = io.Copy(io.Discard, conn)
	}
}

func TestNobodyInTheNetworkMakesACredentialUnbound(t *testing.T) {
	i := newInterceptor(t)
	c := newDuel(t, "https://"+i.Addr().String())
	const unavailable = wire.CodeUnavailable
	for _, tt := range []struct {
		name   string
		handle func(net.Conn)
	}{
		{"the connection is closed", func(net.Conn) {}},
		{"the connection is reset", func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) }},
		{"something answers that is no TLS", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n"+codes(51000)) }},
		{"handshake_failure", alert(40)},
		{"bad_certificate, by somebody who is not the server", alert(42)},
		{"certificate_revoked, by somebody who is not the server", alert(44)},
		{"unknown_ca, by somebody who is not the server", alert(48)},
		{"certificate_required, by somebody who is not the server", alert(116)},
		{"protocol_version", alert(70)},
		{"a server whom nobody vouches for says 51000", stranger(t)},
		{"the connection is refused", nil},
	} {
		c.advance(time.Hour)
		if i.does(tt.handle); tt.handle == nil {
			_ = i.Close()
		}
		c.checkDuel(attack{name: tt.name, require: unavailable, prefer: unavailable}, "app-cert", "app-prefer", "")
	}
	if n := len(c.platform.Journal().Operation("entra.login.token")); n != 0 {
		t.Errorf("%d assertions were sent without a certificate", n)
	}
}

// stranger is a TLS server with a certificate of its own making.
func stranger(t *testing.T) func(net.Conn) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	return func(conn net.Conn) {
		secured := tls.Server(conn, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: server.TLS.Certificates})
		_, _ = secured.Read(make([]byte, 4096))
		_, _ = io.WriteString(secured, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\r\n"+codes(51000))
	}
}
