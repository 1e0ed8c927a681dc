package callers_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
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
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/daemon"
	"github.com/keyagent/keyagent/simulator"
)

const (
	// MSAL has no clock but the real one, and its assertions live ten minutes. Within these the stolen token must have ended, for
	// which the resource allows clocks that differ by a minute.
	stolenLife = 5 * time.Minute
	afterwards = stolenLife + time.Minute + 15*time.Second

	certificateApp = "app-cert"
	federatedApp   = "app-fic" // it trusts the VM's user-assigned identity
	vault          = "https://vault.azure.net"
)

// The names of the token endpoints in the public cloud, under which the thief and a wiretap know those of the platform.
const (
	mtlsName  = "mtlsauth.microsoft.com"
	loginName = "login.microsoftonline.com"
)

// loot is what the thief takes away: everything but what is in the TPM. As JSON it is his file loot.json.
type loot struct {
	Victim simulator.Info
	State  string // the agent's state directory
	PEM    string // the file with certificate and key that the other program has

	AgentToken string // from the memory of a program that asked the agent
	PEMToken   string // from that of the one with the file

	Signed    string // an application's assertion that the agent signed, seen on its way to Entra, where it never arrived
	Federated string // the same of a token that stands for an application

	After time.Duration // how much later it is on the victim's platform
}

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

// makeKey makes the application's key in the TPM and registers its certificate.
func (v *victim) makeKey(ctx context.Context) error {
	keys, err := daemon.OpenKeyring(ctx, v.cfg, daemon.Options{Now: v.platform.Clock().Now})
	if err != nil {
		return err
	}
	if _, err = keys.Create(ctx, "app", daemon.KeyRequest{}); err == nil {
		_, err = keys.SelfSign(ctx, "app", daemon.SelfSignOptions{NameRequest: daemon.NameRequest{Subject: "CN=app"}})
	}
	if err := errors.Join(err, keys.Close()); err != nil {
		return err
	}
	return v.register(filepath.Join(v.cfg.StateDir, "keys", "app", "1.cert.pem"))
}

// makePEM makes another key for the same application, in a file, and registers its certificate.
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
	return v.register(v.loot.PEM)
}

func (v *victim) register(file string) error {
	leaf, err := certificateIn(file)
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

// selfSigned makes a key and a certificate that is good for a client, and for a server of this name.
func selfSigned(name string, now time.Time) (*tls.Certificate, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
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

// wiretap is a proxy between the agent and Entra whose certificate the agent trusts: it reads along, and nothing gets through.
// Assertions that it has seen are as good as new.
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

// serve starts the endpoint that impersonates Entra's with this certificate, and the proxy that leads to it.
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

// tapped is the agent's configuration with the wiretap on the way to Entra, and with caFile, which has its certificate.
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

// robbed has the thief try everything on another VM, which is another process, so much later.
func (v *victim) robbed(tb testing.TB, after time.Duration) report {
	tb.Helper()
	if err := v.platform.Clock().Advance(after - v.loot.After); err != nil {
		tb.Fatal(err)
	}
	v.loot.After = after
	dir := tb.TempDir()
	text, err := json.Marshal(v.loot)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "loot.json"), text, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	p := exec.CommandContext(tb.Context(), program)
	p.Env = append(os.Environ(), envAsk+"="+askThief, envAt+"="+dir)
	p.Stderr = new(strings.Builder)
	out, err := p.Output()
	if err != nil {
		tb.Fatalf("%v: %s", err, p.Stderr)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		tb.Fatal(err)
	}
	return r
}

// check compares what came of each attempt with what is expected of it.
func (r report) check(tb testing.TB, expired bool) {
	tb.Helper()
	if len(r.Attempts) != len(attempts()) {
		tb.Fatalf("%d attempts", len(r.Attempts))
	}
	for i, a := range attempts() {
		want, got := a.now, r.Attempts[i]
		if expired && a.later != "" {
			want = a.later
		}
		if got.Token != (want == aToken) || !strings.Contains(got.Said, want) {
			tb.Errorf("%s, expired %v: a token: %v: %s, want %s", a.how, expired, got.Token, got.Said, want)
		}
	}
	for name, answer := range map[string]string{"the agent's": r.AgentToken, "the other program's": r.PEMToken} {
		if want := map[bool]string{false: "200 OK", true: "401 Unauthorized"}[expired]; answer != want {
			tb.Errorf("with %s stolen token, expired %v, the resource answered %s, want %s", name, expired, answer, want)
		}
	}
}

// tokens counts the kinds of replay that give a new token.
func (r report) tokens() (ours, theirs int) {
	for i, a := range attempts() {
		switch {
		case !r.Attempts[i].Token:
		case a.pem:
			theirs++
		default:
			ours++
		}
	}
	return ours, theirs
}

func TestTheftOfAllFilesAndMemoryGivesNoNewToken(t *testing.T) {
	v := newVictim(t)
	for _, after := range []time.Duration{0, afterwards} {
		r := v.robbed(t, after)
		r.check(t, after > 0)
		if ours, theirs := r.tokens(); ours != 0 || theirs == 0 {
			t.Errorf("after %v, %d kinds of replay give a token of the agent's, and %d one of the PEM key's", after, ours, theirs)
		}
	}
}

// BenchmarkTheft counts in how many ways somebody who took all files and the memory away, but for what is in the TPM, gets new
// tokens on a VM of his own: right after, and when the stolen token has expired. The stolen token itself is good until then, the
// agent's as well as the other's. This is what he tries, and what comes of it:
//
//	with what he took from the agent
//	the agent, with its whole state                            does not start: not the storage root that it knows
//	the agent, without its note of the storage root            does not start: TPM_RC_INTEGRITY of the binding key
//	the agent, with a binding key of its own, for app-cert     TPM_RC_INTEGRITY of the application's key
//	the agent, with his own VM's identity, for app-fic         AADSTS700211, which trusts another issuer's
//	the VM's identity, without a certificate                   AADSTS7000218
//	the VM's or the application's certificate, his own key     TLS alert decrypt_error
//	the VM's identity, a certificate that he made              AADSTS7000277
//	the application, a certificate that he made                AADSTS700027
//	its signed assertion, over his own mutual TLS or none      AADSTS500181
//	its signed assertion, at login                             AADSTS700023, made for another endpoint
//	a bound assertion, as jwt-pop or jwt-bearer, or at login   AADSTS500181, later AADSTS700024
//
//	with what he took from a program that has its key in a PEM file
//	MSAL Go                                                    a token, as long as the certificate is valid
//	azidentity, ClientCertificateCredential                    a token, as long as the certificate is valid
//
// The assertions were read by a wiretap that held them back from Entra, so that none has been used.
func BenchmarkTheft(b *testing.B) {
	for b.Loop() {
		v := newVictim(b)
		for _, moment := range []struct {
			unit  string
			after time.Duration
		}{{"kinds", 0}, {"expired-kinds", afterwards}} {
			r := v.robbed(b, moment.after)
			r.check(b, moment.after > 0)
			ours, theirs := r.tokens()
			b.ReportMetric(float64(ours), "ours-"+moment.unit)
			b.ReportMetric(float64(theirs), "reference-"+moment.unit)
		}
		if err := v.platform.Close(); err != nil { // one platform at a time
			b.Fatal(err)
		}
	}
}
