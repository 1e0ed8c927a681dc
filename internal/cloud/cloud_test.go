package cloud_test

import (
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/cloud"
)

func TestAliasesLeadToTheirCloud(t *testing.T) {
	for host, want := range map[string]string{
		"login.microsoftonline.com":        "public",
		"LOGIN.Microsoft.com":              "public",
		"login.windows.net":                "public",
		"sts.windows.net":                  "public",
		"login.microsoftonline.us":         "us-gov",
		"login.usgovcloudapi.net":          "us-gov",
		"login.partner.microsoftonline.cn": "china",
		"login.chinacloudapi.cn":           "china",
		"login.sovcloud-identity.fr":       "france",
		"login.sovcloud-identity.de":       "germany",
		"login.sovcloud-identity.sg":       "singapore",
		"login.microsoftonline.de":         "",
		"login.microsoftonline.com.evil":   "",
		"mtlsauth.microsoft.com":           "",
		"":                                 "",
	} {
		if got, ok := cloud.OfLoginHost(host); got.Name != want || ok != (want != "") {
			t.Errorf("OfLoginHost(%q) = %q, %v; want %q", host, got.Name, ok, want)
		}
	}
	if _, ok := cloud.Named(""); ok {
		t.Error("there is a cloud without a name")
	}
}

// A name, host or audience that two clouds shared would lead a credential to the wrong one.
func TestNoTwoCloudsShareANameAHostOrAnAudience(t *testing.T) {
	seen := map[string]string{}
	for _, c := range cloud.All() {
		for _, unique := range []string{c.Name, c.LoginHost, c.MTLSHost, c.ExchangeAudience, c.AttestationDomain} {
			if other, twice := seen[unique]; twice && unique != "" {
				t.Errorf("%s and %s share %q", other, c.Name, unique)
			}
			seen[unique] = c.Name
		}
		if named, ok := cloud.Named(c.Name); !ok || named != c {
			t.Errorf("Named(%q) = %+v, %v", c.Name, named, ok)
		}
		if found, ok := cloud.OfLoginHost(strings.ToUpper(c.LoginHost)); !ok || found != c {
			t.Errorf("OfLoginHost(%q) = %+v, %v", c.LoginHost, found, ok)
		}
	}
}
