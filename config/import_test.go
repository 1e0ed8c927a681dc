package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/config"
)

// appSettings returns a file with these credentials, and members of AzureAd besides.
func appSettings(credentials string, besides ...string) string {
	return fmt.Sprintf(`{"Logging": {"LogLevel": {}}, "AzureAd": {"TenantId": %q, "ClientId": %q, %s "ClientCredentials": [%s]}}`,
		tenantID, clientID, strings.Join(besides, ""), credentials)
}

const (
	boundMI     = `{"SourceType": "SignedAssertionFromManagedIdentity", "ManagedIdentityClientId": "8b0c3d0e-0000-4000-8000-00000000c1d1", "UseBoundCredential": true}`
	boundPath   = `{"SourceType": "Path", "CertificateDiskPath": "/etc/app/client.pfx", "CertificatePassword": "hunter2", "UseBoundCredential": true}`
	federation  = "api://AzureADTokenExchange"
	userManaged = "8b0c3d0e-0000-4000-8000-00000000c1d1"
)

func TestImportAppSettings(t *testing.T) {
	system, user := &config.ManagedIdentitySelector{}, &config.ManagedIdentitySelector{ClientID: userManaged}
	mi := config.Credential{Source: "managed_identity", Bound: "require", ManagedIdentity: user}
	certificate := config.Credential{Source: "certificate", Bound: "require", Key: "app"}
	for _, tc := range []struct {
		name, settings string
		want           []config.Credential
		notices        []string // a part of each
	}{
		{"a bound managed identity", appSettings(boundMI), []config.Credential{mi}, nil},
		{"comments, trailing commas and a byte order mark are usual", "\ufeff// settings\n" + appSettings(boundMI+", /* one, */ ", `"Note": "no // comment, }",`), []config.Credential{mi}, []string{"AzureAd.Note: keyagent has no such setting"}},
		{"the section alone", `{"TenantId": "` + tenantID + `", "ClientId": "` + clientID + `", "ClientCredentials": [` + boundMI + `]}`, []config.Credential{mi}, nil},
		{"names in another case, and values as text and numbers", `{"azuread": {"tenantid": "` + tenantID + `", "CLIENTID": "` + clientID +
			`", "clientCredentials": [{"sourcetype": "7", "managedidentityclientid": "` + userManaged + `", "UseBoundCredential": "True"}, {"SourceType": 3, "useboundcredential": true}]}}`,
			[]config.Credential{mi, certificate}, []string{"private key stays"}},
		{"the order is kept", appSettings(boundPath + "," + boundMI), []config.Credential{certificate, mi}, []string{"ClientCredentials[0] (Path): its private key stays"}},
		{"what is not said to be bound is not", appSettings(`{"SourceType": "SignedAssertionFromManagedIdentity"}`),
			[]config.Credential{{Source: "managed_identity", Bound: "never", ManagedIdentity: system}}, []string{"UseBoundCredential is not true"}},
		{"an audience of one's own", appSettings(`{"SourceType": "SignedAssertionFromManagedIdentity", "TokenExchangeUrl": "api://mine/.default", "UseBoundCredential": true}`),
			[]config.Credential{{Source: "managed_identity", Bound: "require", ManagedIdentity: system, Audience: "api://mine"}}, nil},
		{"the default audience is left out", appSettings(`{"SourceType": "SignedAssertionFromManagedIdentity", "TokenExchangeUrl": "api://AzureADTokenExchange", "UseBoundCredential": true}`),
			[]config.Credential{{Source: "managed_identity", Bound: "require", ManagedIdentity: system}}, nil},
		{"in another cloud the audience is the one that was asked for", appSettings(boundMI, `"Instance": "https://login.chinacloudapi.cn",`),
			[]config.Credential{{Source: "managed_identity", Bound: "require", ManagedIdentity: user, Audience: federation}}, []string{"no TokenExchangeUrl"}},
		{"each kind of certificate", appSettings(`{"SourceType": "KeyVault", "KeyVaultUrl": "https://v", "UseBoundCredential": true}, {"SourceType": "StoreWithThumbprint", "UseBoundCredential": true}, ` +
			`{"SourceType": "Base64Encoded", "Base64EncodedValue": "hunter2", "UseBoundCredential": true}, {"SourceType": "StoreWithDistinguishedName", "UseBoundCredential": true}, {"SourceType": "StoreWithSubjectName"}`),
			[]config.Credential{certificate, {Source: "certificate", Bound: "require", Key: "app-2"}, {Source: "certificate", Bound: "require", Key: "app-3"},
				{Source: "certificate", Bound: "require", Key: "app-4"}, {Source: "certificate", Bound: "never", Key: "app-5"}},
			[]string{"(KeyVault)", "key create app-2", "(Base64Encoded)", "(StoreWithDistinguishedName)", "(StoreWithSubjectName): its private key", "UseBoundCredential is not true"}},
		{"an assertion in a file", appSettings(`{"SourceType": "SignedAssertionFilePath", "SignedAssertionFileDiskPath": "/run/a", "UseBoundCredential": false}`),
			[]config.Credential{{Source: "assertion_file", Bound: "never", Path: "/run/a"}}, nil},
		{"an assertion in a file is never bound (IDW10115)", appSettings(`{"SourceType": 8, "SignedAssertionFileDiskPath": "/run/a", "UseBoundCredential": "TRUE"}, ` + boundMI),
			[]config.Credential{mi}, []string{"(SignedAssertionFilePath): left out: UseBoundCredential is true, which Microsoft.Identity.Web refuses for an assertion in a file (IDW10115)"}},
		{"what is to be skipped is", appSettings(`{"SourceType": "KeyVault", "Skip": true}, {"SourceType": "Path", "skip": "True", "UseBoundCredential": true}, ` +
			`{"SourceType": "SignedAssertionFromManagedIdentity", "ManagedIdentityClientId": "` + userManaged + `", "UseBoundCredential": true, "Skip": false}`),
			[]config.Credential{mi}, []string{"[0] (KeyVault): left out: Skip is true", "[1] (Path): left out: Skip is true"}},
		{"what cannot be used is left out and said", appSettings(boundMI + `, {"SourceType": "ClientSecret", "ClientSecret": "hunter2"}, {"SourceType": "SignedAssertionFromVault"}, ` +
			`{"SourceType": "CustomSignedAssertion", "CustomSignedAssertionProviderData": {"ConfigurationSection": "AzureAd2"}}, {"SourceType": "hunter2"}, {}, 7, ` +
			`{"SourceType": "SignedAssertionFilePath"}, {"SourceType": "SignedAssertionFromManagedIdentity", "ManagedIdentityClientId": "[enter it]"}, {"SourceType": "AutoDecryptKeys"}`), []config.Credential{mi},
			[]string{"[1] (ClientSecret): left out", "Key Vault", "source: oidc", "[4]: left out: its SourceType is not known", "[5]: left out: not an object", "[6]: left out: not an object",
				"no SignedAssertionFileDiskPath, and AZURE_FEDERATED_TOKEN_FILE", `"[enter it]" is not a GUID`, "nothing like it"}},
		{"options of the section", appSettings(boundMI, `"ClientSecret": "hunter2", "ClientCapabilities": ["cp1"], "AzureRegion": "evil.example/", `),
			[]config.Credential{mi}, []string{"AzureRegion", "capabilities=cp1", "ClientSecret: left out"}},
		{"what is in the wrong place does nothing, and is said", appSettings(`{"SourceType": "SignedAssertionFromManagedIdentity", "Instance": "hunter2"}`, `"useBoundCredential": true, `),
			[]config.Credential{{Source: "managed_identity", Bound: "never", ManagedIdentity: system}},
			[]string{"AzureAd.useBoundCredential: belongs in each entry of ClientCredentials; ignored here", "UseBoundCredential is not true",
				"ClientCredentials[0] (SignedAssertionFromManagedIdentity).Instance: belongs in the section itself; ignored here"}},
		{"what nobody knows is said by its name alone", appSettings(strings.TrimSuffix(boundMI, "}")+`, "Slip": "hunter2"}`, `"SendX5C": true, "Domain": "hunter2", "a\nb": 1, "Empty": "", "Scopes": [], `),
			[]config.Credential{mi}, []string{`AzureAd."a\nb": keyagent has no such setting; ignored here`, "AzureAd.Domain: keyagent",
				"(SignedAssertionFromManagedIdentity).Slip: keyagent has no such setting; ignored here"}},
		{"the older list beside the newer", appSettings(boundMI, `"ClientCertificates": [{"SourceType": "Path"}], `), []config.Credential{mi}, []string{"AzureAd.ClientCertificates: "}},
		{"the older list", strings.Replace(appSettings(boundPath), "ClientCredentials", "ClientCertificates", 1), []config.Credential{certificate}, []string{"ClientCertificates[0]"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(tc.settings), config.ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, im.Identity.Application.Credentials); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
			checkNotices(t, im.Notices, tc.notices)
			checkImportedYAML(t, im)
		})
	}
}

func checkNotices(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("got %d notices, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
		return
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("notice %d is %q, want %q", i, got[i], want[i])
		}
	}
}

// checkImportedYAML makes a file of what was imported, and looks for what must not be
// in it.
func checkImportedYAML(t *testing.T, im *config.Imported) {
	t.Helper()
	text, err := im.YAML()
	if err != nil {
		t.Fatal(err)
	}
	for _, notice := range im.Notices {
		if !strings.Contains(string(text), "# "+notice+"\n") {
			t.Errorf("the notice %q is no comment in\n%s", notice, text)
		}
	}
	if all := string(text) + strings.Join(im.Notices, "\n"); strings.Contains(all, "hunter2") {
		t.Errorf("a secret is printed:\n%s", all)
	}
	cfg, err := config.Parse("imported.yaml", append(text, "rules: [{name: r, users: [root], identities: [app], resources: [\"*\"]}]\n"...))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if len(cfg.Identities) != 1 || len(cfg.Identities[0].Application.Credentials) != len(im.Identity.Application.Credentials) {
		t.Errorf("read as %+v:\n%s", cfg.Identities, text)
	}
}

func TestImportTakesCloudAndRegion(t *testing.T) {
	for _, tc := range []struct{ name, besides, cloud, region string }{
		{"nothing", "", "", ""},
		{"the public cloud", `"Instance": "https://login.microsoftonline.com/", "AzureRegion": "westeurope",`, "", "westeurope"},
		{"an old name of it", `"Instance": "https://sts.windows.net",`, "", ""},
		{"US government", `"Instance": "https://login.microsoftonline.us/", "AzureRegion": "tryautodetect",`, config.CloudUSGov, "auto"},
		{"an old name of that", `"Instance": "https://LOGIN.usgovcloudapi.net/",`, config.CloudUSGov, ""},
		{"China", `"Instance": "https://login.partner.microsoftonline.cn/", "AzureRegion": "ChinaNorth3",`, config.CloudChina, "chinanorth3"},
		{"France", `"Instance": "https://login.sovcloud-identity.fr/",`, config.CloudFrance, ""},
		{"Germany", `"Instance": "https://login.sovcloud-identity.de/",`, config.CloudGermany, ""},
		{"Singapore", `"Instance": "https://login.sovcloud-identity.sg/",`, config.CloudSingapore, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(appSettings(boundMI, tc.besides)), config.ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if app := im.Identity.Application; app.Cloud != tc.cloud || app.Region != tc.region {
				t.Errorf("cloud %q, region %q", app.Cloud, app.Region)
			}
			checkImportedYAML(t, im)
		})
	}
}

func TestImportRefusesUnusableSettings(t *testing.T) {
	for _, tc := range []struct{ name, settings, want string }{
		{"nothing", "", "not JSON"},
		{"no JSON", "{\n\"AzureAd\": {\n\"TenantId\": hunter2}}", "line 3: not JSON"},
		{"a comment that does not end", "{ /* ", "not JSON"},
		{"a string that does not end", `{"AzureAd": "hunter2`, "not JSON"},
		{"an empty list", "[]", "no section AzureAd, and no TenantId, here"},
		{"a section that is text", `{"AzureAd": "hunter2"}`, "AzureAd: a single value, not a section"},
		{"a setting that is there twice", `{"AzureAd": {"TenantId": "a", "tenantId": "b"}}`, "setting AzureAd:TenantId is there twice"},
		{"a setting of an entry that is there twice", appSettings(`{"SourceType": "Path", "sourceType": "ClientSecret"}`), "twice"},
		{"another file", `{"ConnectionStrings": {"x": "hunter2"}}`, "no section AzureAd, and no TenantId, here"},
		{"an empty object", "{}", "no section AzureAd"},
		{"a section without a tenant", `{"AzureAd": {}}`, "AzureAd.TenantId"},
		{"no tenant of its own", strings.Replace(appSettings(boundMI), tenantID, "organizations", 1), `"organizations" stands for many tenants`},
		{"a form that was not filled in", strings.Replace(appSettings(boundMI), clientID, "[Enter the Client Id]", 1), "AzureAd.ClientId"},
		{"another identity provider", appSettings(boundMI, `"Instance": "https://contoso.b2clogin.com/",`), "AzureAd.Instance"},
		{"an instance that is no URL", appSettings(boundMI, `"Instance": "https://login.microsoftonline.com:x/",`), "AzureAd.Instance"},
		{"no credentials", appSettings(""), "no credential that keyagent can use"},
		{"credentials that are an object", strings.NewReplacer("[", "{", "]", "}").Replace(appSettings("")), "no credential"},
		{"a secret alone", appSettings(`{"SourceType": "ClientSecret", "ClientSecret": "hunter2"}`), "register a certificate"},
		{"very many entries", appSettings(strings.Repeat(boundMI+",", 65)), "more than 64 entries"},
		{"a very large file", strings.Repeat(" ", 1<<20+1), "more than 1048576 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(tc.settings), config.ImportOptions{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %+v, %v, want %q", im, err, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret is printed: %v", err)
			}
		})
	}
}

func TestImportedTakesAnotherName(t *testing.T) {
	im, err := config.ImportAppSettings([]byte(appSettings(boundMI)), config.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	im.Identity.Name = "shop"
	if text, err := im.YAML(); err != nil || !strings.Contains(string(text), "- name: shop\n") {
		t.Errorf("%v\n%s", err, text)
	}
	im.Identity.Name = "a b\nrules: []"
	if _, err := im.YAML(); err == nil {
		t.Error("a name that breaks the line is taken")
	}
}

// Whatever the settings say, the result is a file, and secrets are not in it.
func FuzzImportAppSettings(f *testing.F) {
	for _, seed := range []string{
		appSettings(boundMI), appSettings(boundPath + "," + boundMI), "{//\n}", "\ufeff{/**/,}", `{"AzureAd":{"ClientCredentials":[{"SourceType":6,"ClientSecret":"hunter2"},]}}`,
		appSettings(`{"SourceType": "SignedAssertionFilePath", "SignedAssertionFileDiskPath": "/run/a\n# b: \u2028c"}`, `"AzureRegion": "a\nb", "Instance": "https://login.microsoftonline.us",`),
		inUTF16(appSettings(boundMI), false), inUTF32("{}"), `{"AzureAd:TenantId": "a", "AzureAd": {"TenantId": {}}}`, `{"A": {` + appIDs + `, "ClientCredentials:x:SourceType": 7}}`,
		"AzureAd__TenantId=" + tenantID + "\nexport AzureAd__ClientId='" + clientID + "'\nAzureAd__ClientCredentials__0__SourceType=8\nAZURE_FEDERATED_TOKEN_FILE=/a\n",
		`[{"name": "AzureAd__TenantId", "value": "a"}, "AzureAd__ClientId=b", {"name": "x", "valueFrom": {}}]`, `{"IsEncrypted": false, "Values": {"AzureAd__TenantId": "a"}}`,
		`{"V": {"BaseUrl": "https://v", "Scopes": ["https://v/.default"], "ProtocolScheme": "MTLS_POP", "AcquireTokenOptions": {"ManagedIdentity": {}}}}`,
		`{"AzureAd": {"Authority": "https://login.microsoftonline.us/organizations/v2.0", "AppHomeTenantId": "{` + tenantID + `}", "ClientId": "` + clientID + `"}}`,
	} {
		f.Add([]byte(seed), "")
		f.Add([]byte(seed), "A")
	}
	f.Fuzz(func(t *testing.T, data []byte, section string) {
		im, err := config.ImportAppSettings(data, config.ImportOptions{Section: section})
		if err != nil {
			if strings.ContainsFunc(strings.ReplaceAll(err.Error(), "\n", ""), unicode.IsControl) {
				t.Fatalf("control characters in %q", err)
			}
			return
		}
		text, err := im.YAML()
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Parse("imported.yaml", text)
		if err != nil || len(cfg.Identities) != 1 || cfg.Rules != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if slices.ContainsFunc(im.Notices, func(s string) bool { return strings.ContainsAny(s, "\n\r") }) {
			t.Fatalf("a notice has more than one line: %q", im.Notices)
		}
	})
}
