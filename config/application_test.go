package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/config"
)

const (
	tenantID = "1f2e3d4c-0000-4000-8000-0000000077e1"
	clientID = "c0ffee00-0000-4000-8000-0000000000aa"
)

// app returns a file with an application of these credentials, and settings besides.
func app(credentials string, settings ...string) string {
	return fmt.Sprintf("identities:\n  - name: app\n    application:\n      tenant: %s\n      client_id: %s\n      credentials: [%s]\n%s",
		tenantID, clientID, credentials, strings.Join(settings, ""))
}

func TestParseAnApplication(t *testing.T) {
	got, err := config.Parse("test.yaml", []byte(app(`
        {source: certificate, key: app},
        {source: managed_identity, managed_identity: {}, bound: prefer},
        {name: by_hand, source: managed_identity, managed_identity: {client_id: `+clientID+`}, audience: "api://other"},
        {source: managed_identity, managed_identity: {}, bound: never},
        {source: oidc, identity: vm},
        {source: assertion_file, path: /run/assertion},
        {source: certificate, key: other, bound: never, send_assertion_over_mtls: auto}`,
		"      region: auto\n      cloud: us-gov\n  - name: vm\n    managed_identity: {bound: prefer}\n")))
	if err != nil {
		t.Fatal(err)
	}
	const gov = "api://AzureADTokenExchangeUSGov"
	system := &config.ManagedIdentitySelector{}
	want := []config.Identity{
		{Name: "app", Application: &config.Application{
			Tenant: tenantID, ClientID: clientID, Cloud: config.CloudUSGov, Region: config.RegionAuto,
			Credentials: []config.Credential{
				{Name: "certificate", Source: "certificate", Bound: "require", Key: "app", SendAssertionOverMTLS: "always"},
				{Name: "managed_identity", Source: "managed_identity", Bound: "prefer", ManagedIdentity: system, Audience: gov},
				{Name: "by_hand", Source: "managed_identity", Bound: "require", ManagedIdentity: &config.ManagedIdentitySelector{ClientID: clientID}, Audience: "api://other"},
				{Name: "managed_identity-2", Source: "managed_identity", Bound: "never", ManagedIdentity: system, Audience: gov},
				{Name: "oidc", Source: "oidc", Bound: "require", Identity: "vm", Audience: gov},
				{Name: "assertion_file", Source: "assertion_file", Bound: "never", Path: "/run/assertion"},
				{Name: "certificate-2", Source: "certificate", Bound: "never", Key: "other", SendAssertionOverMTLS: "auto"},
			},
		}},
		{Name: "vm", ManagedIdentity: &config.ManagedIdentity{Bound: "prefer"}},
	}
	if diff := cmp.Diff(want, got.Identities); diff != "" {
		t.Errorf("identities differ (-want +got):\n%s", diff)
	}
}

func TestParseAcceptsAnApplication(t *testing.T) {
	const certificate = "{source: certificate, key: app}"
	for _, tc := range []struct{ name, file string }{
		{"in a tenant that is named by a domain", strings.Replace(app(certificate), tenantID, "contoso.onmicrosoft.com", 1)},
		{"in a region", app(certificate, "      region: uksouth2\n")},
		{"of a test platform", app(certificate, "      login_endpoint: https://127.0.0.1:8443\n      mtls_endpoint: https://127.0.0.1:8444/\n")},
		{"with a floor", app(certificate, "    min_strength: tpm\n")},
		{"with a floor that an assertion of the TPM's reaches", app("{source: certificate, key: app, bound: never}", "    min_strength: tpm-signed\n")},
		{"with the same floor for its bound form", app("{source: certificate, key: app, bound: prefer}", "    min_strength: tpm-signed\n")},
		{"with the same floor for what is bound", app("{source: managed_identity, managed_identity: {}}, "+certificate, "    min_strength: tpm-signed\n")},
		{"of the Singapore cloud with an audience", app(`{source: managed_identity, managed_identity: {}, audience: "api://x"}`, "      cloud: singapore\n")},
		{"three references long", app("{source: oidc, identity: b}") + chain("b", "c") + chain("c", "vm") + "  - name: vm\n    managed_identity: {}\n"},
		{"with a rule for bound tokens, one credential of which can be bound", app(`{source: assertion_file, path: /a}, `+certificate,
			"rules: [{name: r, users: [root], identities: [app], resources: [\"*\"], types: [bearer, mtls_pop], fresh: true}]\n")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := config.Parse("test.yaml", []byte(tc.file)); err != nil {
				t.Error(err)
			}
		})
	}
}

// chain is an application whose only credential is the token of another identity.
func chain(name, behind string) string {
	return strings.TrimPrefix(strings.Replace(app("{source: oidc, identity: "+behind+"}"), "name: app", "name: "+name, 1), "identities:\n")
}

func TestParseSaysWhatIsWrongWithAnApplication(t *testing.T) {
	const (
		certificate = "{source: certificate, key: app}"
		file        = "{source: assertion_file, path: /run/assertion}"
		mi          = "{source: managed_identity, managed_identity: {}}"
		oidc        = "{source: oidc, identity: vm}"
		vm          = "  - name: vm\n    managed_identity: {}\n"
		entry       = "identities[0].application.credentials[0]"
	)
	for _, tc := range []struct{ name, file, want string }{
		{"both an application and a managed identity", app(certificate, "    managed_identity: {}\n"), "exclude each other"},
		{"no credentials", app(""), "application.credentials: none is configured"},
		{"a tenant that stands for many", strings.Replace(app(certificate), tenantID, "common", 1), `application.tenant: "common" stands for many`},
		{"consumers", strings.Replace(app(certificate), tenantID, "Consumers", 1), "stands for many"},
		{"a tenant that is a URL", strings.Replace(app(certificate), tenantID, "https://login.microsoftonline.com/x", 1), "application.tenant"},
		{"a tenant with a path", strings.Replace(app(certificate), tenantID, "contoso.com/evil", 1), "application.tenant"},
		{"no tenant", strings.Replace(app(certificate), tenantID, "''", 1), "application.tenant"},
		{"a client id that is no GUID", strings.Replace(app(certificate), clientID, "app", 1), "application.client_id"},
		{"an unknown cloud", app(certificate, "      cloud: moon\n"), "application.cloud"},
		{"a region that would become another host", app(certificate, "      region: evil.example/\n"), "application.region"},
		{"a region in capitals", app(certificate, "      region: WestEurope\n"), "application.region"},
		{"an endpoint without TLS", app(certificate, "      login_endpoint: http://127.0.0.1\n"), "application.login_endpoint"},
		{"an endpoint with a user", app(certificate, "      mtls_endpoint: https://u:hunter2@host\n"), "application.mtls_endpoint"},
		{"an endpoint with a query", app(certificate, "      mtls_endpoint: https://host/?a=b\n"), "application.mtls_endpoint"},
		{"an unknown source", app("{source: vault}"), entry + `.source: "vault" is not one of`},
		{"a secret as the source", app("{source: client_secret}"), entry + `.source: "client_secret": keyagent takes no secrets; sources are certificate, managed_identity, oidc, assertion_file`},
		{"credentials without hyphens", strings.Replace(app(""), "credentials: []", "credentials:\n        source: certificate", 1), "line 7: credentials is a list: begin the entry with '- '"},
		{"no source", app("{key: app}"), entry + ".source"},
		{"an unknown setting", app("{source: certificate, key: app, kez: x}"), "unknown setting kez"},
		{"a secret", app("{source: certificate, key: app, secret: hunter2}"), "unknown setting secret: keyagent takes no secrets; sources are certificate,"},
		{"a password", app("{source: certificate, key: app, certificate_password: hunter2}"), "unknown setting certificate_password: keyagent takes no secrets"},
		{"a name with a slash", app("{name: a/b, source: certificate, key: app}"), entry + ".name"},
		{"two entries of one name", app("{name: a, source: certificate, key: app}, {name: a, source: certificate, key: b}"), `credentials[1].name: "a" is used twice`},
		{"a name that a default takes", app(certificate + ", {name: certificate, source: assertion_file, path: /a}"), "used twice"},
		{"bound that is not a word of it", app("{source: certificate, key: app, bound: yes}"), entry + ".bound"},
		{"a file that is to be bound", app("{source: assertion_file, path: /a, bound: require}"), "can only be never"},
		{"a file that had better be bound", app("{source: assertion_file, path: /a, bound: prefer}"), "can only be never"},
		{"a file by a relative path", app("{source: assertion_file, path: a}"), entry + ".path"},
		{"a file without a path", app("{source: assertion_file}"), entry + ".path"},
		{"a certificate without a key", app("{source: certificate}"), entry + ".key: missing"},
		{"a key that is a path", app("{source: certificate, key: ../binding}"), entry + ".key"},
		{"an assertion that is sent sometimes", app("{source: certificate, key: app, send_assertion_over_mtls: sometimes}"), entry + ".send_assertion_over_mtls"},
		{"a managed identity that is not named", app("{source: managed_identity}"), entry + ".managed_identity: missing"},
		{"a managed identity by two ids", app("{source: managed_identity, managed_identity: {client_id: " + clientID + ", object_id: " + clientID + "}}"), "more than one of"},
		{"bound inside the managed identity of an entry", app("{source: managed_identity, managed_identity: {bound: never}}"), "unknown setting bound"},
		{"a cloud whose audience is not known", app(mi, "      cloud: singapore\n"), entry + ".audience: missing"},
		{"an audience that is a scope", app(`{source: managed_identity, managed_identity: {}, audience: "api://x/.default"}`), entry + ".audience"},
		{"a key of a managed identity", app("{source: managed_identity, managed_identity: {}, key: app}"), entry + ".key: a setting of source certificate"},
		{"a path of a certificate", app("{source: certificate, key: app, path: /a}"), entry + ".path: a setting of source assertion_file"},
		{"an audience of a certificate", app("{source: certificate, key: app, audience: 'api://x'}"), entry + ".audience: a setting of"},
		{"a managed identity of an oidc entry", app("{source: oidc, identity: vm, managed_identity: {}}", vm), entry + ".managed_identity: a setting of"},
		{"an identity of a managed identity", app("{source: managed_identity, managed_identity: {}, identity: vm}", vm), entry + ".identity: a setting of source oidc"},
		{"an assertion over mTLS of a file", app("{source: assertion_file, path: /a, send_assertion_over_mtls: auto}"), entry + ".send_assertion_over_mtls: a setting of"},
		{"a reference to nothing", app("{source: oidc}"), entry + ".identity: missing"},
		{"a reference to what is not there", app("{source: oidc, identity: other}"), `"other" is not a configured identity`},
		{"a reference to itself", app("{source: oidc, identity: app}"), "is this identity itself"},
		{"references in a circle", app("{source: oidc, identity: b}") + chain("b", "c") + chain("c", "b"), "credentials[0].identity: a circle: app -> b -> c -> b"},
		{"two that refer to each other", app("{source: oidc, identity: b}") + chain("b", "app"), entry + ".identity: a circle: app -> b -> app"},
		{"a circle behind the second credential", app(certificate+", {source: oidc, identity: b}") + chain("b", "app"), "credentials[1].identity: a circle: app -> b -> app"},
		{"four references", app("{source: oidc, identity: b}") + chain("b", "c") + chain("c", "d") + chain("d", "vm") + vm, "more than 3 references: app -> b -> c -> d -> vm"},
		{"a bound reference to what is never bound", app(oidc, "  - name: vm\n    managed_identity: {bound: never}\n"), `identity "vm" is never bound`},
		{"a floor that one entry never reaches", app(certificate+", "+file, "    min_strength: software\n"), "credentials[1].bound: never: unbound, source assertion_file does not reach min_strength software: this entry can never be used"},
		{"an assertion of the TPM's that does not reach the floor software", app("{source: certificate, key: app, bound: never}", "    min_strength: software\n"), "source certificate does not reach min_strength software"},
		{"an assertion of the TPM's that does not reach the floor tpm", app("{source: certificate, key: app, bound: never}", "    min_strength: tpm\n"), "no token of it reaches tpm; it can be tpm-signed"},
		{"an assertion of the TPM's that does not reach the floor attested", app("{source: certificate, key: app, bound: never}", "    min_strength: attested\n"), "source certificate does not reach min_strength attested"},
		{"a file that does not reach the floor tpm-signed", app("{source: certificate, key: app, bound: never}, "+file, "    min_strength: tpm-signed\n"), "credentials[1].bound: never: unbound, source assertion_file does not reach min_strength tpm-signed"},
		{"an unbound managed identity that does not, either", app("{source: managed_identity, managed_identity: {}, bound: never}", "    min_strength: tpm-signed\n"), "no token of it reaches tpm-signed"},
		{"an assertion that another identity's token is", app("{source: oidc, identity: vm, bound: never}", "    min_strength: tpm-signed\n", vm), "source oidc does not reach min_strength tpm-signed"},
		{"a floor that no entry reaches", app(file, "    min_strength: software\n"), "no token of it reaches software"},
		{"a floor that no certificate of an app reaches", app(certificate+", "+mi, "    min_strength: attested\n"), entry + ".source: certificate: the issuer"},
		{"a certificate beside a software key", app(certificate, "attestation: {provider: none}\nbinding_key: {insecure_software: true}\n"), "keys of applications are in the TPM"},
		{"a rule for bound tokens of what is never bound", app(file, "rules: [{name: r, users: [root], identities: [app], resources: [\"*\"], types: [mtls_pop]}]\n"), "rules[0].types: mtls_pop"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Parse("test.yaml", []byte(tc.file))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error holds a password: %v", err)
			}
		})
	}
}
