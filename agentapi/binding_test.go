package agentapi_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// party is somebody with a certificate of an authority.
type party struct {
	tls.Certificate
	key crypto.Signer
}

// signWorld is an authority, servers of it, and the pair of the identity vm.
type signWorld struct {
	roots     *x509.CertPool
	authority party
	vault     party // myvault.vault.azure.net
	evil      party // evil.example
	pair      *acquire.Pair
	asked     []acquire.PairRequest
	fails     error
}

const vaultHost = "myvault.vault.azure.net"

func newSignWorld(t testing.TB) *signWorld {
	t.Helper()
	w := &signWorld{roots: x509.NewCertPool()}
	w.authority = w.issue(t, "authority", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	w.roots.AddCert(w.authority.Leaf)
	server := func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{c.Subject.CommonName}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	w.vault, w.evil = w.issue(t, vaultHost, server), w.issue(t, "evil.example", server)
	own := w.issue(t, "vm", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	w.pair = &acquire.Pair{
		Chain: own.Certificate.Certificate, Thumbprint: acquire.Thumbprint(own.Leaf), Expires: now.Add(time.Hour), Strength: acquire.StrengthTPM,
		Credential: "managed_identity", SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		Signer: func(context.Context) crypto.Signer { return own.key },
	}
	return w
}

func (w *signWorld) issue(t testing.TB, name string, change func(*x509.Certificate)) party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	change(template)
	parent, by := w.authority.Leaf, w.authority.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return party{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, key}
}

// Pair makes signWorld a source of pairs: it has one, of the identity vm.
func (w *signWorld) Pair(_ context.Context, req acquire.PairRequest) (*acquire.Pair, error) {
	w.asked = append(w.asked, req)
	if w.fails != nil {
		return nil, w.fails
	}
	if req.Thumbprint != "" && req.Thumbprint != w.pair.Thumbprint {
		return nil, &acquire.Error{Kind: acquire.KindUnavailable, Err: acquire.ErrOtherPair}
	}
	return w.pair, nil
}

// start runs an agent whose rules let this process sign for hosts of Key Vault.
func (w *signWorld) start(t testing.TB, change func(*agentapi.Config)) *agent {
	t.Helper()
	rules := rulesFor(os.Geteuid())
	rules.Rules[0].Sign = true
	rules.Rules[0].TokenTypes = []string{"mtls_pop"}
	rules.Rules[0].Hosts = []string{".vault.azure.net"}
	cfg := config(working, rules)
	cfg.Pairs = agentapi.Pairs{Source: w, RootCAs: w.roots}
	if change != nil {
		change(&cfg)
	}
	return start(t, cfg)
}

// remote is a key whose signatures the agent makes, as a program in any language would have it.
type remote struct {
	t         testing.TB
	agent     *agent
	pair      *acquire.Pair
	message   []byte // the last
	got       answer // likewise
	identity  string
	tampering func(*wire.SignRequest)
}

func (r *remote) Public() crypto.PublicKey { return r.pair.Signer(context.Background()).Public() }

func (r *remote) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a digest")
}

func (r *remote) SignMessage(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	r.message = message
	req := wire.SignRequest{Thumbprint: r.pair.Thumbprint, Scheme: "ecdsa_secp256r1_sha256", Message: message}
	if r.tampering != nil {
		r.tampering(&req)
	}
	r.got = r.agent.post(r.t, "/v1/binding/"+r.identity+"/sign", req)
	if r.got.status != http.StatusOK {
		return nil, errors.New("the agent refuses")
	}
	return decode[wire.SignResponse](r.t, r.got.body).Signature, nil
}

// post sends a JSON object.
func (a *agent) post(t testing.TB, path string, body any) answer {
	t.Helper()
	text, ok := body.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://agent"+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := answer{resp.StatusCode, resp.Header, read}
	got.checkHeaders(t)
	if path != wire.PathEvidence {
		path = wire.PathBindingSign
	}
	checkDocumented(t, "post", path, got)
	return got
}

// shakeHands has a client with the remote key meet a server.
func (w *signWorld) shakeHands(key *remote, server party, name string, version uint16) error {
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(far, &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server.Certificate}, ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs: w.roots, Time: func() time.Time { return now },
		})
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x"))
		} else {
			_ = far.Close()
		}
		served <- err
	}()
	conn := tls.Client(near, &tls.Config{
		InsecureSkipVerify: true, ServerName: name, MinVersion: version, MaxVersion: version,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: w.pair.Chain, PrivateKey: key}, nil
		},
	})
	_, err := conn.Read(make([]byte, 1))
	_ = near.Close()
	return errors.Join(err, <-served)
}

func TestBinding(t *testing.T) {
	w := newSignWorld(t)
	a := w.start(t, nil)
	got := a.get(t, "/v1/binding/vm")
	if got.status != http.StatusOK {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	said := decode[wire.BoundCertificate](t, got.body)
	if said.Identity != "vm" || said.Credential != "managed_identity" || len(said.Chain) != 1 || !bytes.Equal(said.Chain[0], w.pair.Chain[0]) ||
		said.Thumbprint != w.pair.Thumbprint || said.Strength != "tpm" || !said.Expires.Equal(w.pair.Expires) ||
		len(said.Algorithms) != 1 || said.Algorithms[0] != "ecdsa_secp256r1_sha256" {
		t.Errorf("got %+v", said)
	}
	if w.asked[0].Account == nil || w.asked[0].Thumbprint != "" {
		t.Errorf("asked for %+v", w.asked[0])
	}
	if rec := a.audit.lastRecord(t); rec["decision"] != "answered" || rec["identity"] != "vm" || rec["route"] != wire.PathBinding {
		t.Errorf("audit %v", rec)
	}
	for target, want := range map[string]int{
		"/v1/binding/backup": 403, "/v1/binding/nobody": 403, "/v1/binding/VM": 403, "/v1/binding/v%6d": 403, "/v1/binding/" + strings.Repeat("x", 200): 400,
		"/v1/binding/vm?thumbprint=" + w.pair.Thumbprint: 200, "/v1/binding/vm?thumbprint=other": 409, "/v1/binding/vm?thumbprint=": 400,
		"/v1/binding/vm?x=1": 400, "/v1/binding/": 404, "/v1/binding": 404, "/v1/binding/vm/": 404, "/v1/binding//vm": 404, "/v1/binding/vm/x": 404,
		"/v1/binding/x/../vm": 404, "/v1//binding/vm": 404,
	} {
		if status, body := a.raw(t, "GET "+target+" HTTP/1.1\r\nHost: agent\r\n\r\n"); status != want {
			t.Errorf("%s: status %d, want %d: %s", target, status, want, body)
		}
	}
}

func TestSignHandshakes(t *testing.T) {
	w := newSignWorld(t)
	a := w.start(t, nil)
	for _, tt := range []struct {
		name        string
		server      party
		servername  string
		version     uint16
		ok          bool
		tls, reason string
	}{
		{"TLS 1.3", w.vault, vaultHost, tls.VersionTLS13, true, "TLS 1.3", ""},
		{"TLS 1.2 with a host of the rule", w.vault, vaultHost, tls.VersionTLS12, true, "TLS 1.2", ""},
		{"TLS 1.2 with another host", w.evil, "evil.example", tls.VersionTLS12, false, "TLS 1.2", string(policy.ReasonServer)},
		{"TLS 1.2 with a server that is not what the client calls it", w.evil, vaultHost, tls.VersionTLS12, false, "TLS 1.2", string(policy.ReasonServer)},
		{"TLS 1.2 with a server that says it is", newSignWorld(t).vault, vaultHost, tls.VersionTLS12, false, "TLS 1.2", string(policy.ReasonServer)},
		{"TLS 1.2 without a name", w.vault, "", tls.VersionTLS12, false, "TLS 1.2", string(policy.ReasonServer)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := &remote{t: t, agent: a, pair: w.pair, identity: "vm"}
			err := w.shakeHands(key, tt.server, tt.servername, tt.version)
			rec := a.audit.lastRecord(t)
			if (err == nil) != tt.ok {
				t.Fatalf("%v; %s", err, key.got.body)
			}
			want := map[string]any{"decision": "refused", "identity": "vm", "tls_version": tt.tls, "thumbprint": w.pair.Thumbprint,
				"scheme": "ecdsa_secp256r1_sha256", "route": wire.PathBindingSign}
			if tt.ok {
				want["decision"], want["rule"] = "signed", "shop"
			} else {
				want["reason"] = tt.reason
				if key.got.status != http.StatusForbidden || key.got.problem(t).Code != wire.CodeNotAllowed {
					t.Errorf("%d %s", key.got.status, key.got.body)
				}
			}
			if tt.version == tls.VersionTLS12 && tt.servername != "" {
				want["server"] = tt.servername
			}
			for name, value := range want {
				if rec[name] != value {
					t.Errorf("audit: %s is %v, want %v", name, rec[name], value)
				}
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	w := newSignWorld(t)
	other := newSignWorld(t)
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, w.evil.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		version uint16
		agent   func(*agentapi.Config)
		key     func(*remote)
		status  int
		code    wire.Code
	}{
		{"what has no rule", tls.VersionTLS13, func(c *agentapi.Config) { c.Policy.Rules[0].Sign = false }, nil, 403, wire.CodeNotAllowed},
		{"an identity of no rule", tls.VersionTLS13, nil, func(r *remote) { r.identity = "backup" }, 403, wire.CodeNotAllowed},
		{"TLS 1.3 where the rule is for its hosts only", tls.VersionTLS13, func(c *agentapi.Config) { c.Policy.Rules[0].SignHostsOnly = true }, nil, 403, wire.CodeNotAllowed},
		{"TLS 1.2 where no host is given", tls.VersionTLS12, func(c *agentapi.Config) { c.Policy.Rules[0].Hosts = nil }, nil, 403, wire.CodeNotAllowed},
		{"a certificate that the identity had", tls.VersionTLS13, nil, func(r *remote) {
			r.tampering = func(s *wire.SignRequest) { s.Thumbprint = other.pair.Thumbprint }
		}, 409, wire.CodeBindingChanged},
		{"TLS 1.2 with another client's certificate", tls.VersionTLS12, func(c *agentapi.Config) {
			c.Pairs.Source = fixedPair{&acquire.Pair{Chain: w.evil.Certificate.Certificate, Signer: w.pair.Signer}}
		}, nil, 400, wire.CodeNotHandshake},
		{"an assertion", tls.VersionTLS13, nil, func(r *remote) {
			r.tampering = func(s *wire.SignRequest) { s.Message = []byte("eyJhbGciOiJQUzI1NiJ9.eyJhdWQiOiJ4In0") }
		}, 400, wire.CodeNotHandshake},
		{"a certificate request", tls.VersionTLS13, nil, func(r *remote) {
			r.tampering = func(s *wire.SignRequest) { s.Message = request }
		}, 400, wire.CodeNotHandshake},
		{"what a server signs", tls.VersionTLS13, nil, func(r *remote) {
			r.tampering = func(s *wire.SignRequest) { s.Message = bytes.Replace(s.Message, []byte("client"), []byte("server"), 1) }
		}, 400, wire.CodeNotHandshake},
		{"a digest", tls.VersionTLS13, nil, func(r *remote) {
			r.tampering = func(s *wire.SignRequest) { s.Message = s.Message[len(s.Message)-32:] }
		}, 400, wire.CodeNotHandshake},
		{"a scheme that is none", tls.VersionTLS13, nil, func(r *remote) {
			r.tampering = func(s *wire.SignRequest) { s.Scheme = "none" }
		}, 400, wire.CodeInvalidParameter},
		{"a scheme of another key", tls.VersionTLS13, nil, func(r *remote) {
			r.tampering = func(s *wire.SignRequest) { s.Scheme = "rsa_pss_rsae_sha256" }
		}, 400, wire.CodeInvalidParameter},
		{"with a key that fails", tls.VersionTLS13, func(c *agentapi.Config) {
			broken := *w.pair
			broken.Signer = func(context.Context) crypto.Signer { return brokenKey{w.pair.Signer(context.Background())} }
			c.Pairs.Source = fixedPair{&broken}
		}, nil, 503, wire.CodeUnavailable},
		{"without a source of pairs", tls.VersionTLS13, func(c *agentapi.Config) { c.Pairs = agentapi.Pairs{} }, nil, 500, wire.CodeInternal},
		{"for an identity that is not there", tls.VersionTLS13, func(c *agentapi.Config) {
			c.Pairs.Source = failingPair{&acquire.Error{Kind: acquire.KindRefused, Err: errors.New("it has no certificate")}}
		}, nil, 502, wire.CodeCredentialRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.start(t, tt.agent)
			key := &remote{t: t, agent: a, pair: w.pair, identity: "vm"}
			if tt.key != nil {
				tt.key(key)
			}
			if err := w.shakeHands(key, w.vault, vaultHost, tt.version); err == nil {
				t.Fatal("the server has accepted it")
			}
			if p := key.got.problem(t); p.Status != tt.status || p.Code != tt.code {
				t.Errorf("got %+v", p)
			}
			if rec := a.audit.lastRecord(t); rec["decision"] != "refused" && rec["decision"] != "failed" || rec["status"] != float64(tt.status) {
				t.Errorf("audit %v", rec)
			}
		})
	}
}

type fixedPair struct{ pair *acquire.Pair }

func (f fixedPair) Pair(context.Context, acquire.PairRequest) (*acquire.Pair, error) {
	return f.pair, nil
}

type failingPair struct{ error }

func (f failingPair) Pair(context.Context, acquire.PairRequest) (*acquire.Pair, error) {
	return nil, f.error
}

type brokenKey struct{ crypto.Signer }

func (brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("TPM_RC_FAILURE")
}

func TestSignBodies(t *testing.T) {
	w := newSignWorld(t)
	a := w.start(t, nil)
	for name, body := range map[string]string{
		"nothing": "", "no object": `"x"`, "an unknown member": `{"digest":"AAAA"}`, "not base64": `{"message":"%"}`,
		"two objects": `{}{}`, "cut off": `{"message":"AAAA`, "another type": `{"message":7}`,
		"too much": `{"message":"` + strings.Repeat("A", wire.MaxSignBytes) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			got := a.post(t, "/v1/binding/vm/sign", []byte(body))
			if p := got.problem(t); p.Code != wire.CodeInvalidParameter || p.Field != "body" {
				t.Errorf("got %+v", p)
			}
		})
	}
	if len(w.asked) > 0 {
		t.Errorf("the source was asked for %+v", w.asked)
	}
	t.Run("other routes take none", func(t *testing.T) {
		status, body := a.raw(t, "GET /v1/binding/vm HTTP/1.1\r\nHost: agent\r\nContent-Length: 2\r\n\r\n{}")
		if status != 400 || !strings.Contains(body, string(wire.CodeUnexpectedBody)) {
			t.Errorf("status %d %s", status, body)
		}
	})
}

// A caller has a bounded number of signatures at once; others have their own.
func TestSignaturesAreBounded(t *testing.T) {
	w := newSignWorld(t)
	a := w.start(t, nil)
	message := []byte(strings.Repeat(" ", 64) + "TLS 1.3, client CertificateVerify\x00" + strings.Repeat("h", 32))
	req := wire.SignRequest{Thumbprint: w.pair.Thumbprint, Scheme: "ecdsa_secp256r1_sha256", Message: message}
	for range agentapi.SignBurst {
		if got := a.post(t, "/v1/binding/vm/sign", req); got.status != http.StatusOK {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
	}
	if p := a.post(t, "/v1/binding/vm/sign", req).problem(t); p.Code != wire.CodeThrottled || p.RetryAfter != 1 {
		t.Errorf("got %+v", p)
	}
	if rec := a.audit.lastRecord(t); rec["decision"] != "refused" || rec["reason"] == "" {
		t.Errorf("audit %v", rec)
	}
}
