package keystore

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/certreq"
)

// ErrNoCertificate means that a key cannot be proven to work, because it has no certificate.
var ErrNoCertificate = errors.New("there is no certificate for it")

// ErrNotAsked means that the server does not ask for a client certificate, so that it cannot show
// that one works.
var ErrNotAsked = errors.New("the server did not ask for a client certificate")

// proofHost is the name of the server of a proof in this process (RFC 6761, 6.4).
const proofHost = "proof.invalid"

// proofTimeout bounds one handshake of a proof, in which the TPM makes one signature.
const proofTimeout = 30 * time.Second

// ProveHere returns a proof by TLS handshakes with a server in this process, one for each version
// of TLS that the key supports. The server demands a client certificate, and trusts the last
// certificate of the chain, whatever it is; whether a server elsewhere trusts it, only [ProveAt]
// shows. Now is nil for time.Now.
func ProveHere(now func() time.Time) Prove {
	if now == nil {
		now = time.Now
	}
	return func(ctx context.Context, key *signer.Key, chain []*x509.Certificate) error {
		if err := provable(key, chain, now()); err != nil {
			return err
		}
		server, err := newProofServer(chain, now)
		if err != nil {
			return err
		}
		for _, version := range key.TLSVersions() {
			if err := server.handshake(ctx, key, chain, version); err != nil {
				return fmt.Errorf("a handshake in this process with %s: %w", tls.VersionName(version), err)
			}
		}
		return nil
	}
}

// provable returns an error if no handshake can succeed.
func provable(key *signer.Key, chain []*x509.Certificate, now time.Time) error {
	if len(chain) == 0 {
		return ErrNoCertificate
	}
	if err := certreq.CheckCertificate(chain, key.Public(), now); err != nil {
		return err
	}
	if len(key.TLSVersions()) == 0 {
		return fmt.Errorf("%w: in any version of TLS", signer.ErrUnsupported)
	}
	return nil
}

// observedKey is a key in one handshake. It keeps what crypto/tls does not report.
type observedKey struct {
	crypto.Signer
	asked bool  // the server asked for a certificate
	err   error // of signing: crypto/tls keeps only its text
}

func (k *observedKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	signature, k.err = k.Signer.Sign(random, digest, opts)
	return signature, k.err
}

// explain returns the error of signing, if that is why a handshake failed with err.
func (k *observedKey) explain(err error) error {
	if err != nil && k.err != nil {
		return k.err
	}
	return err
}

// clientTLS configures a client that presents key and chain to any server that asks for a
// certificate.
func clientTLS(ctx context.Context, key *signer.Key, chain []*x509.Certificate) (*tls.Config, *observedKey) {
	w := &observedKey{Signer: key.WithContext(ctx)}
	raw := make([][]byte, len(chain))
	for i, c := range chain {
		raw[i] = c.Raw
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		MaxVersion: slices.Max(key.TLSVersions()),
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			w.asked = true
			// The authorities that the server names are not compared: the server is to decide.
			return &tls.Certificate{
				Certificate: raw, PrivateKey: w, SupportedSignatureAlgorithms: key.SchemesFor(ctx, info.SignatureSchemes),
			}, nil
		},
	}, w
}

// proofServer is a TLS server in this process.
type proofServer struct {
	config *tls.Config
	roots  *x509.CertPool // for verifying its certificate
}

func newProofServer(chain []*x509.Certificate, now func() time.Time) (*proofServer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: proofHost}, DNSNames: []string{proofHost},
		NotBefore: now().Add(-time.Hour), NotAfter: now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	own, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	s := &proofServer{roots: x509.NewCertPool()}
	s.roots.AddCert(own)
	clients := x509.NewCertPool()
	clients.AddCert(chain[len(chain)-1])
	s.config = &tls.Config{
		MinVersion: tls.VersionTLS12, Time: now,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: clients,
	}
	return s, nil
}

// handshake makes one handshake over a pipe. The client reads a byte from the server after it: in
// TLS 1.3 the client is done before the server has seen its certificate (RFC 8446, 2).
func (s *proofServer) handshake(ctx context.Context, key *signer.Key, chain []*x509.Certificate, version uint16) error {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(far, s.config)
		err := conn.HandshakeContext(ctx)
		if err == nil {
			_, err = conn.Write([]byte{0})
		}
		served <- errors.Join(err, far.Close())
	}()
	config, w := clientTLS(ctx, key, chain)
	config.ServerName, config.RootCAs, config.Time = proofHost, s.roots, s.config.Time
	config.MinVersion, config.MaxVersion = version, version
	conn := tls.Client(near, config)
	err := conn.HandshakeContext(ctx)
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	_ = near.Close() // an error does not matter: the server sees the end
	serverErr := <-served
	if err == nil {
		return serverErr
	}
	return fmt.Errorf("%w (the server: %v)", w.explain(err), serverErr)
}

// ProveConfig configures [ProveAt].
type ProveConfig struct {
	RootCAs *x509.CertPool   // for verifying the server; nil: those of the system
	Now     func() time.Time // nil: time.Now
}

// ProveAt returns a proof by a handshake with the server at an address, HOST:PORT. The server is
// verified, must ask for a client certificate, and must answer an HTTP request: in TLS 1.3 a
// refusal only arrives with the first answer, and some servers accept any certificate in the
// handshake and refuse it with status 400 or 403.
func ProveAt(address string, cfg ProveConfig) Prove {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return func(ctx context.Context, key *signer.Key, chain []*x509.Certificate) error {
		if err := provable(key, chain, cfg.Now()); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, proofTimeout)
		defer cancel()
		if err := cfg.prove(ctx, address, key, chain); err != nil {
			return fmt.Errorf("a handshake with %s: %w", address, err)
		}
		return nil
	}
}

func (cfg ProveConfig) prove(ctx context.Context, address string, key *signer.Key, chain []*x509.Certificate) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	config, w := clientTLS(ctx, key, chain)
	config.ServerName, config.RootCAs, config.Time = host, cfg.RootCAs, cfg.Now
	dialer := tls.Dialer{Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return w.explain(err)
	}
	defer conn.Close()
	if !w.asked {
		return ErrNotAsked
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // on error it is broken already
	defer stop()
	if err := request(ctx, conn, address); err != nil {
		return errors.Join(err, ctx.Err())
	}
	return nil
}

// request sends a request and checks the status of the answer.
func request(ctx context.Context, conn net.Conn, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "https", Host: address, Path: "/"}).String(), nil)
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("sending a request after it: %w", err)
	}
	rsp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswerBytes)), req)
	if err != nil {
		return fmt.Errorf("the server did not answer after it, as servers do that refuse the certificate: %w", err)
	}
	defer rsp.Body.Close()
	switch rsp.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden:
		return fmt.Errorf("the server answered %d, as servers do that refuse the certificate", rsp.StatusCode)
	}
	return nil
}

// maxAnswerBytes bounds how much of an answer is read; only its first line matters.
const maxAnswerBytes = 64 << 10
