package imds_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/journal"
)

const (
	tokenPath   = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource="
	computePath = "/metadata/instance/compute"
)

// get asks as a client of managed identity v1 does: without a request id.
func (w *world) get(t *testing.T, target string) answer {
	t.Helper()
	return w.do(t, http.MethodGet, target, map[string]string{"x-ms-client-request-id": ""}, nil)
}

func TestTokenOfEachSelector(t *testing.T) {
	w := newWorld(t)
	for selector, want := range map[string]string{
		"":                           systemClientID,
		"&client_id=" + userClientID: userClientID,
		"&object_id=" + userObjectID: userClientID,
		"&msi_res_id=" + url.QueryEscape(strings.ToUpper(userResourceID)): userClientID,
		"&mi_res_id=" + url.QueryEscape(userResourceID):                   userClientID,
		"&unknown=parameter": systemClientID,
	} {
		a := w.get(t, tokenPath+url.QueryEscape(vault)+selector)
		if a.status != 200 || a.text("client_id") != want || !strings.HasPrefix(a.text("access_token"), want+"|"+vault+"|") || !strings.HasPrefix(a.server, "IMDS/") {
			t.Errorf("selector %q: %d %v", selector, a.status, a.fields)
		}
	}
	e := w.journal.Operation(imds.OpToken)
	if len(e) != 6 || e[0].Outcome != journal.OK || e[0].Detail["resource"] != vault {
		t.Errorf("journal: %+v", e)
	}
}

func TestEveryValueOfATokenIsAString(t *testing.T) {
	w := newWorld(t)
	w.get(t, tokenPath+vault) // into the cache
	w.advance(90 * time.Second)
	a := w.get(t, tokenPath+vault)
	for name, want := range map[string]string{
		"expires_in": "86310", "ext_expires_in": "86310", "expires_on": "1780401600", "not_before": "1780315200",
		"resource": vault, "token_type": "Bearer", "refresh_token": "", "client_id": systemClientID,
	} {
		if got, ok := a.fields[name].(string); !ok || got != want {
			t.Errorf("%s is %v, want %q", name, a.fields[name], want)
		}
	}
	if len(a.fields) != 9 {
		t.Errorf("answer %v", a.fields)
	}
}

func TestTokensAreCached(t *testing.T) {
	w := newWorld(t)
	for _, step := range []struct {
		query string
		after time.Duration
		want  string // number of the token
	}{
		{"", 0, "1"},
		{"", time.Hour, "1"},
		{"&bypass_cache=true", 0, "2"},
		{"&bypass_cache=false", 0, "2"},
		{"&client_id=" + userClientID, 0, "3"},
		{"", 12 * time.Hour, "4"},
	} {
		w.advance(step.after)
		a := w.get(t, tokenPath+vault+step.query)
		if parts := strings.Split(a.text("access_token"), "|"); parts[len(parts)-1] != step.want {
			t.Errorf("%+v: %v", step, a.fields)
		}
	}
	if a := w.get(t, tokenPath+vault+"/"); a.text("resource") != vault+"/" || !strings.HasSuffix(a.text("access_token"), vault+"/|5") {
		t.Errorf("a resource with a slash behind it is another: %v", a.fields)
	}
}

func TestTokenPathAsClientsJoinIt(t *testing.T) {
	w := newWorld(t)
	for path, want := range map[string]int{
		"/metadata/identity/oauth2/token/": 200, "//metadata/identity/oauth2/token": 200, "/metadata//identity/oauth2/token": 200,
		"/Metadata/identity/oauth2/token": 404, "/metadata/identity/oauth2/token/x": 404, "//metadata/identity/getplatformmetadata": 404,
	} {
		if a := w.get(t, path+"?api-version=2018-02-01&resource="+vault); a.status != want {
			t.Errorf("%s: %d %v", path, a.status, a.fields)
		}
	}
}

// Programs were seen to send these; the real service takes each of them.
func TestTokensOfEachVersion(t *testing.T) {
	w := newWorld(t)
	for _, version := range []string{"2018-02-01", "2019-08-01", "2019-08-15", "2019-11-01", "2020-06-01", "2021-02-01", "2021-05-01", "2024-02-29", "2025-04-07"} {
		if a := w.get(t, "/metadata/identity/oauth2/token?api-version="+version+"&resource="+vault); a.status != 200 || a.text("client_id") != systemClientID {
			t.Errorf("%s: %d %v", version, a.status, a.fields)
		}
	}
}

func TestTokenRequestsAreRefused(t *testing.T) {
	w := newWorld(t)
	good := tokenPath + vault
	for name, c := range map[string]struct {
		target  string
		method  string
		headers map[string]string
		status  int
		code    string
	}{
		"without Metadata":                 {target: good, headers: map[string]string{"Metadata": ""}, status: 400, code: "invalid_request"},
		"a probe, without query":           {target: "/metadata/identity/oauth2/token", headers: map[string]string{"Metadata": ""}, status: 400, code: "invalid_request"},
		"Metadata in another spelling":     {target: good, headers: map[string]string{"Metadata": "True"}, status: 400, code: "invalid_request"},
		"forwarded":                        {target: good, headers: map[string]string{"X-Forwarded-For": "10.0.0.1"}, status: 400, code: "invalid_request"},
		"without version":                  {target: "/metadata/identity/oauth2/token?resource=" + vault, status: 400, code: "invalid_request"},
		"an older version":                 {target: "/metadata/identity/oauth2/token?api-version=2018-01-31&resource=" + vault, status: 400, code: "invalid_request"},
		"a version that is no date":        {target: "/metadata/identity/oauth2/token?api-version=2019-02-29&resource=" + vault, status: 400, code: "invalid_request"},
		"a version of another service":     {target: "/metadata/identity/oauth2/token?api-version=2019-07-01-preview&resource=" + vault, status: 400, code: "invalid_request"},
		"two versions":                     {target: good + "&api-version=2019-08-01", status: 400, code: "invalid_request"},
		"without resource":                 {target: tokenPath, status: 400, code: "invalid_request"},
		"two resources":                    {target: good + "&resource=" + vault, status: 400, code: "invalid_request"},
		"an unknown resource":              {target: tokenPath + "https://x.example", status: 400, code: "invalid_resource"},
		"an identity that is not assigned": {target: good + "&client_id=" + requestID, status: 400, code: "identity_not_found"},
		"two selectors":                    {target: good + "&client_id=" + userClientID + "&object_id=" + userObjectID, status: 400, code: "invalid_request"},
		"a query that cannot be read":      {target: good + "&x=%zz", status: 400, code: "invalid_request"},
		"POST":                             {target: good, method: http.MethodPost, status: 405, code: "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.method == "" {
				c.method = http.MethodGet
			}
			a := w.do(t, c.method, c.target, c.headers, nil)
			if a.status != c.status || a.text("error") != c.code || a.text("error_description") == "" || a.text("access_token") != "" {
				t.Errorf("answer %d %v, want %d %s", a.status, a.fields, c.status, c.code)
			}
		})
	}
}

func TestTokenWithoutSelectorOnAVMWithoutAnIdentityOfItsOwn(t *testing.T) {
	user := imds.Identity{ClientID: userClientID, ObjectID: userObjectID, ResourceID: userResourceID}
	for name, c := range map[string]struct {
		identities []imds.Identity
		status     int
		code       string
	}{
		"none":    {nil, 400, "identity_not_found"},
		"one":     {[]imds.Identity{user}, 200, ""},
		"several": {[]imds.Identity{user, {ClientID: systemClientID}}, 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, func(cfg *imds.Config) { cfg.Identities = c.identities })
			if a := w.get(t, tokenPath+vault); a.status != c.status || a.text("error") != c.code {
				t.Errorf("answer %d %v", a.status, a.fields)
			}
			if a := w.get(t, tokenPath+vault+"&client_id="+tenantID); a.status != 400 || a.text("error") != "identity_not_found" {
				t.Errorf("with a selector: %d %v", a.status, a.fields)
			}
		})
	}
}

func TestComputeMetadata(t *testing.T) {
	w := newWorld(t)
	a := w.get(t, computePath+"?api-version=2021-02-01")
	profile, _ := a.fields["securityProfile"].(map[string]any)
	if a.status != 200 || a.text("location") != "westeurope" || a.text("osType") != "Linux" || a.text("vmId") != vmID || profile["securityType"] != "ConfidentialVM" {
		t.Errorf("answer %d %v", a.status, a.fields)
	}
	for _, query := range []string{"", "?api-version=1999-01-01", "?api-version=2021-02-01&api-version=2021-02-01"} {
		a := w.get(t, computePath+query)
		versions, _ := a.fields["newest-versions"].([]any)
		if a.status != 400 || len(versions) == 0 || a.text("error") == "" || a.text("location") != "" {
			t.Errorf("%q: %d %v", query, a.status, a.fields)
			continue
		}
		if a = w.get(t, computePath+"?api-version="+versions[0].(string)); a.status != 200 {
			t.Errorf("the newest version: %d", a.status)
		}
	}
	if a := w.do(t, http.MethodGet, computePath+"?api-version=2021-02-01", map[string]string{"Metadata": ""}, nil); a.status != 400 {
		t.Errorf("without Metadata: %d", a.status)
	}
	if len(w.journal.Operation(imds.OpCompute)) == 0 {
		t.Error("nothing in the journal")
	}
}
