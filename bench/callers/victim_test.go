package callers_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/simulator"
)

// victim is a VM with both an agent and a program that has its key in a file.
type victim struct {
	platform *simulator.Platform
	cfg      *config.Config
	loot     loot
}

func newVictim(tb testing.TB) *victim {
	tb.Helper()
	dir := tb.TempDir()
	platform, err := simulator.Start(tb.Context(), simulator.Config{Dir: filepath.Join(dir, "vm"), AccessTokenLife: stolenLife})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = platform.Close() })
	cfg, err := config.Load(platform.Info().ConfigFile)
	if err != nil {
		tb.Fatal(err)
	}
	v := &victim{platform: platform, cfg: cfg}
	v.loot = loot{Victim: platform.Info(), State: cfg.StateDir, PEM: filepath.Join(dir, "app.pem")}
	err = errors.Join(v.makeKey(tb.Context()), v.makePEM())
	if err == nil {
		err = errors.Join(v.useAgent(tb.Context()), v.usePEM(tb.Context()), v.tap(tb.Context(), dir))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// makeKey makes the application's key in the TPM and gets it a certificate that the application
// trusts.
func (v *victim) makeKey(ctx context.Context) error {
	keys, err := keyring.Open(v.cfg, statedir.Options{Now: v.platform.Clock().Now})
	if err != nil {
		return err
	}
	if _, err = keys.Create(ctx, "app", keyring.KeyRequest{}); err == nil {
		err = v.certify(ctx, keys)
	}
	return errors.Join(err, keys.Close())
}

// certify asks for a certificate and puts it beside the key.
func (v *victim) certify(ctx context.Context, keys *keyring.Keyring) error {
	request, err := keys.Request(ctx, "app", keyring.RequestOptions{NameRequest: keyring.NameRequest{Subject: "CN=app"}})
	if err != nil {
		return err
	}
	chain, err := v.platform.Certify(certificateApp, request)
	if err != nil {
		return err
	}
	file := filepath.Join(v.cfg.StateDir, "app.cer")
	if err := os.WriteFile(file, chain, 0o600); err != nil {
		return err
	}
	_, err = keys.Import(ctx, "app", keyring.ImportOptions{File: file})
	return errors.Join(err, os.Remove(file))
}

// makePEM makes another key for the same application, in a file, and uploads its certificate: its
// owner sends assertions only, for which a self-signed one will do.
func (v *victim) makePEM() error {
	c, err := selfSigned("app", v.platform.Clock().Now())
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(v.loot.PEM, text, 0o600); err != nil {
		return err
	}
	leaf, err := certificateIn(v.loot.PEM)
	if err != nil {
		return err
	}
	return v.platform.RegisterCertificate(certificateApp, leaf)
}

// certificateIn reads the first certificate of a PEM file.
func certificateIn(file string) (*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New(file + " holds no PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// selfSigned makes a key and a certificate that is good for a client, and for a server of this
// name.
func selfSigned(name string, now time.Time) (*tls.Certificate, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLife), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// useAgent has the agent obtain a token of each kind of identity, so that its state is complete.
func (v *victim) useAgent(ctx context.Context) error {
	a, err := runAgent(ctx, v.cfg, slog.DiscardHandler, v.platform.Clock().Now)
	if err != nil {
		return err
	}
	for _, identity := range []string{"vm", federatedApp, certificateApp} {
		token, errToken := a.client.Token(ctx, client.TokenRequest{Identity: identity, Resource: vault})
		v.loot.AgentToken, err = token.AccessToken.Reveal(), errors.Join(err, errToken)
	}
	return errors.Join(err, a.stop())
}

func (v *victim) usePEM(ctx context.Context) error {
	t := &thief{loot: v.loot}
	if err := t.trust(v.loot.Victim.CAFile); err != nil {
		return err
	}
	var err error
	v.loot.PEMToken, err = t.byAzidentity(ctx)
	return err
}

// wiretap is a proxy between the agent and Entra whose certificate the agent trusts: it reads the
// requests and forwards none, so that the assertions that it has seen are unused.
type wiretap struct {
	mu    sync.Mutex
	forms []url.Values
}

func (w *wiretap) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err == nil {
		w.mu.Lock()
		w.forms = append(w.forms, r.PostForm)
		w.mu.Unlock()
	}
	rw.WriteHeader(http.StatusServiceUnavailable)
}

// assertion is the last one that was sent for the application.
func (w *wiretap) assertion(clientID string) (found string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, form := range w.forms {
		if form.Get("client_id") == clientID {
			found = form.Get("client_assertion")
		}
	}
	return found
}

// serve starts the endpoint that impersonates Entra's with this certificate, and the proxy that
// leads to it.
func (w *wiretap) serve(certificate *tls.Certificate) (proxy string, stop func()) {
	entra := httptest.NewUnstartedServer(w)
	entra.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*certificate}, ClientAuth: tls.RequestClientCert}
	entra.StartTLS()
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		connect(r.Context(), rw, entra.Listener.Addr().String())
	}))
	return front.URL, func() {
		front.Close()
		entra.Close()
	}
}

// connect answers a CONNECT with a way to address, wherever the client wanted to go.
func connect(ctx context.Context, rw http.ResponseWriter, address string) {
	server, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		rw.WriteHeader(http.StatusBadGateway)
		return
	}
	defer server.Close()
	rw.WriteHeader(http.StatusOK)
	conn, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(server, buffered)
		_ = server.Close()
	}()
	_, _ = io.Copy(conn, server)
	_ = conn.Close()
}

// tap has the agent ask once more for the applications' tokens, through a wiretap.
func (v *victim) tap(ctx context.Context, dir string) error {
	certificate, err := selfSigned(mtlsName, v.platform.Clock().Now())
	if err != nil {
		return err
	}
	w := new(wiretap)
	proxy, stop := w.serve(certificate)
	defer stop()
	cfg, err := v.tapped(proxy, certificate, filepath.Join(dir, "tapped.pem"))
	if err != nil {
		return err
	}
	a, err := runAgent(ctx, cfg, slog.DiscardHandler, v.platform.Clock().Now)
	if err != nil {
		return err
	}
	for _, identity := range []string{certificateApp, federatedApp} {
		if _, errToken := a.client.Token(ctx, client.TokenRequest{Identity: identity, Resource: vault}); errToken == nil {
			err = errors.New("a token came through the wiretap")
		}
	}
	applications := v.loot.Victim.Applications
	v.loot.Federated, v.loot.Signed = w.assertion(applications[0].ClientID), w.assertion(applications[1].ClientID)
	if v.loot.Federated == "" || v.loot.Signed == "" {
		err = errors.New("the wiretap saw no assertions")
	}
	return errors.Join(err, a.stop())
}

// tapped is the agent's configuration with the wiretap on the way to Entra, and with caFile, which
// has its certificate.
func (v *victim) tapped(proxy string, certificate *tls.Certificate, caFile string) (*config.Config, error) {
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	if err := bundle(caFile, own, v.loot.Victim.CAFile); err != nil {
		return nil, err
	}
	cfg, err := config.Load(v.loot.Victim.ConfigFile)
	if err != nil {
		return nil, err
	}
	cfg.Proxy.URL, cfg.CAFile = proxy, caFile
	for _, id := range cfg.Identities {
		if id.Application != nil {
			id.Application.MTLSEndpoint = "https://" + mtlsName
		}
	}
	return cfg, nil
}

// bundle writes a file of certificates: own, and those of the files.
func bundle(path string, own []byte, files ...string) error {
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		own = append(own, text...)
	}
	return os.WriteFile(path, own, 0o600)
}
