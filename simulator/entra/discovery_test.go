package entra_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/simulator/entra"
)

func getJSON(t *testing.T, c *http.Client, target string) (int, map[string]any) {
	t.Helper()
	resp, err := c.Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func TestOpenIDConfiguration(t *testing.T) {
	w := newWorld(t)
	c := w.client(t, nil, nil)
	status, body := getJSON(t, c, w.login+"/"+tenantID+"/v2.0/.well-known/openid-configuration")
	for name, want := range map[string]string{
		"issuer": "/v2.0", "token_endpoint": "/oauth2/v2.0/token", "authorization_endpoint": "/oauth2/v2.0/authorize", "jwks_uri": "/discovery/v2.0/keys",
	} {
		if status != 200 || body[name] != w.login+"/"+tenantID+want {
			t.Errorf("%d, %s is %v", status, name, body[name])
		}
	}
	if status, keys := getJSON(t, c, body["jwks_uri"].(string)); status != 200 || len(keys["keys"].([]any)) != 1 {
		t.Errorf("keys: %d %v", status, keys)
	}
	if status, _ := getJSON(t, c, w.login+"/common/v2.0/.well-known/openid-configuration"); status != 400 {
		t.Errorf("another tenant: %d", status)
	}
	if status, _ := getJSON(t, c, w.url+"/"+tenantID+"/v2.0/.well-known/openid-configuration"); status != 404 {
		t.Errorf("on the mutual-TLS face: %d", status)
	}
	if n := len(w.journal.Operation(entra.OpDiscovery)); n != 2 {
		t.Errorf("%d entries in the journal", n)
	}
}

func TestInstanceDiscovery(t *testing.T) {
	w := newWorld(t)
	c := w.client(t, nil, nil)
	ask := func(endpoint string) (int, map[string]any) {
		return getJSON(t, c, w.login+"/common/discovery/instance?api-version=1.1&authorization_endpoint="+url.QueryEscape(endpoint))
	}
	for endpoint, want := range map[string]string{
		w.login + "/" + tenantID + "/oauth2/v2.0/authorize":                             w.login,
		"https://login.microsoftonline.com/" + tenantID + "/oauth2/v2.0/authorize":      "https://login.microsoftonline.com",
		"https://westeurope.login.microsoft.com/" + tenantID + "/oauth2/v2.0/authorize": "https://westeurope.login.microsoft.com",
	} {
		if status, body := ask(endpoint); status != 200 || body["tenant_discovery_endpoint"] != want+"/"+tenantID+"/v2.0/.well-known/openid-configuration" {
			t.Errorf("%s: %d %v", endpoint, status, body)
		}
	}
	for _, endpoint := range []string{
		"", w.url + "/" + tenantID + "/oauth2/v2.0/authorize", "https://attacker.example/" + tenantID, strings.Replace(w.login, "https", "http", 1) + "/" + tenantID,
		w.login + "/common/oauth2/v2.0/authorize", "https://x@login.microsoftonline.com/" + tenantID, "https://www.microsoft.com/" + tenantID,
	} {
		if status, body := ask(endpoint); status != 400 || body["tenant_discovery_endpoint"] != nil {
			t.Errorf("%s: %d %v", endpoint, status, body)
		}
	}
	if status, _ := getJSON(t, c, w.login+"/common/discovery/instance?authorization_endpoint="+url.QueryEscape(w.login+"/"+tenantID)); status != 400 {
		t.Errorf("without version: %d", status)
	}
}

// A client that dials the names of the public cloud to here gets a face that speaks of itself by
// that name.
func TestFacesByName(t *testing.T) {
	w := newWorld(t)
	names := append(entra.LoginNames(), entra.MTLSNames()...)
	server, err := w.servers.Certificate(epoch(), names...)
	if err != nil {
		t.Fatal(err)
	}
	byName := httptest.NewUnstartedServer(nil)
	serve(t, byName, w.server.Login(), entra.LoginTLSConfig(server))
	roots := x509.NewCertPool()
	roots.AddCert(w.servers.Root)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Time: epoch},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, byName.Listener.Addr().String())
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: transport}
	certificate := w.register(t)
	for _, base := range []string{
		"https://login.microsoftonline.com", "https://westeurope.login.microsoft.com", "https://eastus2.login.microsoft.com",
		"https://login.microsoft.com", "https://login.windows.net", "https://sts.windows.net",
	} {
		_, body := getJSON(t, c, base+"/"+tenantID+"/v2.0/.well-known/openid-configuration")
		if body["token_endpoint"] != base+tokenPath || body["issuer"] != "https://login.microsoftonline.com/"+tenantID+"/v2.0" {
			t.Errorf("%s: %v", base, body)
		}
		a, err := send(t, c, base+tokenPath, appForm(newDraft(base+tokenPath, certificate, w.key).sign(t)))
		if err != nil || a.status != 200 {
			t.Errorf("%s: %d %s: %v", base, a.status, a.body, err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.login+"/"+tenantID+"/v2.0/.well-known/openid-configuration", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "attacker.example"
	resp, err := w.client(t, nil, nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body["token_endpoint"] != w.login+tokenPath {
		t.Errorf("a name that is none of its own: %v %v", body, err)
	}
}
