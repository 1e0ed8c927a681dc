package agentapi

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/tlsbridge/certverify"
)

// PairSource gives the certificates that tokens are bound to, with their keys; [acquire.Roster] is
// one. It must be safe for concurrent use, return when the context ends, and fail with
// [*acquire.Error].
type PairSource interface {
	Pair(context.Context, acquire.PairRequest) (*acquire.Pair, error)
}

// Pairs is what callers need to use bound tokens themselves. The zero value gives nobody anything.
type Pairs struct {
	Source PairSource
	// RootCAs are trusted for servers that callers shake hands with, as far as the handshake shows
	// them; nil: those of the system.
	RootCAs *x509.CertPool
}

// signPatience is how long a caller waits for a signature: as long as TLS servers wait at least.
const signPatience = 10 * time.Second

var errNoPairs = errors.New("this agent gives nobody certificates")

// pair returns a pair of an identity that rules give the caller.
func (s *Server) pair(ctx context.Context, rec *record, identity, thumbprint string) (*acquire.Pair, *problem) {
	source := rec.rules.Pairs.Source
	if source == nil {
		return nil, newProblem(wire.CodeInternal, "%v", errNoPairs)
	}
	found, err := source.Pair(ctx, acquire.PairRequest{
		Identity: identity, Thumbprint: thumbprint, Account: s.misses.account(rec.caller, rec.rules.Policy.Standing(rec.caller)),
	})
	if errors.Is(err, acquire.ErrOtherPair) {
		p := newProblem(wire.CodeBindingChanged, "identity %q does not present the certificate %s, or not any more", identity, clip(thumbprint, maxAuditedBytes)).
			withHint("GET " + bindingPath(identity) + " says which certificate it presents now")
		p.Identity = identity
		return nil, p
	}
	if errors.Is(err, errMisses) {
		rec.reason = reasonMisses
	}
	if err != nil {
		p := s.tokenProblem(ctx, rec, err)
		p.Identity = identity
		return nil, p
	}
	return found, nil
}

func bindingPath(identity string) string {
	return strings.Replace(wire.PathBinding, wire.PathParamIdentity, identity, 1)
}

// binding answers GET /v1/binding/{identity}.
func (s *Server) binding(r *http.Request, rec *record) (reply, *problem) {
	identity, thumbprint, p := identityOf(r, rec, wire.ParamThumbprint)
	if p != nil {
		return reply{}, p
	}
	rec.handshake.thumbprint = clip(thumbprint, maxAuditedBytes)
	decision := rec.rules.Policy.DecideSigning(rec.caller, policy.Signing{Identity: identity})
	if !decision.Allowed && decision.Reason != policy.ReasonSign { // what the certificate says, its tokens say, too
		return reply{}, rec.refuses(decision, identity)
	}
	ctx, end := withPatience(r.Context(), s.cfg.RequestTimeout)
	defer end()
	found, p := s.pair(ctx, rec, identity, thumbprint)
	if p != nil {
		return reply{}, p
	}
	said := wire.BoundCertificate{
		Identity: identity, Credential: found.Credential, Chain: found.Chain, Thumbprint: found.Thumbprint,
		Strength: string(found.Strength), Expires: found.Expires, Algorithms: []string{},
	}
	for _, scheme := range found.SignatureSchemes {
		said.Algorithms = append(said.Algorithms, certverify.SchemeName(scheme))
	}
	return reply{body: said}, nil
}

// identityOf returns the identity that the path of a request names, and the thumbprint of its
// query, if that is among the known parameters.
func identityOf(r *http.Request, rec *record, known ...string) (identity, thumbprint string, p *problem) {
	identity = pathParam(rec.route.path, r.RequestURI)
	rec.identity = clip(identity, maxAuditedBytes)
	params, p := parseQuery(r.URL.RawQuery, known, refuseUnknown)
	if p != nil {
		return "", "", p
	}
	if len(identity) > maxIdentityBytes {
		return "", "", newProblem(wire.CodeInvalidParameter, "the name is longer than %d bytes", maxIdentityBytes).withField(wire.ParamIdentity)
	}
	return identity, params.get(wire.ParamThumbprint), nil
}

// refuses makes the problem of a decision about the key of an identity.
func (r *record) refuses(decision policy.Decision, identity string) *problem {
	r.decided(decision)
	with := ""
	if server := r.handshake.server; server != "" {
		with = fmt.Sprintf(" in a handshake with %q", server)
	}
	p := newProblem(wire.CodeNotAllowed, "uid %d asks for the key of %q%s: %s", r.caller.UID, clip(identity, maxAuditedBytes), with, decision.Reason)
	if decision.Reason == policy.ReasonHidden {
		return p.withHint("offer TLS 1.2 at most, in which the handshake shows the server")
	}
	return p.withHint("ask whoever administers the agent for a rule that gives this user the identity, with sign: true and, for TLS 1.2, the server among its hosts")
}

// handshake is what the audit keeps of a TLS handshake that a caller wants signed.
type handshake struct {
	version, server, scheme, thumbprint string
	signed                              bool
}

// attrs are in a record as they are known.
func (h *handshake) attrs() []slog.Attr {
	var attrs []slog.Attr
	attrs = appendUnlessEmpty(attrs, "tls_version", h.version)
	attrs = appendUnlessEmpty(attrs, "server", h.server)
	attrs = appendUnlessEmpty(attrs, "scheme", h.scheme)
	return appendUnlessEmpty(attrs, "thumbprint", h.thumbprint)
}

// sign answers POST /v1/binding/{identity}/sign.
func (s *Server) sign(r *http.Request, rec *record) (reply, *problem) {
	identity, _, p := identityOf(r, rec)
	if p != nil {
		return reply{}, p
	}
	if decision := rec.rules.Policy.DecideSigning(rec.caller, policy.Signing{Identity: identity}); !decision.Allowed {
		return reply{}, rec.refuses(decision, identity)
	}
	asked, p := readSignRequest(r.Body)
	if p != nil {
		return reply{}, p
	}
	ctx, end := withPatience(r.Context(), min(signPatience, s.cfg.RequestTimeout))
	defer end()
	signature, p := s.signs(ctx, rec, identity, asked)
	if p != nil {
		return reply{}, p
	}
	rec.handshake.signed = true
	return reply{body: wire.SignResponse{Signature: signature}}, nil
}

// signs makes every check of a request that the rules do not refuse, and signs last.
func (s *Server) signs(ctx context.Context, rec *record, identity string, asked wire.SignRequest) ([]byte, *problem) {
	rec.handshake.scheme = clip(asked.Scheme, maxAuditedBytes)
	rec.handshake.thumbprint = clip(asked.Thumbprint, maxAuditedBytes)
	message, err := certverify.Parse(asked.Message)
	if err != nil {
		return nil, newProblem(wire.CodeNotHandshake, "%v", err).withField("message").
			withHint("send the message that crypto/tls gives a crypto.MessageSigner; programs that have its digest only use the agent's bridge")
	}
	if p := rec.authoriseSigning(identity, message); p != nil {
		return nil, p
	}
	pair, p := s.pair(ctx, rec, identity, asked.Thumbprint)
	if p != nil {
		return nil, p
	}
	// Before the certificates of the message are verified, which costs, too.
	if p := s.chargeSignature(rec); p != nil {
		return nil, p
	}
	if p := s.checkParties(rec, message, pair); p != nil {
		return nil, p
	}
	scheme, _ := certverify.SchemeNamed(asked.Scheme)
	key := pair.Signer(ctx)
	digest, opts, err := message.Digest(scheme, key.Public())
	if err != nil {
		return nil, newProblem(wire.CodeInvalidParameter, "%v", err).withField("scheme")
	}
	signature, err := key.Sign(rand.Reader, digest, opts)
	if err != nil {
		return nil, newProblem(wire.CodeUnavailable, "the key does not sign; the agent's log says why").retryable(0).causedBy(err)
	}
	return signature, nil
}

// chargeSignature counts a signature for the caller, or says that there were too many.
func (s *Server) chargeSignature(rec *record) *problem {
	wait := s.signatures.charge(rec.caller, rec.rules.Policy.Standing(rec.caller))
	return rec.tooManySignatures(wait)
}

// tooManySignatures is the refusal of a caller who has to wait; nil if wait is zero.
func (r *record) tooManySignatures(wait time.Duration) *problem {
	if wait <= 0 {
		return nil
	}
	r.reason = reasonSignatures
	return newProblem(wire.CodeThrottled, "uid %d asks for %s", r.caller.UID, reasonSignatures).retryable(wait).
		withHint("keep connections open, and use each for many requests")
}

// authoriseSigning asks the rules again, now with the server that the handshake shows.
func (r *record) authoriseSigning(identity string, message *certverify.Message) *problem {
	r.handshake.version = map[bool]string{true: "TLS 1.2", false: "TLS 1.3"}[message.NamesServer()]
	r.handshake.server = clip(message.ServerName(), maxAuditedBytes)
	decision := r.rules.Policy.DecideSigning(r.caller, policy.Signing{
		Identity: identity, Server: message.ServerName(),
		Seen: map[bool]policy.Seen{true: policy.ServerShown, false: policy.ServerHidden}[message.NamesServer()],
	})
	if decision.Allowed {
		r.decided(decision)
		return nil
	}
	return r.refuses(decision, identity)
}

// checkParties holds a handshake, as far as it shows who takes part, to the caller's certificate
// and to the server's.
func (s *Server) checkParties(rec *record, message *certverify.Message, pair *acquire.Pair) *problem {
	if !message.NamesServer() {
		return nil
	}
	if err := message.CheckClient(pair.Chain[0]); err != nil {
		return newProblem(wire.CodeNotHandshake, "%v", err).withField("message")
	}
	if err := message.VerifyServer(rec.rules.Pairs.RootCAs, s.cfg.Now()); err != nil {
		rec.reason = policy.ReasonServer
		return newProblem(wire.CodeNotAllowed, "the server of the handshake cannot be trusted: %v", err).
			withHint("an authority of your own goes into ca_file of the agent's configuration")
	}
	return nil
}

// readSignRequest reads one JSON object and nothing else. The body is limited by the table bodies.
func readSignRequest(body io.Reader) (wire.SignRequest, *problem) {
	var asked wire.SignRequest
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	err := dec.Decode(&asked)
	if err == nil {
		_, err = dec.Token()
		if errors.Is(err, io.EOF) {
			return asked, nil
		}
		err = errors.New("there is more after the object")
	}
	return asked, newProblem(wire.CodeInvalidParameter, "the body is not one JSON object with thumbprint, scheme and message, of at most %d bytes: %v",
		wire.MaxSignBytes, err).withField("body")
}
