package clients_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/pki"
)

// The Azure SDK for .NET comes as a program of Microsoft's that has it inside, the Azure MCP
// server, since there is no other way to run .NET where nothing but packages can be had. It is
// asked to list the secrets of a vault, and for that it needs a token.

// vaultName is a vault that only this process knows.
const (
	vaultName = "keyagent-test"
	vaultHost = vaultName + ".vault.azure.net:443"
)

// service is an API of Azure's that receives a program's token. It has nothing in it.
type service struct {
	tenant      string   // of the tokens that it wants
	environment []string // by which a program finds it
	roots       string   // a file of certificates that its own is trusted by
	tokens      chan string
	empty       string // what it answers with a token
	mediaType   string // of that
}

// newKeyVault is the vault, without secrets.
func (w *world) newKeyVault(t *testing.T) *service {
	t.Helper()
	return w.newService(t, vaultHost, "application/json", `{"value":[]}`)
}

// newService serves an API behind a proxy, which leads to it and to the login endpoint, and nowhere
// else. A program may try the hosts in vain, and no others.
func (w *world) newService(t *testing.T, host, mediaType, empty string, inVain ...string) *service {
	t.Helper()
	v := &service{tenant: w.info.TenantID, tokens: make(chan string, 16), mediaType: mediaType, empty: empty}
	authority, err := pki.NewServerAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Certificate(time.Now(), strings.TrimSuffix(host, ":443"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(v)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	login := strings.TrimPrefix(w.info.Login, "https://")
	ways := map[string]string{host: server.Listener.Addr().String(), loginHost: login, regionalHost: login, "login.microsoft.com:443": login}
	for _, name := range inVain {
		ways[name] = ""
	}
	proxy := httptest.NewServer(onlyTo(t, ways))
	t.Cleanup(proxy.Close)
	platform, err := os.ReadFile(w.info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(folder(t), "roots.pem")
	if err := os.WriteFile(roots, append(pki.EncodePEM(authority.Root), platform...), 0o644); err != nil { // #nosec G306 -- certificates
		t.Fatal(err)
	}
	v.roots = roots
	v.environment = []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + roots, "SSL_CERT_DIR=" + folder(t)}
	return v
}

// shown is the token of the first request that had one, if any had.
func (v *service) shown() string {
	select {
	case token := <-v.tokens:
		return token
	default:
		return ""
	}
}

// ServeHTTP names the authority whose tokens it wants, as Key Vault does.
func (v *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/`+v.tenant+`", resource="`+vault+`"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	select {
	case v.tokens <- token:
	default: // it asks very often, and has been seen
	}
	w.Header().Set("Content-Type", v.mediaType)
	_, _ = io.WriteString(w, v.empty) // fails if the client has hung up
}

// onlyTo is a proxy that connects to these targets only: addresses by host:port, "" for none.
func onlyTo(t *testing.T, ways map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		address, known := ways[r.Host]
		if r.Method != http.MethodConnect || !known {
			t.Errorf("the program wanted to talk to %s", r.Host)
		}
		if r.Method != http.MethodConnect || address == "" {
			http.Error(w, "no way from here", http.StatusForbidden)
			return
		}
		out, err := new(net.Dialer).DialContext(r.Context(), "tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(errors.Join(err, out.Close()))
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n") // its absence is seen at the other end
		join(in, out)
	}
}

// patience ends a run that hangs. It is far more than a run takes, so it says nothing about speed.
const patience = 2 * time.Minute

// outcome is what the program prints.
type outcome struct {
	Status  int
	Message string
	Results struct{ Type string }
}

// managedFrom is the environment of a program that asks for a managed identity, at this place.
func managedFrom(host, clientID string) []string {
	return []string{"AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential", "AZURE_POD_IDENTITY_AUTHORITY_HOST=" + host, "AZURE_CLIENT_ID=" + clientID}
}

// listSecrets runs the program and returns the token that the vault was shown, if it was shown any.
// credential is the environment that names the program's credential.
func (w *world) listSecrets(t *testing.T, credential []string) (outcome, string) {
	t.Helper()
	return w.listSecretsAs(t, credential, func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, args[0], args[1:]...)
	})
}

// listSecretsAs does so with a command that starts the program.
func (w *world) listSecretsAs(t *testing.T, credential []string, start func(context.Context, ...string) *exec.Cmd) (outcome, string) {
	t.Helper()
	program := reached(t, filepath.Join(packages(t, "dotnet"), "node_modules/@azure/mcp-linux-x64/dist/azmcp"))
	v := w.newKeyVault(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := start(ctx, program, "keyvault", "secret", "get", "--vault", vaultName, "--subscription", uuid.NewString())
	cmd.Env = append(v.environment, "HOME="+folder(t), "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1", // there may be no ICU
		"AZURE_MCP_COLLECT_TELEMETRY=false")
	cmd.Env = append(cmd.Env, credential...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	var out outcome
	_, last, _ := strings.Cut("\n"+string(text), "\n{")                                           // after its log
	if parseErr := json.NewDecoder(strings.NewReader("{" + last)).Decode(&out); parseErr != nil { // and more of its log may follow
		t.Fatalf("%v, %v: %s%s", err, parseErr, text, stderr.Bytes())
	}
	return out, v.shown()
}

// The library first probes IMDS, with a request without the header that IMDS demands.
const withProbe = 2

func TestAProgramOnDotNETGetsATokenWhereItsLibraryLooksForIMDS(t *testing.T) {
	w := newWorld(t)
	vm, user, app := w.info.Identities[0], w.info.Identities[1].ClientID, w.application(federatedApp).ClientID
	service, agent := w.imdsPlace(), w.agentPlace(func(*config.Config) {})
	for name, c := range map[string]struct {
		at         place
		asks, want string
	}{
		"IMDS, system-assigned":         {service, "", vm.ClientID},
		"IMDS, by client id":            {service, user, user},
		"the agent, a managed identity": {agent, user, user},
		"the agent, an application":     {agent, app, app},
	} {
		t.Run(name, func(t *testing.T) { w.showsVault(t, c.at, c.asks, c.want) })
	}
}

func TestAProgramOnDotNETNeedNotNameItsOnlyIdentity(t *testing.T) {
	w := newWorld(t)
	vm := w.info.Identities[0]
	w.showsVault(t, w.agentPlace(func(c *config.Config) { c.Rules[0].Identities = []string{vm.Name} }), "", vm.ClientID)
}

// showsVault checks that the vault is shown a token that is good for it.
func (w *world) showsVault(t *testing.T, at place, clientID, want string) {
	t.Helper()
	before := at.asked()
	out, token := w.listSecrets(t, managedFrom(at.host, clientID))
	if out.Status != http.StatusOK || token == "" {
		t.Fatalf("the program says %+v; a token for the vault: %t", out, token != "")
	}
	if n := at.asked() - before; n != withProbe {
		t.Errorf("the library asked %d times", n)
	}
	if caller := w.caller(t, token); caller.ClientID != want || caller.Bound {
		t.Errorf("the resource saw %+v, want %s", caller, want)
	}
	if says := claimsOf(t, token); says.AppID != want || says.Audience != vault {
		t.Errorf("the token says %+v, want %s for %s", says, want, vault)
	}
}

func TestARefusalArrivesInTheErrorOfAProgramOnDotNET(t *testing.T) {
	w := newWorld(t)
	for name, at := range map[string]place{"IMDS": w.imdsPlace(), "the agent": w.agentPlace(func(*config.Config) {})} {
		t.Run(name, func(t *testing.T) {
			before := at.asked()
			out, token := w.listSecrets(t, managedFrom(at.host, uuid.NewString()))
			if token != "" || out.Status != http.StatusUnauthorized || out.Results.Type != "CredentialUnavailableException" ||
				!strings.Contains(out.Message, "identity_not_found") || !strings.Contains(out.Message, "has not been assigned") {
				t.Errorf("a token for the vault: %t; the program says %+v", token != "", out)
			}
			if n := at.asked() - before; n != withProbe {
				t.Errorf("the library asked %d times: it took a refusal for a temporary failure", n)
			}
		})
	}
}

// environmentOf is the environment that makes a case of a program's credential. Its files are the
// test's.
func (q request) environmentOf(t *testing.T) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credential.pem")
	env := []string{"AZURE_TENANT_ID=" + q.Tenant, "AZURE_CLIENT_ID=" + q.ClientID}
	content := q.Assertion
	switch q.Kind {
	case byAssertionFile:
		env = append(env, "AZURE_TOKEN_CREDENTIALS=WorkloadIdentityCredential", "AZURE_FEDERATED_TOKEN_FILE="+file)
	case byCertificate:
		env = append(env, "AZURE_TOKEN_CREDENTIALS=EnvironmentCredential", "AZURE_CLIENT_CERTIFICATE_PATH="+file)
		leaf, _ := pem.Decode([]byte(q.Certificate)) // it does not read a file with several
		content = string(pem.EncodeToMemory(leaf)) + q.Key
	default:
		t.Fatalf("the program has no credential %s", q.Kind)
	}
	if q.X5C {
		env = append(env, "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN=true")
	}
	if q.Region != "" {
		env = append(env, "AZURE_REGIONAL_AUTHORITY_NAME="+q.Region)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return env
}

// dotNETCases are those of the suite that the program can be told of by its environment, without
// those in which nothing but the simulated service makes a difference: each takes seconds.
func dotNETCases() []string {
	return []string{
		"certificate", "x5c of an uploaded certificate", "x5c of a certificate trusted by subject and issuer", "a trusted certificate without x5c",
		"region", "region with x5c", "region, an assertion", "federated, the VM's identity", "federated, another issuer",
		"refused, another certificate", "refused, an expired certificate", "refused, an unknown app", "refused, another identity's token",
	}
}

// It is MSAL.NET that signs.
func TestTheSuiteOnDotNET(t *testing.T) {
	packages(t, "dotnet")
	w := newWorld(t)
	for _, c := range w.suite(t, library{name: ".NET", scope: func(resource string) string { return resource }}) {
		if !slices.Contains(dotNETCases(), c.name) {
			continue
		}
		if c.Kind == byAssertion {
			c.Kind = byAssertionFile
		}
		t.Run(c.name, func(t *testing.T) {
			out, token := w.listSecrets(t, c.environmentOf(t))
			if c.want == "" { // the program does not repeat all that Entra says
				if said := w.last(t, entra.OpLogin).Error; token != "" || out.Status != http.StatusUnauthorized || !strings.Contains(said, c.refusal) {
					t.Errorf("a token for the vault: %t; Entra says %s; the program says %+v, want %s", token != "", said, out, c.refusal)
				}
				return
			}
			if out.Status != http.StatusOK || token == "" {
				t.Fatalf("the program says %+v; a token for the vault: %t", out, token != "")
			}
			w.checkToken(t, c, token)
			if e := w.last(t, entra.OpLogin); c.saw != nil && !c.saw(e) {
				t.Errorf("Entra saw %+v", e)
			}
		})
	}
}
