package imds_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/imds"
)

func (w *world) set(t *testing.T, b imds.Behaviour) {
	t.Helper()
	if err := w.server.Set(b); err != nil {
		t.Fatal(err)
	}
}

func TestAHostWithoutManagedIdentityV2(t *testing.T) {
	w := newWorldWith(t, func(cfg *imds.Config) { cfg.Behaviour.NoV2 = true })
	for _, metadata := range []string{"true", ""} { // also the probe, which tells the versions apart by this
		headers := map[string]string{"Metadata": metadata}
		if a := w.do(t, http.MethodGet, metadataPath, headers, nil); a.status != 404 {
			t.Errorf("getplatformmetadata: %d", a.status)
		}
		if a := w.do(t, http.MethodPost, credentialPath, headers, nil); a.status != 404 {
			t.Errorf("issuecredential: %d", a.status)
		}
	}
	if a := w.get(t, tokenPath+vault); a.status != 200 {
		t.Errorf("managed identity v1: %d", a.status)
	}
	w.set(t, imds.Behaviour{})
	if a := w.do(t, http.MethodGet, metadataPath, nil, nil); a.status != 200 {
		t.Errorf("after an update of the host: %d", a.status)
	}
}

func TestBypassOfTheCacheOfCredentials(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, w.maaKey, maaURL+"/certs", tokenClaims(&w.key.PublicKey))
	csr := goodCSR().sign(t, w.key)
	for name, c := range map[string]struct {
		behaviour string
		query     string
		status    int
		noted     any
	}{
		"asked for and supported":   {imds.BypassSupported, "&bypass_cache=true", 200, true},
		"asked for and not refused": {"", "&bypass_cache=true", 200, true},
		"asked for and refused":     {imds.BypassRefused, "&bypass_cache=true", 400, true},
		"not asked for":             {imds.BypassRefused, "", 200, false},
		"beside what nobody knows":  {"", "&bypass_cache=true&x=y", 400, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w.set(t, imds.Behaviour{BypassCache: c.behaviour})
			if a := w.issue(t, credentialPath+c.query, csr, token); a.status != c.status {
				t.Errorf("answer %d %v", a.status, a.fields)
			}
			e := w.journal.Operation(imds.OpCredential)
			if e[len(e)-1].Detail["bypass_cache"] != c.noted {
				t.Errorf("journal: %v", e[len(e)-1].Detail)
			}
		})
	}
}

func TestLimitOfTheIdentityCategory(t *testing.T) {
	w := newWorld(t)
	w.set(t, imds.Behaviour{Limit: &imds.Limit{PerSecond: 2}})
	ask := func() []int {
		var statuses []int
		for range 3 {
			statuses = append(statuses, w.get(t, tokenPath+vault).status)
		}
		return statuses
	}
	for range 2 {
		if got := ask(); !slices.Equal(got, []int{200, 200, 429}) {
			t.Errorf("within one second: %v", got)
		}
		w.advance(time.Second)
	}
	w.set(t, imds.Behaviour{Limit: &imds.Limit{PerSecond: 1}})
	w.get(t, tokenPath+vault)
	if a := w.get(t, computePath+"?api-version=2021-02-01"); a.status != 200 {
		t.Errorf("another category: %d", a.status)
	}
	if a := w.do(t, http.MethodGet, metadataPath, nil, nil); a.status != 429 || a.text("error") == "" {
		t.Errorf("managed identity v2: %d %v", a.status, a.fields)
	}
	w.set(t, imds.Behaviour{Limit: &imds.Limit{}})
	for i := range 21 {
		if a := w.get(t, tokenPath+vault); (a.status == 429) != (i == 20) {
			t.Errorf("request %d under the usual limit: %d", i, a.status)
		}
	}
}

func TestTooManyAtATime(t *testing.T) {
	faults := fault.NewSet(imds.OpToken)
	w := newWorldWith(t, func(cfg *imds.Config) {
		cfg.Recorder.Faults = faults
		cfg.Behaviour.Limit = &imds.Limit{Concurrent: 1}
	})
	if err := faults.Add(fault.Fault{Operation: imds.OpToken, Kind: fault.Delay, Delay: fault.Duration(fault.MaxDelay), Count: 1}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+tokenPath+vault, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		first <- err
	}()
	for len(faults.List()) > 0 { // until the first request is inside
		w.get(t, computePath)
	}
	if a := w.get(t, tokenPath+vault); a.status != 429 {
		t.Errorf("a second request beside one that hangs: %d", a.status)
	}
	cancel()
	if err := <-first; err == nil {
		t.Error("the first request was answered")
	}
}

func TestDistrustedAttestation(t *testing.T) {
	w := newWorld(t)
	csr := goodCSR().sign(t, w.key)
	issue := func(token string) string {
		t.Helper()
		if a := w.issue(t, credentialPath, csr, token); a.status != 200 {
			t.Fatalf("answer %d %v", a.status, a.fields)
		}
		e := w.journal.Operation(imds.OpCredential)
		return e[len(e)-1].Detail["certificate_thumbprint"].(string)
	}
	claims := tokenClaims(&w.key.PublicKey)
	bad := w.token(t, w.maaKey, maaURL+"/certs", claims)
	first := issue(bad)
	if len(w.rejected) != 0 {
		t.Fatalf("rejected: %v", w.rejected)
	}
	w.server.Distrust()
	second := issue(bad) // the client has not attested anew
	claims["jti"] = "another"
	issue(w.token(t, w.maaKey, maaURL+"/certs", claims))
	if !slices.Equal(w.rejected, []string{first, second}) {
		t.Errorf("rejected %v, want %s and %s", w.rejected, first, second)
	}
}

func TestBehavioursThatDoNotExist(t *testing.T) {
	w := newWorld(t)
	for _, b := range []imds.Behaviour{{BypassCache: "ignored"}, {Limit: &imds.Limit{PerSecond: -1}}, {Limit: &imds.Limit{Concurrent: -1}}} {
		if err := w.server.Set(b); err == nil {
			t.Errorf("%+v was taken", b)
		}
		if _, err := imds.New(imds.Config{Behaviour: b}); err == nil {
			t.Errorf("%+v was taken at the start", b)
		}
	}
}
