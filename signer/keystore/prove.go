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

// ErrNoCertificate is in the error for a key that is to prove that it works and has no certificate.
var ErrNoCertificate = errors.New("there is no certificate for it")

// ErrNotAsked is in the error for a server that does not ask for a client certificate: it cannot show that one works.
var ErrNotAsked = errors.New("the server did not ask for a client certificate")

// proofHost is the name of the server that exists for a proof in this process (RFC 6761, 6.4).
const proofHost = "proof.invalid"

// proofTimeout bounds one proof; the TPM makes one signature in it.
const proofTimeout = 30 * time.Second

// ProveHere returns a proof by TLS handshakes with a server in this process, one for each version of TLS that the key can. The
// server demands a client certificate and believes the last certificate of the chain, whatever it is: that a server elsewhere
// knows it, [ProveAt] shows. Now is nil for time.Now.
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

// provable refuses what no handshake can show to work.
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

// witness is a key in one handshake. It remembers what crypto/tls does not tell.
type witness struct {
	crypto.Signer
	asked bool  // the server asked for a certificate
	err   error // of signing: crypto/tls keeps its text only
}

func (w *witness) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	signature, w.err = w.Signer.Sign(random, digest, opts)
	return signature, w.err
}

// explain returns the better error for that of a handshake.
func (w *witness) explain(err error) error {
	if err != nil && w.err != nil {
		return w.err
	}
	return err
}

// clientTLS presents key and chain to whatever server asks.
func clientTLS(ctx context.Context, key *signer.Key, chain []*x509.Certificate) (*tls.Config, *witness) {
	w := &witness{Signer: key.WithContext(ctx)}
	raw := make([][]byte, len(chain))
	for i, c := range chain {
		raw[i] = c.Raw
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		MaxVersion: slices.Max(key.TLSVersions()),
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			w.asked = true
			// Authorities that the server names are not compared: it is the server that is to say no.
			return &tls.Certificate{
				Certificate: raw, PrivateKey: w, SupportedSignatureAlgorithms: key.SignatureSchemes(),
			}, nil
		},
	}, w
}

// proofServer is a TLS server in this process.
type proofServer struct {
	config *tls.Config
	roots  *x509.CertPool // that its own certificate is verified with
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

// handshake makes one handshake over a pipe. The client hears from the server after it: in TLS 1.3 the client is done before the
// server has seen its certificate (RFC 8446, 2).
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
	_ = near.Close() // whatever it says, the server has seen the end
	serverErr := <-served
	if err == nil {
		return serverErr
	}
	return fmt.Errorf("%w (the server: %v)", w.explain(err), serverErr)
}

// ProveConfig says how a server elsewhere is met.
type ProveConfig struct {
	RootCAs *x509.CertPool   // that verify the server; nil: the system's
	Now     func() time.Time // nil: time.Now
}

// ProveAt returns a proof by a handshake with the server at an address, HOST:PORT. The server is verified, must demand a client
// certificate, and must answer a request of HTTP: in TLS 1.3 a refusal comes with the first answer only, and there are servers that
// take any certificate and refuse with the status 400 or 403.
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
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a broken connection ends by itself
	defer stop()
	if err := hear(ctx, conn, address); err != nil {
		return errors.Join(err, ctx.Err())
	}
	return nil
}

// hear sends a request and judges the status of the answer.
func hear(ctx context.Context, conn net.Conn, address string) error {
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
		return fmt.Errorf("the server did not answer after it, as one does that refuses the certificate: %w", err)
	}
	defer rsp.Body.Close()
	switch rsp.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden:
		return fmt.Errorf("the server answered %d, as one does that refuses the certificate", rsp.StatusCode)
	}
	return nil
}

// maxAnswerBytes bounds what is read of an answer, of which the first line matters.
const maxAnswerBytes = 64 << 10
