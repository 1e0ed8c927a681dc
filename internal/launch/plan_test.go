package launch_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/launch"
)

const (
	secretText = "s3cret.of-the_program"
	tokenURL   = "http://127.0.0.1:840/msi/token"
	imdsURL    = "http://127.0.0.1:841"
	clientID   = "c0ffee00-0000-4000-8000-0000000000aa"
)

func endpoint() wire.Endpoint {
	return wire.Endpoint{Identity: "vm", Secret: wire.NewSecret(secretText), AppService: tokenURL, IMDS: imdsURL, Lifetime: wire.LifetimeProcess}
}

func plan(t *testing.T, req launch.Request) launch.Environment {
	t.Helper()
	env, err := launch.Plan(req)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestWhatEachFamilyNeeds(t *testing.T) {
	var (
		appService = []string{"IDENTITY_ENDPOINT=" + tokenURL, "IDENTITY_HEADER=" + secretText}
		older      = []string{"MSI_ENDPOINT=" + tokenURL, "MSI_SECRET=" + secretText}
		host       = []string{"AZURE_POD_IDENTITY_AUTHORITY_HOST=" + imdsURL}
		site       = []string{"APPSETTING_WEBSITE_SITE_NAME=keyagent"}
		chain      = []string{"AZURE_TOKEN_CREDENTIALS=prod"}
		proxies    = []string{"NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1"}
	)
	sdk := slices.Concat(appService, host, chain, proxies)
	for family, want := range map[launch.Family][]string{
		launch.Go:         slices.Concat(appService, chain, proxies),
		launch.DotNet:     sdk,
		launch.Python:     sdk,
		launch.JavaScript: sdk,
		launch.Java:       sdk,
		launch.AzureCLI:   slices.Concat(appService, older, site, proxies),
		launch.ADAL:       slices.Concat(older, proxies),
		launch.All:        slices.Concat(appService, older, host, site, chain, proxies),
		"":                slices.Concat(appService, older, host, site, chain, proxies),
	} {
		t.Run(string(family), func(t *testing.T) {
			req := launch.Request{Endpoint: endpoint()}
			if family != "" {
				req.Families = []launch.Family{family}
			}
			if diff := cmp.Diff(want, plan(t, req).Apply(nil)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
	both := plan(t, launch.Request{Endpoint: endpoint(), Families: []launch.Family{launch.ADAL, launch.Go}}).Apply(nil)
	if diff := cmp.Diff(slices.Concat(appService, older, chain, proxies), both); diff != "" {
		t.Errorf("go and adal: want -, got +:\n%s", diff)
	}
}

func TestWithoutAnIMDSListenerNoProgramIsSentToOne(t *testing.T) {
	e := endpoint()
	e.IMDS = ""
	got := plan(t, launch.Request{Endpoint: e}).Apply([]string{"AZURE_POD_IDENTITY_AUTHORITY_HOST=http://192.0.2.1"})
	if found := matching(got, "AZURE_POD"); len(found) > 0 {
		t.Errorf("got %q", found)
	}
}

func TestOtherSourcesOfTokensAreTakenOut(t *testing.T) {
	inherited := []string{
		"PATH=/bin", "IDENTITY_SERVER_THUMBPRINT=abc", "IMDS_ENDPOINT=http://192.0.2.1", "MSI_ENDPOINT=http://192.0.2.1", "MSI_SECRET=old",
		"IDENTITY_ENDPOINT=http://192.0.2.1", "IDENTITY_HEADER=old", "APPSETTING_WEBSITE_SITE_NAME=web", "IDENTITY_ENDPOINT=http://192.0.2.2", "odd",
	}
	env := plan(t, launch.Request{Endpoint: endpoint(), Families: []launch.Family{launch.Go}, Environ: inherited})
	want := []string{
		"PATH=/bin", "odd", "IDENTITY_ENDPOINT=" + tokenURL, "IDENTITY_HEADER=" + secretText,
		"AZURE_TOKEN_CREDENTIALS=prod", "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1",
	}
	if diff := cmp.Diff(want, env.Apply(inherited)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	for _, name := range []string{"IDENTITY_SERVER_THUMBPRINT", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET"} {
		if !slices.ContainsFunc(env.Notes, func(n launch.Note) bool { return strings.HasPrefix(string(n), name+" leads") }) {
			t.Errorf("nobody is told of %s: %q", name, env.Notes)
		}
	}
	for _, name := range launch.Foreign([]launch.Family{launch.Go}) {
		if !slices.Contains(env.Unset, name) && name != "AZURE_POD_IDENTITY_AUTHORITY_HOST" {
			t.Errorf("%s is foreign, and left", name)
		}
	}
}

func TestProxiesDoNotGetTheSecret(t *testing.T) {
	for _, tt := range []struct {
		name    string
		environ []string
		imds    string
		want    string
	}{
		{"nothing is there", nil, imdsURL, "127.0.0.1"},
		{"both are there", []string{"NO_PROXY=a.example,b.example", "no_proxy=b.example , .c.example"}, imdsURL, "a.example,b.example,.c.example,127.0.0.1"},
		{"it is there already", []string{"NO_PROXY=127.0.0.1,a.example"}, imdsURL, "127.0.0.1,a.example"},
		{"what looks like it is not", []string{"NO_PROXY=127.0.0.10"}, imdsURL, "127.0.0.10,127.0.0.1"},
		{"everything is kept from proxies", []string{"no_proxy=*"}, imdsURL, "*"},
		{"everything, said in one of them", []string{"no_proxy=a.example", "NO_PROXY=*"}, imdsURL, "*"},
		{"an empty one", []string{"NO_PROXY="}, imdsURL, "127.0.0.1"},
		{"another address", nil, "http://[::1]:841", "127.0.0.1,::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := endpoint()
			e.IMDS = tt.imds
			env := plan(t, launch.Request{Endpoint: e, Environ: tt.environ})
			got := matching(env.Apply(tt.environ), "NO_PROXY=", "no_proxy=")
			if diff := cmp.Diff([]string{"NO_PROXY=" + tt.want, "no_proxy=" + tt.want}, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestProgramsThatCallTheAgentThemselvesFindIt(t *testing.T) {
	env := plan(t, launch.Request{Endpoint: endpoint(), Socket: "/run/other.sock"})
	if got := matching(env.Apply([]string{"KEYAGENT_SOCKET=/x"}), "KEYAGENT_SOCKET="); len(got) != 1 || got[0] != "KEYAGENT_SOCKET=/run/other.sock" {
		t.Errorf("got %q", got)
	}
}

func TestWhatAnSDKWouldDoDifferently(t *testing.T) {
	environment := []string{"AZURE_TENANT_ID=contoso.example", "AZURE_CLIENT_ID=" + clientID}
	for _, tt := range []struct {
		name     string
		environ  []string
		families []launch.Family
		known    string // client id
		want     string // part of the only note; empty: none
	}{
		{"nothing is set", []string{"PATH=/bin"}, nil, "", ""},
		{"a secret without a tenant", []string{"AZURE_CLIENT_ID=" + clientID, "AZURE_CLIENT_SECRET=x"}, nil, clientID, ""},
		{"a secret", append(environment, "AZURE_CLIENT_SECRET=x"), nil, clientID, "AZURE_CLIENT_SECRET is set: DefaultAzureCredential takes EnvironmentCredential first"},
		{"a certificate", append(environment, "AZURE_CLIENT_CERTIFICATE_PATH=/x"), nil, clientID, "AZURE_CLIENT_CERTIFICATE_PATH is set"},
		{"a password", append(environment, "AZURE_USERNAME=u", "AZURE_PASSWORD=x"), nil, clientID, "AZURE_PASSWORD is set"},
		{"a projected token", append(environment, "AZURE_FEDERATED_TOKEN_FILE=/x"), nil, clientID, "AZURE_FEDERATED_TOKEN_FILE is set: DefaultAzureCredential takes WorkloadIdentityCredential first"},
		{"a secret, passed over", append(environment, "AZURE_CLIENT_SECRET=x", "AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential"), nil, clientID, ""},
		{"developers' tools", []string{"AZURE_TOKEN_CREDENTIALS=Dev"}, nil, "", "AZURE_TOKEN_CREDENTIALS=Dev: with it DefaultAzureCredential asks developers' tools only"},
		{"another credential", []string{"AZURE_TOKEN_CREDENTIALS=AzureCliCredential", "AZURE_CLIENT_ID=x"}, nil, "", "AzureCliCredential: with it DefaultAzureCredential asks nothing else"},
		{"what is none", []string{"AZURE_TOKEN_CREDENTIALS=ManagedIdentity"}, nil, "", "or fails"},
		{"deployed", []string{"AZURE_TOKEN_CREDENTIALS=PROD"}, nil, "", ""},
		{"the identity's own client id", []string{"AZURE_CLIENT_ID=" + strings.ToUpper(clientID)}, nil, clientID, ""},
		{"that of another", []string{"AZURE_CLIENT_ID=dead"}, nil, clientID, `AZURE_CLIENT_ID=dead: DefaultAzureCredential asks for the identity with this client id, not for "vm", whose client id is ` + clientID},
		{"that of another, pinned", []string{"AZURE_CLIENT_ID=dead", "AZURE_TOKEN_CREDENTIALS=managedidentitycredential"}, nil, clientID, "AZURE_CLIENT_ID=dead"},
		{"perhaps of another", []string{"AZURE_CLIENT_ID=dead"}, nil, "", `not for "vm", that may be another`},
		{"empty", []string{"AZURE_CLIENT_ID=", "AZURE_TOKEN_CREDENTIALS="}, nil, clientID, ""},
		{"programs that look at none of them", append(environment, "AZURE_CLIENT_SECRET=x"), []launch.Family{launch.ADAL}, "", ""},
		{"a value without an end", []string{"AZURE_TOKEN_CREDENTIALS=" + strings.Repeat("x", 1000)}, nil, "", strings.Repeat("x", 80) + "…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := plan(t, launch.Request{Endpoint: endpoint(), Environ: tt.environ, Families: tt.families, ClientID: tt.known})
			if tt.want == "" && len(env.Notes) == 0 {
				return
			}
			if len(env.Notes) != 1 || tt.want == "" || !strings.Contains(string(env.Notes[0]), tt.want) {
				t.Errorf("got %q, want one with %q", env.Notes, tt.want)
			}
		})
	}
}

func TestTheUsersChoiceOfCredentialsIsKept(t *testing.T) {
	for _, value := range []string{"dev", "ManagedIdentityCredential"} {
		environ := []string{"AZURE_TOKEN_CREDENTIALS=" + value}
		got := matching(plan(t, launch.Request{Endpoint: endpoint(), Environ: environ}).Apply(environ), "AZURE_TOKEN_CREDENTIALS")
		if diff := cmp.Diff(environ, got); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
	}
}

func TestAnEndpointThatWouldGiveTheSecretAwayIsRefused(t *testing.T) {
	with := func(change func(*wire.Endpoint)) wire.Endpoint {
		e := endpoint()
		change(&e)
		return e
	}
	bad := map[string]wire.Endpoint{
		"no secret":               with(func(e *wire.Endpoint) { e.Secret = wire.Secret{} }),
		"a secret of two lines":   with(func(e *wire.Endpoint) { e.Secret = wire.NewSecret("a\r\nX: y") }),
		"a secret with a NUL":     with(func(e *wire.Endpoint) { e.Secret = wire.NewSecret("a\x00b") }),
		"a secret without an end": with(func(e *wire.Endpoint) { e.Secret = wire.NewSecret(strings.Repeat("x", 1<<20)) }),
		"IMDS elsewhere":          with(func(e *wire.Endpoint) { e.IMDS = "http://169.254.169.254:80" }),
		"IMDS with a path":        with(func(e *wire.Endpoint) { e.IMDS = imdsURL + "/metadata" }),
	}
	for _, url := range []string{
		"", "http://127.0.0.1/msi/token", "http://127.0.0.1:840", "http://127.0.0.1:840/", "http://localhost:840/msi/token", "http://192.0.2.1:840/msi/token",
		"https://127.0.0.1:840/msi/token", "http://127.0.0.1:840/msi/token?x=y", "http://127.0.0.1:840/msi/token?", "http://127.0.0.1:840/msi/token#x",
		"http://user@127.0.0.1:840/msi/token", "http://127.0.0.1:840@192.0.2.1/msi/token", "http://127.0.0.1:0/msi/token", "http://127.0.0.1:840/a b",
		"http://[::1%25eth0]:840/msi/token", "HTTP://127.0.0.1:840/msi/token", "unix:///run/x", "http://127.0.0.1:840/msi\n/token", "http://0.0.0.0:840/msi/token",
	} {
		bad[url] = with(func(e *wire.Endpoint) { e.AppService = url })
	}
	for name, e := range bad {
		t.Run(name, func(t *testing.T) {
			env, err := launch.Plan(launch.Request{Endpoint: e})
			if err == nil || len(env.Set) > 0 {
				t.Fatalf("got %v, %v", env, err)
			}
			if text := e.Secret.Reveal(); text != "" && strings.Contains(err.Error(), text) {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
	plan(t, launch.Request{Endpoint: with(func(e *wire.Endpoint) { e.AppService = "http://[::1]:840/msi/token" })})
}

func TestAProgramWithoutItsVariablesIsNoticed(t *testing.T) {
	for _, name := range launch.FamilyNames() {
		families, err := launch.ParseFamilies([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		environ := plan(t, launch.Request{Endpoint: endpoint(), Families: families}).Apply(nil)
		if err := launch.Check(environ, families); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, variable := range matching(environ, "IDENTITY_", "MSI_") {
			rest := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool { return entry == variable })
			if err := launch.Check(rest, families); err == nil || strings.Contains(err.Error(), secretText) {
				t.Errorf("%s without %s: %v", name, variable, err)
			}
		}
	}
}

func TestAnEnvironmentThatIsPrintedHasNoSecret(t *testing.T) {
	env := plan(t, launch.Request{Endpoint: endpoint(), Environ: []string{"IMDS_ENDPOINT=x"}})
	for _, text := range []string{fmt.Sprint(env), fmt.Sprintf("%+v %#v", env, env), fmt.Sprintf("%s", env.Set)} {
		if strings.Contains(text, secretText) {
			t.Errorf("got %s", text)
		}
	}
}

func TestFamiliesThatNobodyKnows(t *testing.T) {
	if got, err := launch.ParseFamilies(nil); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := launch.ParseFamilies(launch.FamilyNames()); err != nil || len(got) != 8 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, names := range [][]string{{""}, {"Go"}, {"go", "cobol"}} {
		if got, err := launch.ParseFamilies(names); err == nil {
			t.Errorf("%q: got %v", names, got)
		}
	}
}

// matching returns the entries that begin with one of the prefixes.
func matching(environ []string, prefixes ...string) []string {
	var found []string
	for _, entry := range environ {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(entry, p) }) {
			found = append(found, entry)
		}
	}
	return found
}
