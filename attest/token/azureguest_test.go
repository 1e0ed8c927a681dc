package token_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/maa"
	"github.com/keyagent/keyagent/attest/token"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// onlyHost allows one endpoint.
type onlyHost string

func (h onlyHost) Check(endpoint string) (string, error) {
	if strings.TrimRight(endpoint, "/") != string(h) {
		return "", fmt.Errorf("host of %q is not trusted", endpoint)
	}
	return string(h), nil
}

// site is a whole Confidential VM with its host and an attestation service.
type site struct {
	service *at.Service
	now     atomic.Pointer[time.Time]
	guest   *token.AzureGuest
}

func newSite(t *testing.T) *site {
	t.Helper()
	amd, ca := at.NewAMD(t), at.NewCA(t)
	sim := tpmtest.Simulator(t)
	ak, err := attest.ParseAK(sim.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	claims := at.Claims(ak.Public)
	report := at.Wrap(2, amd.Report(t, at.ReportData(claims), attest.AzureIDKeyDigests()[0], nil), claims)
	sim.SetHCLReport(func([]byte) ([]byte, error) { return report, nil })
	if err := sim.SetAKCertificate(t.Context(), ca.Issue(t, ak.Public, nil)); err != nil {
		t.Fatal(err)
	}
	device := tpmtest.Connect(t, sim.Device())
	anchors := attest.TrustAnchors{AMD: []attest.AMDRoot{amd.Root()}, VTPM: []*x509.Certificate{ca.Root}}
	s := &site{service: at.NewService(t, anchors)}
	s.setTime(at.Epoch())
	clock := func() time.Time { return *s.now.Load() }
	s.guest = token.NewAzureGuest(token.Config{
		Collector: collect.New(collect.Config{
			TPM: device, Key: tpmtest.CreateKey(t, device), IMDSEndpoint: startHost(t, amd.VCEKChain()),
			Anchors: anchors, Policy: attest.DefaultPolicy(), Now: at.Epoch,
		}),
		MAA: maa.New(maa.Config{Hosts: onlyHost(s.service.URL), HTTP: s.service.Client(), Now: clock}),
		Now: clock,
	})
	return s
}

func (s *site) setTime(t time.Time) { s.now.Store(&t) }

// startHost serves THIM and returns the metadata service's URL.
func startHost(t *testing.T, chain [][]byte) string {
	t.Helper()
	var text []string
	for _, der := range chain {
		text = append(text, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"vcekCert": text[0], "certificateChain": text[1] + text[2]})
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestATPMKeyIsAttestedAndItsTPMOpensTheAnswer(t *testing.T) {
	s := newSite(t)
	for range 3 {
		got, expires, err := s.guest.Attest(t.Context(), s.service.URL)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(got.Reveal(), ".") != 2 || !expires.Equal(at.Epoch().Add(8*time.Hour)) {
			t.Errorf("token %q, expires %v", got.Reveal(), expires)
		}
	}
	if n := s.service.Requests(); n != 1 {
		t.Errorf("%d requests, want 1: the token is kept", n)
	}
}

func TestALostAnswerIsAskedForAgain(t *testing.T) {
	s := newSite(t)
	s.service.Answer = func(w http.ResponseWriter, _ *http.Request, n int) bool {
		if n > 1 {
			return false
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}
	if _, _, err := s.guest.Attest(t.Context(), s.service.URL); err != nil {
		t.Error(err)
	}
	if n := s.service.Requests(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestRefusalsReachTheCallerAsTheyAre(t *testing.T) {
	s := newSite(t)
	s.service.Answer = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":{"code":"PolicyEvaluationError","message":"no"}}`))
		return true
	}
	for range 4 { // a transport key that was left behind each time would fill the TPM
		_, _, err := s.guest.Attest(t.Context(), s.service.URL)
		var e *maa.Error
		if !errors.As(err, &e) || e.Code != "PolicyEvaluationError" || e.Temporary() {
			t.Fatalf("error %v, want MAA's refusal", err)
		}
	}
}

func TestAnEndpointThatIsNotTrustedCostsNoTPMTime(t *testing.T) {
	s := newSite(t)
	if _, _, err := s.guest.Attest(t.Context(), "https://attacker.example"); err == nil {
		t.Error("no error")
	}
	if n := s.service.Requests(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestATokenThatHasExpiredAlreadyIsAClockProblem(t *testing.T) {
	s := newSite(t)
	s.setTime(at.Epoch().AddDate(0, 0, 1))
	if _, _, err := s.guest.Attest(t.Context(), s.service.URL); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("error %v, want one about the clock", err)
	}
}
