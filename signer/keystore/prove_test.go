package keystore_test

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// prover is a key with its certificate.
type prover struct {
	key   *signer.Key
	chain []*x509.Certificate
}

func newProver(t *testing.T, algorithm tpm.Algorithm) prover {
	t.Helper()
	return proverOn(t, tpmtest.Open(t), algorithm)
}

func proverOn(t *testing.T, on *tpm.TPM, algorithm tpm.Algorithm) prover {
	t.Helper()
	key, err := signer.Open(t.Context(), signer.Config{TPM: on, KeyFile: signertest.KeyPath(t), Options: tpm.KeyOptions{Algorithm: algorithm}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = key.Close() })
	return prover{key, []*x509.Certificate{selfSigned(t, key)}}
}

// counterpart is a server that a proof talks to; with is what it does otherwise than a good one.
func (p prover) counterpart(t *testing.T, with func(*httptest.Server)) (address string, roots *x509.CertPool) {
	t.Helper()
	clients := x509.NewCertPool()
	clients.AddCert(p.chain[0])
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 || r.Method != http.MethodGet || r.URL.Path != "/" {
			t.Errorf("%s %s with certificates %v", r.Method, r.URL, r.TLS.PeerCertificates)
		}
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	with(s)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots = x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.Listener.Addr().String(), roots
}

func TestAProofHereForEveryAlgorithm(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	for _, a := range []tpm.Algorithm{tpm.RSA2048, tpm.ECDSAP256, tpm.ECDSAP384} {
		t.Run(string(a), func(t *testing.T) {
			p := proverOn(t, on, a)
			if err := keystore.ProveHere(nil)(t.Context(), p.key, p.chain); err != nil {
				t.Error(err)
			}
			if got := p.key.TLSVersions(); len(got) != 2 || got[0] != tls.VersionTLS13 {
				t.Errorf("versions %x", got)
			}
		})
	}
}

// An old TPM's key has no use in TLS 1.3, and is not asked for it.
func TestAProofOfAKeyThatCanOnlyDoTLS12(t *testing.T) {
	t.Parallel()
	soft := signertest.SoftKey(t)
	m, on, path := signertest.NewOtherMaker(t, soft)
	m.Sign = longSalt
	key := signertest.Open(t, on, path)
	if got := key.TLSVersions(); len(got) != 1 || got[0] != tls.VersionTLS12 {
		t.Fatalf("versions %x", got)
	}
	p := prover{key, []*x509.Certificate{selfSigned(t, key)}}
	if err := keystore.ProveHere(nil)(t.Context(), key, p.chain); err != nil {
		t.Error(err)
	}
	address, roots := p.counterpart(t, func(*httptest.Server) {})
	if err := keystore.ProveAt(address, keystore.ProveConfig{RootCAs: roots})(t.Context(), key, p.chain); err != nil {
		t.Error(err)
	}
	only13, roots := p.counterpart(t, func(s *httptest.Server) { s.TLS.MinVersion = tls.VersionTLS13 })
	if err := keystore.ProveAt(only13, keystore.ProveConfig{RootCAs: roots})(t.Context(), key, p.chain); err == nil {
		t.Error("it proved to work in TLS 1.3")
	}
}

func TestAProofWithoutOrWithAWrongCertificateFails(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	p, other := proverOn(t, on, tpm.ECDSAP256), proverOn(t, on, tpm.ECDSAP256)
	server := signertest.NewIssuer(t, nil, "server", signertest.Current)
	for name, tt := range map[string]struct {
		chain []*x509.Certificate
		want  string
	}{
		"none":               {nil, keystore.ErrNoCertificate.Error()},
		"of another key":     {other.chain, "public key: certificate has"},
		"of another program": {[]*x509.Certificate{server.Certificate}, "public key"},
		"of a broken chain":  {[]*x509.Certificate{p.chain[0], server.Certificate}, "each must be followed by its issuer"},
		"twice the same one": {[]*x509.Certificate{p.chain[0], p.chain[0]}, "the same once more"},
	} {
		for where, prove := range map[string]keystore.Prove{"here": keystore.ProveHere(nil), "elsewhere": keystore.ProveAt("127.0.0.1:1", keystore.ProveConfig{})} {
			if err := prove(t.Context(), p.key, tt.chain); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %s: %v", name, where, err)
			}
		}
	}
	if err := keystore.ProveHere(nil)(t.Context(), p.key, nil); !errors.Is(err, keystore.ErrNoCertificate) {
		t.Errorf("without a certificate: %v", err)
	}
}

func TestAProofElsewhere(t *testing.T) {
	t.Parallel()
	p := newProver(t, tpm.RSA2048)
	status := func(code int) func(*httptest.Server) {
		return func(s *httptest.Server) {
			s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		}
	}
	version := func(v uint16) func(*httptest.Server) {
		return func(s *httptest.Server) { s.TLS.MinVersion, s.TLS.MaxVersion = v, v }
	}
	nobody := func(s *httptest.Server) { s.TLS.ClientCAs = x509.NewCertPool() }
	for name, tt := range map[string]struct {
		with []func(*httptest.Server)
		want string // in the error; empty: it works
	}{
		"a good server":            {nil, ""},
		"TLS 1.2":                  {[]func(*httptest.Server){version(tls.VersionTLS12)}, ""},
		"TLS 1.3":                  {[]func(*httptest.Server){version(tls.VersionTLS13)}, ""},
		"it wants a token, too":    {[]func(*httptest.Server){status(401)}, ""},
		"it has nothing there":     {[]func(*httptest.Server){status(404)}, ""},
		"it refuses in TLS 1.2":    {[]func(*httptest.Server){nobody, version(tls.VersionTLS12)}, "unknown certificate authority"},
		"it refuses in TLS 1.3":    {[]func(*httptest.Server){nobody, version(tls.VersionTLS13)}, "unknown certificate authority"},
		"it refuses as nginx does": {[]func(*httptest.Server){status(400)}, "answered 400"},
		"it refuses as IIS does":   {[]func(*httptest.Server){status(403)}, "answered 403"},
		"it does not ask":          {[]func(*httptest.Server){func(s *httptest.Server) { s.TLS.ClientAuth = tls.NoClientCert }}, "did not ask"},
		"it does not speak HTTP":   {[]func(*httptest.Server){silent}, "did not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			address, roots := p.counterpart(t, func(s *httptest.Server) {
				for _, w := range tt.with {
					w(s)
				}
			})
			err := keystore.ProveAt(address, keystore.ProveConfig{RootCAs: roots})(t.Context(), p.key, p.chain)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), address)):
				t.Errorf("got %v", err)
			}
		})
	}
}

// silent closes the connection in place of an answer.
func silent(s *httptest.Server) {
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })
}

func TestAProofAtAServerThatCannotBeVerifiedFails(t *testing.T) {
	t.Parallel()
	p := newProver(t, tpm.ECDSAP256)
	address, _ := p.counterpart(t, func(s *httptest.Server) {
		s.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") })
	})
	_, otherRoots := p.counterpart(t, func(s *httptest.Server) {
		own := signertest.NewIssuer(t, nil, "server", signertest.Current)
		s.TLS.Certificates = []tls.Certificate{{Certificate: [][]byte{own.Certificate.Raw}, PrivateKey: own.Key}}
	})
	for name, roots := range map[string]*x509.CertPool{"the system's": nil, "another server's": otherRoots} {
		err := keystore.ProveAt(address, keystore.ProveConfig{RootCAs: roots})(t.Context(), p.key, p.chain)
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
			t.Errorf("%s authorities: %v", name, err)
		}
	}
	for _, address := range []string{"", "localhost", "127.0.0.1:1", "host:port:more"} {
		if err := keystore.ProveAt(address, keystore.ProveConfig{})(t.Context(), p.key, p.chain); err == nil {
			t.Errorf("%q proved something", address)
		}
	}
}

// A server that accepts the connection and then, at any stage, sends nothing more does not keep a
// proof longer than its context.
func TestAProofEndsWithTheContext(t *testing.T) {
	t.Parallel()
	p := newProver(t, tpm.ECDSAP256)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	go func() {
		conn, err := mute.Accept()
		if err != nil {
			return
		}
		_, _ = io.ReadFull(conn, make([]byte, 1)) // the client's hello has begun
		cancel()
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}()
	if err := keystore.ProveAt(mute.Addr().String(), keystore.ProveConfig{})(ctx, p.key, p.chain); !errors.Is(err, context.Canceled) {
		t.Errorf("no handshake: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	address, roots := p.counterpart(t, func(s *httptest.Server) {
		s.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
	})
	if err := keystore.ProveAt(address, keystore.ProveConfig{RootCAs: roots})(ctx, p.key, p.chain); !errors.Is(err, context.Canceled) {
		t.Errorf("no answer: %v", err)
	}
	if err := keystore.ProveHere(nil)(ctx, p.key, p.chain); !errors.Is(err, context.Canceled) {
		t.Errorf("here: %v", err)
	}
}

func TestAProofFailsWithTheTPM(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	p := proverOn(t, tpmtest.Connect(t, proxy.Device()), tpm.ECDSAP256)
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if tpm2.TPMCC(tpmtest.CommandCode(command)) == tpm2.TPMCCSign {
			return tpmtest.Response(uint32(tpm2.TPMRCFailure)), nil
		}
		return forward(command)
	})
	address, roots := p.counterpart(t, func(*httptest.Server) {})
	for name, prove := range map[string]keystore.Prove{"here": keystore.ProveHere(nil), "elsewhere": keystore.ProveAt(address, keystore.ProveConfig{RootCAs: roots})} {
		if err := prove(t.Context(), p.key, p.chain); !errors.Is(err, tpm2.TPMRCFailure) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// longSalt signs as TPMs before revision 1.16 do, with the longest salt that fits.
func longSalt(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, d []byte) ([]byte, error) {
	return signertest.SoftSignature(key, scheme, h, d, 256-h.Size()-2)
}
