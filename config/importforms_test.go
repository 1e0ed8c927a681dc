package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/config"
)

// appIDs are the members of a section that say which application it is.
const appIDs = `"TenantId": "` + tenantID + `", "ClientId": "` + clientID + `"`

// inUTF16 is how old editors on Windows save a file.
func inUTF16(text string, bigEndian bool) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune("\ufeff" + text)) {
		low, high := byte(unit), byte(unit>>8)
		if bigEndian {
			low, high = high, low
		}
		b.Write([]byte{low, high})
	}
	return b.String()
}

func inUTF32(text string) string {
	var b strings.Builder
	for _, r := range "\ufeff" + text {
		b.Write([]byte{byte(r), byte(r >> 8), byte(r >> 16), 0})
	}
	return b.String()
}

// Each form is one that .NET's configuration has, and says the same.
func TestImportTakesEachFormOfSettings(t *testing.T) {
	plain := appSettings(boundMI)
	entry := strings.Trim(boundMI, "{}")
	const list = `[{"name": "AzureAd__TenantId", "value": "` + tenantID + `", "slotSetting": false}, {"name": "AzureAd__ClientId", "value": "` + clientID + `"},
		{"name": "AzureAd__ClientCredentials__0__SourceType", "value": "SignedAssertionFromManagedIdentity", "slotSetting": true},
		{"name": "AZUREAD__CLIENTCREDENTIALS__0__ManagedIdentityClientId", "value": "` + userManaged + `"}, {"name": "AzureAd:ClientCredentials:0:UseBoundCredential", "value": "true"},
		{"name": "WEBSITE_RUN_FROM_PACKAGE", "value": "1"}, {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "hunter2"}}}]`
	const lines = "# the unit's EnvironmentFile\n; old comment\n\nexport AzureAd__TenantId=" + tenantID + "\r\nAzureAd__ClientId = \"" + clientID + "\"\n" +
		"PATH=/usr/bin\nAzureAd__ClientCredentials__0__SourceType='SignedAssertionFromManagedIdentity'\n" +
		"AzureAd__ClientCredentials__0__ManagedIdentityClientId=" + userManaged + "\nAzureAd__ClientCredentials__0__UseBoundCredential=True"
	for _, tc := range []struct{ name, section, settings string }{
		{"an object", "", plain},
		{"UTF-16", "", inUTF16(plain, false)},
		{"UTF-16, the other way round", "", inUTF16(plain, true)},
		{"UTF-32", "", inUTF32(plain)},
		{"UTF-8 with a byte order mark", "", "\ufeff" + plain},
		{"comments of both kinds, also after the last value, and old line ends", "", "// a\r/* { */" + strings.Replace(plain, "]", ", // ]\r\n /* } */ ]", 1) + "/**/ // end"},
		{"names with colons", "", fmt.Sprintf(`{"AzureAd:TenantId": %q, "AzureAd:ClientId": %q, "AzureAd:ClientCredentials:0:SourceType": 7, "azuread:clientcredentials:0:UseBoundCredential": true, "AzureAd:ClientCredentials:0:ManagedIdentityClientId": %q}`, tenantID, clientID, userManaged)},
		{"both in one file", "", fmt.Sprintf(`{"AzureAd": {"TenantId": %q, "ClientCredentials": [%s]}, "AzureAd:ClientId": %q}`, tenantID, boundMI, clientID)},
		{"a section in two parts", "", fmt.Sprintf(`{"AzureAd": {"TenantId": %q, "ClientCredentials": [%s]}, "AZUREAD": {"ClientId": %q}}`, tenantID, boundMI, clientID)},
		{"numbered entries", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": {"0": ` + boundMI + `}}}`},
		{"named entries", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": {"first": ` + boundMI + `}}}`},
		{"an entry in two forms", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": [{"SourceType": 7, "UseBoundCredential": true}], "ClientCredentials:0:ManagedIdentityClientId": "` + userManaged + `"}}`},
		{"a list of an app service", "", list},
		{"a list of a container", "", `["PATH=/usr/bin", "AzureAd__TenantId=` + tenantID + `", "AzureAd__ClientId=` + clientID + `", "AzureAd__ClientCredentials__0__SourceType=7", "AzureAd__ClientCredentials__0__UseBoundCredential=true", "AzureAd__ClientCredentials__0__ManagedIdentityClientId=` + userManaged + `"]`},
		{"an object of variables", "", fmt.Sprintf(`{"AzureAd__TenantId": %q, "AzureAd__ClientId": %q, "AzureAd__ClientCredentials__0__SourceType": "7", "AzureAd__ClientCredentials__0__UseBoundCredential": "true", "AzureAd__ClientCredentials__0__ManagedIdentityClientId": %q, "X": null}`, tenantID, clientID, userManaged)},
		{"lines of variables", "", lines},
		{"settings of functions", "", fmt.Sprintf(`{"IsEncrypted": false, "Values": {"FUNCTIONS_WORKER_RUNTIME": "dotnet-isolated", "AzureAd__TenantId": %q, "AzureAd__ClientId": %q, "AzureAd:ClientCredentials:0:SourceType": "7", "AzureAd__ClientCredentials__0__UseBoundCredential": "true", "AzureAd__ClientCredentials__0__ManagedIdentityClientId": %q}, "Host": {"CORS": "*"}}`, tenantID, clientID, userManaged)},
		{"GUIDs in braces", "", fmt.Sprintf(`{"AzureAd": {"TenantId": "{%s}", "ClientId": "(%s)", "ClientCredentials": [{%s}]}}`, tenantID, clientID, strings.Replace(entry, userManaged, strings.ReplaceAll(userManaged, "-", ""), 1))},
		{"another section", "EntraId", `{"Logging": {}, "EntraId": {` + appIDs + `, "ClientCredentials": [` + boundMI + `]}}`},
		{"a section in a section", "azuread:staff", `{"AzureAd": {"Staff": {` + appIDs + `, "ClientCredentials": [` + boundMI + `]}, "Partner": {}}}`},
		{"a section of variables", "Azure__Entra", fmt.Sprintf("Azure__Entra__TenantId=%s\nAzure__Entra__ClientId=%s\nAzure__Entra__ClientCredentials__a__SourceType=7\nAzure__Entra__ClientCredentials__a__UseBoundCredential=true\nAzure__Entra__ClientCredentials__a__ManagedIdentityClientId=%s\n", tenantID, clientID, userManaged)},
		{"authority alone", "", `{"AzureAd": {"Authority": "https://login.microsoftonline.com/` + tenantID + `/v2.0", "ClientId": "` + clientID + `", "ClientCredentials": [` + boundMI + `]}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(tc.settings), config.ImportOptions{Section: tc.section})
			if err != nil {
				t.Fatal(err)
			}
			want := config.Identity{Name: "app", Application: &config.Application{Tenant: tenantID, ClientID: clientID, Credentials: []config.Credential{
				{Source: "managed_identity", Bound: "require", ManagedIdentity: &config.ManagedIdentitySelector{ClientID: userManaged}},
			}}}
			if diff := cmp.Diff(want, im.Identity); diff != "" {
				t.Errorf("identity (-want +got):\n%s", diff)
			}
			checkNotices(t, im.Notices, nil)
			checkImportedYAML(t, im)
		})
	}
}

func TestImportKeepsTheOrderOfNumberedEntries(t *testing.T) {
	var entries []string
	for _, n := range []int{10, 9, 1, 2} {
		entries = append(entries, fmt.Sprintf(`"%d": {"SourceType": "SignedAssertionFilePath", "SignedAssertionFileDiskPath": "/run/%d"}`, n, n))
	}
	im, err := config.ImportAppSettings([]byte(`{"AzureAd": {`+appIDs+`, "ClientCredentials": {"x": {"SourceType": 7, "UseBoundCredential": true}, `+strings.Join(entries, ", ")+`}}}`), config.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, c := range im.Identity.Application.Credentials {
		order = append(order, c.Path)
	}
	if got := strings.Join(order, " "); got != "/run/1 /run/2 /run/9 /run/10 " {
		t.Errorf("the order is %q", got)
	}
}

// What .NET finds the tenant in, and what it does where it is said twice.
func TestImportFindsTheTenant(t *testing.T) {
	const login, other = "https://login.microsoftonline.com/", "99999999-0000-4000-8000-0000000000ff"
	for _, tc := range []struct{ name, members, tenant, cloud, notice, wrong string }{
		{"TenantId", `"TenantId": "contoso.com"`, "contoso.com", "", "", ""},
		{"Authority", `"Authority": "` + login + tenantID + `/v2.0"`, tenantID, "", "", ""},
		{"Authority without a version", `"Authority": "` + login + `contoso.com/"`, "contoso.com", "", "", ""},
		{"Authority of another cloud", `"Authority": "https://login.microsoftonline.us/` + tenantID + `/"`, tenantID, config.CloudUSGov, "", ""},
		{"Authority beside a TenantId that says the same", `"Authority": "https://login.chinacloudapi.cn/` + tenantID + `/v2.0", "TenantId": "{` + tenantID + `}"`, tenantID, config.CloudChina, "", ""},
		{"Authority beside a TenantId that says another", `"Authority": "` + login + other + `/v2.0", "TenantId": "` + tenantID + `"`, "", "", "", `AzureAd.Authority: names the tenant "` + other + `", and TenantId "` + tenantID + `"`},
		{"Authority of many tenants beside a TenantId", `"Authority": "` + login + `common/v2.0", "TenantId": "` + tenantID + `"`, tenantID, "", "", ""},
		{"Authority beside Instance", `"Authority": "` + login + `common", "Instance": "` + login + `", "TenantId": "` + tenantID + `"`, tenantID, "", "Authority: left out", ""},
		{"Authority of nobody that we know", `"Authority": "https://contoso.ciamlogin.com/"`, "", "", "", "AzureAd.Authority: not the endpoint of a cloud that keyagent knows"},
		{"Authority without a tenant", `"Authority": "` + login + `v2.0"`, "", "", "", "AzureAd.TenantId: missing"},
		{"Authority of a policy", `"Authority": "` + login + `tfp/contoso.com/b2c_1_a"`, "", "", "", "AzureAd.Authority: the path after the host is not one tenant"},
		{"a tenant in Instance", `"Instance": "` + login + tenantID + `/"`, tenantID, "", "", ""},
		{"a tenant and a version in Instance", `"Instance": "` + login + tenantID + `/v2.0/"`, tenantID, "", "", ""},
		{"the same tenant in Instance", `"Instance": "` + login + strings.ToUpper(tenantID) + `", "TenantId": "` + tenantID + `"`, tenantID, "", "", ""},
		{"another tenant in Instance", `"Instance": "` + login + other + `/", "TenantId": "` + tenantID + `"`, "", "", "", `AzureAd.Instance: names the tenant "` + other + `"`},
		{"many tenants in Instance", `"Instance": "` + login + `organizations/", "TenantId": "` + tenantID + `"`, tenantID, "", "", ""},
		{"Instance over http", `"Instance": "http://login.microsoftonline.com/", "TenantId": "` + tenantID + `"`, "", "", "", "AzureAd.Instance: not the https URL"},
		{"Instance with a password", `"Instance": "https://a:hunter2@login.microsoftonline.com/", "TenantId": "` + tenantID + `"`, "", "", "", "AzureAd.Instance: not the https URL"},
		{"the home of an app for many tenants", `"Instance": "` + login + `", "TenantId": "organizations", "AppHomeTenantId": "` + tenantID + `"`, tenantID, "", "", ""},
		{"the same, by Authority", `"Authority": "` + login + `common/v2.0", "AppHomeTenantId": "{` + tenantID + `}"`, tenantID, "", "", ""},
		{"the home of an app for personal accounts", `"TenantId": "consumers", "AppHomeTenantId": "` + tenantID + `"`, "", "", "", `"consumers" stands for many tenants`},
		{"a home beside a tenant", `"TenantId": "` + tenantID + `", "AppHomeTenantId": "` + other + `"`, tenantID, "", "AppHomeTenantId: left out", ""},
		{"the same home", `"TenantId": "` + tenantID + `", "AppHomeTenantId": "` + tenantID + `"`, tenantID, "", "", ""},
		{"no home of an app for many tenants", `"TenantId": "common"`, "", "", "", `"common" stands for many tenants`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(`{"AzureAd": {`+tc.members+`, "ClientId": "`+clientID+`", "ClientCredentials": [`+boundMI+`]}}`), config.ImportOptions{})
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("got %+v, %v, want %q", im, err, tc.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if app := im.Identity.Application; app.Tenant != tc.tenant || app.Cloud != tc.cloud {
				t.Errorf("tenant %q of cloud %q", app.Tenant, app.Cloud)
			}
			notices := []string{}
			if tc.notice != "" {
				notices = append(notices, tc.notice)
			}
			if tc.cloud != "" {
				notices = append(notices, "no TokenExchangeUrl")
			}
			checkNotices(t, im.Notices, notices)
		})
	}
}

// Nothing is made of settings of which .NET, too, would make nothing, or something else than it
// seems; the error says what it is.
func TestImportSaysTheTrueCause(t *testing.T) {
	section := func(members string) string {
		return `{"AzureAd": {` + appIDs + `, "ClientCredentials": [` + boundMI + `]` + members + `}}`
	}
	staff := `{"AzureAd": {"Staff": {` + appIDs + `}, "Partner": {` + appIDs + `}}}`
	for _, tc := range []struct{ name, section, settings, want string }{
		{"another section's name", "", `{"EntraId": {` + appIDs + `}}`, "no section AzureAd here; did you mean: --section EntraId"},
		{"sections in the section", "", staff, "AzureAd itself has neither ClientId nor credentials; did you mean: --section AzureAd:Partner, --section AzureAd:Staff"},
		{"a section that is not there", "AzureAd:Guest", staff, "no section AzureAd:Guest here; did you mean: --section AzureAd:Partner, "},
		{"a section that is a value", "AzureAd:Staff:TenantId", staff, "no section AzureAd:Staff:TenantId here"},
		{"an odd name of a section", "", `{"a\nb\u001b": {` + appIDs + `}}`, `--section "a\nb\x1b"`},
		{"an entry in place of the list", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": ` + boundMI + `}}`, "AzureAd.ClientCredentials: a single entry, where .NET takes a list of them"},
		{"a text in place of the list", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": "hunter2"}}`, "ClientCredentials: left out: a single value, where there should be a list"},
		{"a truth value of our own", "", section(`, "ClientCredentials:0:Skip": "yes"`), "AzureAd:ClientCredentials:0:Skip: neither true nor false"},
		{"a truth value that would weaken the credential", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": [{"SourceType": 7, "UseBoundCredential": 1}]}}`, "AzureAd:ClientCredentials:0:UseBoundCredential: neither true nor false"},
		{"the same value in two forms", "", section(`, "ClientCredentials:0:UseBoundCredential": false`), "setting AzureAd:ClientCredentials:0:UseBoundCredential is there twice"},
		{"a variable twice", "", "AzureAd__TenantId=a\nazuread__tenantid=b", "line 2: setting AzureAd:TenantId is there twice"},
		{"all entries skipped", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": [{"SourceType": 7, "Skip": true}]}}`, "Skip is true"},
		{"an assertion in a file that should be bound", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": [{"SourceType": 8, "SignedAssertionFileDiskPath": "/run/a", "UseBoundCredential": true}]}}`, "IDW10115"},
		{"an assertion in a file without its path", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": [{"SourceType": 8}]}}`, "AZURE_FEDERATED_TOKEN_FILE"},
		{"a path under another name", "", `{"AzureAd": {` + appIDs + `, "ClientCredentials": [{"SourceType": 8, "SignedAssertionFilePath": "/run/a"}]}}`, "SignedAssertionFilePath is the name of the source, not of its path's setting (SignedAssertionFileDiskPath)"},
		{"an assertion's path in a variable that is none", "", `{"AZURE_FEDERATED_TOKEN_FILE": "/run/a", "AzureAd": {` + appIDs + `, "ClientCredentials": [{"SourceType": 8}]}}`, "is neither in these settings"},
		{"underscores in a file that is no environment", "", `{"Logging": {"a": 1}, "AzureAd__TenantId": "` + tenantID + `", "AzureAd__ClientId": "` + clientID + `"}`, "no section AzureAd here: AzureAd__ClientId: two underscores separate names in environments"},
		{"a value that is elsewhere", "", `[{"name": "AzureAd__TenantId", "valueFrom": {"secretKeyRef": {}}}, {"name": "AzureAd__ClientId", "value": "` + clientID + `"}]`, "AzureAd:TenantId: its value is not here"},
		{"encrypted settings of functions", "", `{"IsEncrypted": true, "Values": {"AzureAd__TenantId": "hunter2"}}`, "encrypted"},
		{"a list of something else", "", `[{"AzureAd": {` + appIDs + `}}]`, "entry 0 of the list is no setting"},
		{"lines of something else", "", "A=1\nhunter2\n", "line 2: not JSON, and not NAME=VALUE"},
		{"a line without a name", "", "=hunter2", "line 1: a variable without a name"},
		{"UTF-16 without a byte order mark", "", inUTF16("{}", false)[2:], "not JSON: there are zero bytes in it, as in UTF-16 without a byte order mark"},
		{"a comma that .NET does not take either", "", `{"AzureAd": {,}}`, "not JSON"},
		{"two commas", "", `{"AzureAd": [1,,]}`, "not JSON"},
		{"an empty section", "", `{"AzureAd": {}}`, "AzureAd is empty"},
		{"an application without its id", "", `{"AzureAd": {"TenantId": "` + tenantID + `", "ClientCredentials": [` + boundMI + `]}}`, "AzureAd.ClientId: missing"},
		{"an old switch that is neither on nor off", "", `{"AzureAd": {` + appIDs + `, "ClientCredentialsUsingManagedIdentity": {"IsEnabled": "on"}}}`, "IsEnabled: neither true nor false"},

		{"very deep", "", strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), "more than 64 levels"},
		{"very deep by colons", "", `{"` + strings.Repeat("a:", 65) + `": 1}`, "more than 64 levels"},
		{"a very long name", "", `{"` + strings.Repeat("a", 1025) + `": 1}`, "more than 1024 bytes"},
		{"very many settings", "", "[" + strings.Repeat("1,", 20001) + "1]", "more than 20000 settings"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(tc.settings), config.ImportOptions{Section: tc.section})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %+v, %v, want %q", im, err, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret is printed: %v", err)
			}
		})
	}
}

func TestImportFindsTheAssertionsFileWhereNETDoes(t *testing.T) {
	const entry = `{"SourceType": "SignedAssertionFilePath"}`
	const variables = "AzureAd__TenantId=" + tenantID + "\nAzureAd__ClientId=" + clientID + "\nAzureAd__ClientCredentials__0__SourceType=8\nAZURE_FEDERATED_TOKEN_FILE=/run/of-the-app\n"
	for _, tc := range []struct{ name, settings, variable, want, notice string }{
		{"in the entry", appSettings(`{"SourceType": 8, "SignedAssertionFileDiskPath": "/run/said"}`), "/run/env", "/run/said", ""},
		{"in the command's environment", appSettings(entry), "/run/env", "/run/env", "the path is that of AZURE_FEDERATED_TOKEN_FILE"},
		{"in the app's environment", variables, "", "/run/of-the-app", "the path is that of AZURE_FEDERATED_TOKEN_FILE"},
		{"under a name that does not count", appSettings(`{"SourceType": 8, "SignedAssertionFilePath": "/run/wrong"}`), "/run/env", "/run/env", ".NET does not look at it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(tc.settings), config.ImportOptions{FederatedTokenFile: tc.variable})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]config.Credential{{Source: "assertion_file", Bound: "never", Path: tc.want}}, im.Identity.Application.Credentials); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
			if all := strings.Join(im.Notices, "\n"); (all == "") != (tc.notice == "") || !strings.Contains(all, tc.notice) {
				t.Errorf("notices:\n%s", all)
			}
		})
	}
}

// APIs that ask for bound tokens need a credential that can be bound.
func TestImportTakesWhatAPIsAskFor(t *testing.T) {
	const (
		unbound = `{"SourceType": "SignedAssertionFromManagedIdentity"}`
		pop     = `{"BaseUrl": "https://v.vault.azure.net/", "RequestAppToken": true, "ProtocolScheme": "MTLS_POP", "Scopes": ["https://vault.azure.net/.default"]}`
		bearer  = `{"BaseUrl": "https://graph.microsoft.com/", "RequestAppToken": true, "Scopes": ["https://graph.microsoft.com/.default"]}`
		ofUsers = `{"BaseUrl": "https://graph.microsoft.com/", "Scopes": ["User.Read"]}`
	)
	for _, tc := range []struct {
		name, credential, apis, bound string
		notices                       []string
	}{
		{"none", unbound, ``, "never", []string{"hence bound: never"}},
		{"unbound ones", unbound, `"Graph": ` + bearer, "never", []string{"hence bound: never", `Graph: its rule needs resources: ["https://graph.microsoft.com"]`}},
		{"one whose code asks for the app's own token", unbound, `"DownstreamApi": ` + strings.Replace(bearer, `"RequestAppToken": true, `, "", 1), "never", []string{"hence bound: never", `DownstreamApi: its rule needs resources: ["https://graph.microsoft.com"]`}},
		{"bound ones alone", unbound, `"DownstreamApis": {"Vault": ` + pop + `, "Me": ` + ofUsers + `}`, "require", []string{"MTLS_POP), hence bound: require", `DownstreamApis:Vault: asks for tokens that are bound to a certificate (MTLS_POP): its rule needs resources: ["https://vault.azure.net"], types: [mtls_pop]`}},
		{"both", unbound, `"Vault": ` + strings.Replace(pop, "MTLS_POP", "mtls_pop", 1) + `, "Graph": ` + bearer, "prefer", []string{"hence bound: prefer", `Graph: its rule needs resources: ["https://graph.microsoft.com"]`, "Vault: asks for"}},
		{"what is bound anyway stays required", boundMI, `"Vault": ` + pop + `, "Graph": ` + bearer, "require", []string{`Graph: its rule needs resources: ["https://graph.microsoft.com"]`, "Vault: asks for"}},
		{"those of another section do not count", unbound, `"Vault": ` + strings.Replace(pop, "}", `, "AcquireTokenOptions": {"AuthenticationOptionsName": "Other"}}`, 1), "never", []string{"hence bound: never"}},
		{"a file", `{"SourceType": 8, "SignedAssertionFileDiskPath": "/run/a"}`, `"Vault": ` + pop, "never", []string{"gives no token that is bound to a certificate (MTLS_POP), here as in Microsoft.Identity.Web (IDW10115)", "Vault: asks for"}},
		{"decryption is no API", unbound, `"X": {"DecryptKeysAuthenticationOptions": {"ProtocolScheme": "MTLS_POP"}}`, "never", []string{"hence bound: never"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			settings := strings.TrimSuffix(appSettings(tc.credential), "}")
			if tc.apis != "" {
				settings += ", " + tc.apis
			}
			im, err := config.ImportAppSettings([]byte(settings+"}"), config.ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := im.Identity.Application.Credentials[0].Bound; got != tc.bound {
				t.Errorf("bound: %s, want %s", got, tc.bound)
			}
			checkNotices(t, im.Notices, tc.notices)
			checkImportedYAML(t, im)
		})
	}
}

// The rule that comes with the result is one, once its comment signs are taken away.
func TestImportHasARuleToTakeOver(t *testing.T) {
	const api = `"Graph": {"BaseUrl": "https://g", "RequestAppToken": true, %s "Scopes": ["https://graph.microsoft.com/.default"]}`
	for name, tc := range map[string]struct {
		apis            string
		resource, types string
	}{
		"no API is known":  {"", "https://vault.azure.net", ""},
		"an API":           {fmt.Sprintf(api, ""), "https://graph.microsoft.com", ""},
		"one of the bound": {fmt.Sprintf(api, `"ProtocolScheme": "MTLS_POP",`), "https://graph.microsoft.com", config.TypePoP},
	} {
		t.Run(name, func(t *testing.T) {
			settings := strings.TrimSuffix(appSettings(boundMI), "}")
			if tc.apis != "" {
				settings += ", " + tc.apis
			}
			im, err := config.ImportAppSettings([]byte(settings+"}"), config.ImportOptions{Name: "shop"})
			if err != nil {
				t.Fatal(err)
			}
			text, err := im.YAML()
			if err != nil {
				t.Fatal(err)
			}
			head, rule, found := strings.Cut(string(text), "# rules:\n")
			if !found {
				t.Fatalf("no rule in\n%s", text)
			}
			cfg, err := config.Parse("taken.yaml", []byte(head+"rules:\n"+strings.ReplaceAll("\n"+rule, "\n# ", "\n")))
			if err != nil {
				t.Fatal(err)
			}
			got := cfg.Rules[0]
			if !slices.Equal(got.Identities, []string{"shop"}) || !slices.Equal(got.Resources, []string{tc.resource}) || (tc.types != "" && !slices.Equal(got.Types, []string{tc.types})) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// The key is called as the identity is, and gets its certificate from where Entra takes it.
func TestImportSaysHowAKeyIsCertified(t *testing.T) {
	for name, tc := range map[string]struct{ settings, identity, key, want string }{
		"signed assertions":     {appSettings(`{"SourceType": "Path"}`), "shop", "shop", "keyagent key self-sign shop"},
		"mutual TLS":            {appSettings(boundPath), "shop", "shop", "keyagent key csr shop --subject CN=shop --out shop.csr), and put that beside the key (keyagent cert import shop --file"},
		"with the chain":        {appSettings(`{"SourceType": "Path"}`, `"SendX5C": true,`), "", "app", "keyagent key csr app"},
		"without the chain":     {appSettings(`{"SourceType": "Path"}`, `"SendX5C": false,`), "", "app", "keyagent key self-sign app"},
		"the agent's own name":  {appSettings(boundPath), "binding", "app", "keyagent key csr app"},
		"a name that cannot be": {appSettings(boundPath), "a b", "app", "keyagent key csr app"},
		"the key of its number": {appSettings(boundMI + "," + boundPath), "shop", "shop", "keyagent key create shop;"},
	} {
		t.Run(name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(tc.settings), config.ImportOptions{Name: tc.identity})
			if err != nil {
				t.Fatal(err)
			}
			credentials := im.Identity.Application.Credentials
			if got := credentials[len(credentials)-1].Key; got != tc.key {
				t.Errorf("key %q, want %q", got, tc.key)
			}
			if notices := strings.Join(im.Notices, "\n"); !strings.Contains(notices, tc.want) || strings.Contains(notices, "SendX5C") {
				t.Errorf("notices\n%s", notices)
			}
		})
	}
	if _, err := config.ImportAppSettings([]byte(appSettings(boundPath, `"SendX5C": "perhaps",`)), config.ImportOptions{}); err == nil || !strings.Contains(err.Error(), "SendX5C: neither true nor false") {
		t.Errorf("got %v", err)
	}
}

// A managed identity without an app registration is an identity, too.
func TestImportManagedIdentityAlone(t *testing.T) {
	vault := func(identity, besides string) string {
		return `{"BaseUrl": "https://v.vault.azure.net/", "RequestAppToken": true, ` + besides + `"Scopes": ["https://vault.azure.net/.default"], "AcquireTokenOptions": {"ManagedIdentity": ` + identity + `}}`
	}
	const pop, user = `"ProtocolScheme": "MTLS_POP", `, `{"UserAssignedClientId": "` + userManaged + `"}`
	for _, tc := range []struct {
		name, section, settings string
		client, bound           string
		notices                 []string
		wrong                   string
	}{
		{"system-assigned, bound", "", `{"AzureKeyVault": ` + vault("{}", pop) + `}`, "", "require", []string{`AzureKeyVault: asks for tokens that are bound to a certificate (MTLS_POP): its rule needs resources: ["https://vault.azure.net"], types: [mtls_pop]`}, ""},
		{"user-assigned, bound", "", `{"AzureKeyVault": ` + vault(user, pop) + `}`, userManaged, "require", []string{"types: [mtls_pop]"}, ""},
		{"not said to be bound", "", `{"AzureAd": {"ClientCapabilities": ["cp1"]}, "A": {"B": ` + vault(user, "") + `}}`, userManaged, "never", []string{"A:B: its ProtocolScheme is not MTLS_POP, hence bound: never", `A:B: its rule needs resources: ["https://vault.azure.net"]`}, ""},
		{"for two APIs", "", `{"V": ` + vault(user, pop) + `, "W": ` + vault(strings.Replace(strings.ToUpper(user), "USERASSIGNED", "UserAssigned", 1), "") + `}`, userManaged, "prefer", []string{"V: asks for", "W: its rule needs"}, ""},
		{"in variables", "", "V__AcquireTokenOptions__ManagedIdentity__UserAssignedClientId={" + userManaged + "}\nV__ProtocolScheme=MTLS_POP\n", userManaged, "require", []string{"V: asks for tokens that are bound"}, ""},
		{"with what we do not know", "", `{"V": ` + vault(`{"UserAssignedResourceId": "hunter2"}`, pop) + `}`, "", "require", []string{"V:AcquireTokenOptions:ManagedIdentity.UserAssignedResourceId: keyagent has no such setting", "V: asks for"}, ""},
		{"two of them", "", `{"V": ` + vault("{}", pop) + `, "W": ` + vault(user, pop) + `}`, "", "", nil, "--section V, --section W"},
		{"one of two", "w", `{"V": ` + vault("{}", pop) + `, "W": ` + vault(user, pop) + `}`, userManaged, "require", []string{"W: asks for", "V: another identity, not imported here; --section V imports it"}, ""},
		{"beside an app of another section", "", `{"V": ` + vault("{}", pop) + `, "EntraId": {` + appIDs + `}}`, "", "", nil, "--section EntraId, --section V"},
		{"a form that was not filled in", "", `{"V": ` + vault(`{"UserAssignedClientId": "<enter it>"}`, pop) + `}`, "", "", nil, `V:AcquireTokenOptions:ManagedIdentity.UserAssignedClientId: "<enter it>" is not a GUID`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im, err := config.ImportAppSettings([]byte(tc.settings), config.ImportOptions{Section: tc.section})
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) {
					t.Errorf("got %+v, %v, want %q", im, err, tc.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := im.Identity.ManagedIdentity
			if im.Identity.Name != "vm" || im.Identity.Application != nil || got == nil || !strings.EqualFold(got.ClientID, tc.client) || got.Bound != tc.bound {
				t.Errorf("got %+v", im.Identity)
			}
			checkNotices(t, im.Notices, tc.notices)
			text, err := im.YAML()
			if err != nil || !strings.Contains(string(text), "managed_identity:") || strings.Contains(string(text), "hunter2") {
				t.Errorf("%v\n%s", err, text)
			}
		})
	}
}

// What is imported is not all that is there.
func TestImportSaysWhatElseThereIs(t *testing.T) {
	besides := `"Staff": {` + appIDs + `}, `
	settings := strings.TrimSuffix(appSettings(boundMI, besides), "}") + `, "AzureAdB2C": {` + appIDs + `}, "V": {"AcquireTokenOptions": {"ManagedIdentity": {}}}}`
	im, err := config.ImportAppSettings([]byte(settings), config.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkNotices(t, im.Notices, []string{"AzureAd:Staff: another identity, not imported here; --section AzureAd:Staff imports it", "AzureAdB2C: another", "V: another"})
	checkImportedYAML(t, im)
}

// Before there were lists of credentials, a switch said that a managed identity is one.
func TestImportTakesTheOldSwitch(t *testing.T) {
	old := `{"AzureAd": {` + appIDs + `, "ClientCredentialsUsingManagedIdentity": {"IsEnabled": true, "ManagedIdentityClientId": "` + userManaged + `"}, "ClientCertificates": [` + boundPath + `]}}`
	im, err := config.ImportAppSettings([]byte(old), config.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Credential{
		{Source: "managed_identity", Bound: "never", ManagedIdentity: &config.ManagedIdentitySelector{ClientID: userManaged}}, {Source: "certificate", Bound: "require", Key: "app"},
	}
	if diff := cmp.Diff(want, im.Identity.Application.Credentials); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	checkNotices(t, im.Notices, []string{"hence bound: never", "its private key stays"})
}
