package callers_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator"
)

const askThief = "thief"

// thief has another VM with another TPM, and can connect to the victim's Entra.
type thief struct {
	loot

	dir      string
	platform *simulator.Platform
	roots    *x509.CertPool
	own      *tls.Certificate // made by the thief, with the application's name
}

// report is the thief's result.
type report struct {
	Attempts             []outcome // as attempts has them
	AgentToken, PEMToken string    // status line of the resource, asked with the stolen token
}

type outcome struct {
	Token bool // there is a new one, and the resource takes it
	Said  string
}

// aToken is what is said of an attempt that gave one.
const aToken = "a token"

// attempt is a way to make tokens out of what was stolen.
type attempt struct {
	how        string
	pem        bool // with the file of the program that has its key there
	do         func(*thief, context.Context) (string, error)
	now, later string // part of what is said; later: once the stolen token has expired, "" is as now
}

// attempts are all of them. BenchmarkTheft shows them as a table.
func attempts() []attempt {
	const (
		tlsRefusal    = "tls: error decrypting message"
		noCredential  = "AADSTS7000218"
		otherIssuer   = "AADSTS7000277"
		notRegistered = "AADSTS700027:"
		otherAudience = "AADSTS700023"
		otherBinding  = "AADSTS500181"
		outOfTime     = "AADSTS700024"
	)
	return []attempt{
		// What the agent does with the stolen state.
		{"agent with the whole state", false, (*thief).agentWithState, "storage root", ""},
		{"agent without the note of the storage root", false, (*thief).agentWithoutNote, "TPM_RC_INTEGRITY", ""},
		{"agent with a binding key of its own, for the application's key", false, (*thief).agentForKey, "TPM_RC_INTEGRITY", ""},
		{"agent with an identity of its own, for the application that trusts the victim's", false, (*thief).agentForFederation, "AADSTS700211", ""},
		// What the thief sends without the agent.
		{"VM's identity, without a certificate", false, (*thief).noCertificate, noCredential, ""},
		{"VM's certificate over another key", false, (*thief).bindingCertificate, tlsRefusal, ""},
		{"application's certificate over another key", false, (*thief).appCertificate, tlsRefusal, ""},
		{"VM's identity, another certificate", false, (*thief).ownBindingCertificate, otherIssuer, ""},
		{"application, another certificate", false, (*thief).ownAppCertificate, notRegistered, ""},
		{"signed assertion from the wire, another certificate", false, (*thief).signedOverOwn, otherBinding, ""},
		{"signed assertion from the wire, no certificate", false, (*thief).signedOverNone, otherBinding, ""},
		{"signed assertion from the wire, at login", false, (*thief).signedAtLogin, otherAudience, ""},
		{"bound assertion from the wire as jwt-pop, another certificate", false, (*thief).federatedOverOwn, otherBinding, outOfTime},
		{"bound assertion from the wire as jwt-bearer, another certificate", false, (*thief).federatedAsBearer, otherBinding, outOfTime},
		{"bound assertion from the wire as jwt-bearer, at login", false, (*thief).federatedAtLogin, otherBinding, outOfTime},
		// What the other program would do.
		{"MSAL Go with the PEM file", true, (*thief).byMSAL, aToken, ""},
		{"azidentity with the PEM file", true, (*thief).byAzidentity, aToken, ""},
	}
}

// oneThief is the thief's process: it boots a VM in dir, where loot.json is, and prints the report.
func oneThief(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	t := &thief{dir: dir}
	text, err := os.ReadFile(filepath.Join(dir, "loot.json"))
	if err == nil {
		err = json.Unmarshal(text, &t.loot)
	}
	if err != nil {
		return err
	}
	now := func() time.Time { return time.Now().Add(t.After) }
	if t.platform, err = simulator.Start(ctx, simulator.Config{Dir: filepath.Join(dir, "vm"), Now: now}); err != nil {
		return err
	}
	defer t.platform.Close()
	if t.own, err = selfSigned("app", now()); err != nil {
		return err
	}
	if err := t.trust(t.Victim.CAFile); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(t.tryAll(ctx))
}

func (t *thief) trust(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	t.roots = x509.NewCertPool()
	if !t.roots.AppendCertsFromPEM(text) {
		return errors.New(file + " holds no certificate")
	}
	return nil
}

func (t *thief) tryAll(ctx context.Context) report {
	r := report{AgentToken: t.show(ctx, t.loot.AgentToken), PEMToken: t.show(ctx, t.loot.PEMToken)}
	for _, a := range attempts() {
		token, err := a.do(t, ctx)
		o := outcome{Said: fmt.Sprint(err)}
		if err == nil {
			answer := t.show(ctx, token)
			o = outcome{answer == "200 OK", aToken + " to which the resource says " + answer}
		}
		r.Attempts = append(r.Attempts, o)
	}
	return r
}

// show returns what the resource answers to a token.
func (t *thief) show(ctx context.Context, token string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.Victim.Resource+"/secrets", nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := t.client(nil).Do(req)
	if err != nil {
		return err.Error()
	}
	_ = resp.Body.Close()
	return resp.Status
}

// client connects to the victim's Entra by its names in the public cloud, and presents the
// certificate, if there is one.
func (t *thief) client(certificate *tls.Certificate) *http.Client {
	names := map[string]string{mtlsName + ":443": t.Victim.MTLSAuth, loginName + ":443": t.Victim.Login}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: t.roots}
	if certificate != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   cfg,
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if base, ok := names[address]; ok {
				address = strings.TrimPrefix(base, "https://")
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
}

// byMSAL does what the program with the PEM file does.
func (t *thief) byMSAL(ctx context.Context) (string, error) {
	text, err := os.ReadFile(t.PEM)
	if err != nil {
		return "", err
	}
	chain, key, err := confidential.CertFromPEM(text, "")
	if err != nil {
		return "", err
	}
	credential, err := confidential.NewCredFromCert(chain, key)
	if err != nil {
		return "", err
	}
	app, err := confidential.New("https://"+loginName+"/"+t.Victim.TenantID, t.application(certificateApp), credential,
		confidential.WithHTTPClient(t.client(nil)), confidential.WithInstanceDiscovery(false))
	if err != nil {
		return "", err
	}
	result, err := app.AcquireTokenByCredential(ctx, []string{vault + "/.default"})
	return result.AccessToken, err
}

// byAzidentity is byMSAL with the Azure SDK.
func (t *thief) byAzidentity(ctx context.Context) (string, error) {
	text, err := os.ReadFile(t.PEM)
	if err != nil {
		return "", err
	}
	chain, key, err := azidentity.ParseCertificates(text, nil)
	if err != nil {
		return "", err
	}
	credential, err := azidentity.NewClientCertificateCredential(t.Victim.TenantID, t.application(certificateApp), chain, key,
		&azidentity.ClientCertificateCredentialOptions{
			ClientOptions: azcore.ClientOptions{
				Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: "https://" + loginName},
				Transport: t.client(nil),
			},
			DisableInstanceDiscovery: true,
		})
	if err != nil {
		return "", err
	}
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{vault + "/.default"}})
	return token.Token, err
}

// application is the client id of one of the victim's.
func (t *thief) application(name string) string {
	for _, a := range t.Victim.Applications {
		if a.Name == name {
			return a.ClientID
		}
	}
	return ""
}

func (t *thief) agentWithState(ctx context.Context) (string, error) {
	return t.byAgent(ctx, certificateApp)
}

func (t *thief) agentWithoutNote(ctx context.Context) (string, error) {
	return t.byAgent(ctx, certificateApp, "storage-root")
}

func (t *thief) agentForKey(ctx context.Context) (string, error) {
	return t.byAgent(ctx, certificateApp, "storage-root", "keys/binding")
}

func (t *thief) agentForFederation(ctx context.Context) (string, error) {
	return t.byAgent(ctx, federatedApp, "storage-root", "keys/binding")
}

// byAgent runs the agent on the thief's VM with the stolen state, a part of which is removed, and
// asks it for a token.
func (t *thief) byAgent(ctx context.Context, identity string, removed ...string) (string, error) {
	cfg, err := t.config()
	if err != nil {
		return "", err
	}
	for _, name := range removed {
		if err := os.RemoveAll(filepath.Join(cfg.StateDir, name)); err != nil {
			return "", err
		}
	}
	log := new(strings.Builder)
	a, err := runAgent(ctx, cfg, slog.NewTextHandler(log, nil), t.platform.Clock().Now)
	if err != nil {
		return "", err
	}
	token, err := a.client.Token(ctx, client.TokenRequest{Identity: identity, Resource: vault})
	if errStop := a.stop(); err != nil || errStop != nil {
		return "", fmt.Errorf("%w\n%s", errors.Join(err, errStop), log)
	}
	return token.AccessToken.Reveal(), nil
}

// config is that of the thief's VM with the victim's applications and a copy of the stolen state.
func (t *thief) config() (*config.Config, error) {
	cfg, err := config.Load(t.platform.Info().ConfigFile)
	if err != nil {
		return nil, err
	}
	stolen, err := config.Load(t.Victim.ConfigFile)
	if err != nil {
		return nil, err
	}
	for i, id := range stolen.Identities {
		if id.Application == nil {
			continue
		}
		cfg.Identities[i].Application = id.Application
		for j, c := range id.Application.Credentials {
			if c.ManagedIdentity != nil {
				id.Application.Credentials[j].ManagedIdentity.ClientID = t.platform.Info().Identities[1].ClientID
			}
		}
	}
	cfg.CAFile = filepath.Join(t.dir, "ca.pem")
	if err := bundle(cfg.CAFile, nil, t.platform.Info().CAFile, t.Victim.CAFile); err != nil {
		return nil, err
	}
	if cfg.StateDir, err = os.MkdirTemp(t.dir, "state"); err != nil {
		return nil, err
	}
	return cfg, copyState(cfg.StateDir, t.State)
}

// copyState copies the agent's files with the modes that it insists on, which a copy through fs.FS
// loses.
func copyState(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}

func (t *thief) noCertificate(ctx context.Context) (string, error) { return t.asVM(ctx, nil) }

func (t *thief) bindingCertificate(ctx context.Context) (string, error) {
	der, err := t.binding(t.Victim.Identities[0].ClientID)
	if err != nil {
		return "", err
	}
	return t.asVM(ctx, t.over(der))
}

// binding is the stolen binding certificate of the identity with this client id.
func (t *thief) binding(clientID string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(t.State, "binding-*.json"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var record struct {
			ClientID    string `json:"client_id"`
			Certificate []byte `json:"certificate"`
		}
		if err := json.Unmarshal(text, &record); err != nil {
			return nil, err
		}
		if record.ClientID == clientID {
			return record.Certificate, nil
		}
	}
	return nil, errors.New("no binding certificate of " + clientID)
}

func (t *thief) ownBindingCertificate(ctx context.Context) (string, error) { return t.asVM(ctx, t.own) }

func (t *thief) appCertificate(ctx context.Context) (string, error) {
	c, err := certificateIn(filepath.Join(t.State, "keys", "app", "1.cert.pem"))
	if err != nil {
		return "", err
	}
	return t.asApp(ctx, t.over(c.Raw))
}

func (t *thief) ownAppCertificate(ctx context.Context) (string, error) { return t.asApp(ctx, t.own) }

// over is a certificate with a key that does not belong to it.
func (t *thief) over(der []byte) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: t.own.PrivateKey}
}

// asVM asks as the VM's identity.
func (t *thief) asVM(ctx context.Context, certificate *tls.Certificate) (string, error) {
	return t.post(ctx, certificate, mtlsName, url.Values{"client_id": {t.Victim.Identities[0].ClientID}, "token_type": {"bearer"}})
}

// asApp asks as the application that has a certificate.
func (t *thief) asApp(ctx context.Context, certificate *tls.Certificate) (string, error) {
	return t.post(ctx, certificate, mtlsName, url.Values{"client_id": {t.application(certificateApp)}, "token_type": {"mtls_pop"}})
}

func (t *thief) signedOverOwn(ctx context.Context) (string, error) {
	return t.replay(ctx, t.own, mtlsName, certificateApp, t.Signed, "jwt-bearer")
}

func (t *thief) signedOverNone(ctx context.Context) (string, error) {
	return t.replay(ctx, nil, mtlsName, certificateApp, t.Signed, "jwt-bearer")
}

func (t *thief) signedAtLogin(ctx context.Context) (string, error) {
	return t.replay(ctx, nil, loginName, certificateApp, t.Signed, "jwt-bearer")
}

func (t *thief) federatedOverOwn(ctx context.Context) (string, error) {
	return t.replay(ctx, t.own, mtlsName, federatedApp, t.Federated, "jwt-pop")
}

func (t *thief) federatedAsBearer(ctx context.Context) (string, error) {
	return t.replay(ctx, t.own, mtlsName, federatedApp, t.Federated, "jwt-bearer")
}

func (t *thief) federatedAtLogin(ctx context.Context) (string, error) {
	return t.replay(ctx, nil, loginName, federatedApp, t.Federated, "jwt-bearer")
}

// replay sends an assertion that was seen on the wire.
func (t *thief) replay(ctx context.Context, certificate *tls.Certificate, host, app, assertion, kind string) (string, error) {
	return t.post(ctx, certificate, host, url.Values{
		"client_id": {t.application(app)}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:" + kind},
	})
}

// post asks the token endpoint at host. What that says in words is the error.
func (t *thief) post(ctx context.Context, certificate *tls.Certificate, host string, form url.Values) (string, error) {
	form.Set("grant_type", "client_credentials")
	form.Set("scope", vault+"/.default")
	address := "https://" + host + "/" + t.Victim.TenantID + "/oauth2/v2.0/token"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := t.client(certificate).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
		Error string `json:"error_description"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer); err != nil {
		return "", err
	}
	if answer.Error != "" {
		return "", errors.New(answer.Error)
	}
	return answer.Token, nil
}
