package collect_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/tee"
)

// tdxVM is a Confidential VM with Intel TDX, with its host and Intel's service.
type tdxVM struct {
	*vm
	tdx   *at.TDX
	host  *quoteHost
	intel *intelService
	now   time.Time
}

// quoteHost exchanges TDREPORTs for quotes. answer, if set, takes over.
type quoteHost struct {
	t      *testing.T
	tdx    *at.TDX
	answer func(w http.ResponseWriter, quote []byte)

	mu   sync.Mutex
	asks int // guarded by mu
}

func (h *quoteHost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asks++
	var body struct{ Report string }
	err := json.NewDecoder(r.Body).Decode(&body)
	report, decodeErr := base64.RawURLEncoding.DecodeString(body.Report)
	if r.Method != http.MethodPost || r.URL.Path != "/acc/tdquote" || r.Header.Get("Metadata") != "true" ||
		r.Header.Get("Content-Type") != "application/json" || err != nil || decodeErr != nil || len(report) != 1024 {
		http.Error(w, "not a request for a quote", http.StatusBadRequest)
		return
	}
	quote := h.tdx.Quote(h.t, report)
	if h.answer != nil {
		h.answer(w, quote)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"quote": base64.RawURLEncoding.EncodeToString(quote)})
}

func (h *quoteHost) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asks
}

// intelService is Intel's service as a cache of it: all on one host. fail, if set, takes over.
type intelService struct {
	*httptest.Server
	mu         sync.Mutex
	collateral *tee.TDXCollateral        // guarded by mu
	fail       func(http.ResponseWriter) // guarded by mu
	paths      []string                  // guarded by mu
}

func startIntel(t *testing.T, collateral *tee.TDXCollateral) *intelService {
	t.Helper()
	s := &intelService{collateral: collateral}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *intelService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paths = append(s.paths, r.URL.RequestURI())
	if s.fail != nil {
		s.fail(w)
		return
	}
	c := s.collateral
	chain := func(header string, text []byte) { w.Header().Set(header, url.PathEscape(string(text))) }
	signed := func(member string, document, signature []byte) {
		_, _ = io.WriteString(w, `{"`+member+`":`+string(document)+`,"signature":"`+hex.EncodeToString(signature)+`"}`)
	}
	switch r.URL.RequestURI() {
	case "/tdx/certification/v4/tcb?fmspc=90C06F000000":
		chain("TCB-Info-Issuer-Chain", c.TCBInfoChain)
		signed("tcbInfo", c.TCBInfo, c.TCBInfoSignature)
	case "/tdx/certification/v4/qe/identity":
		chain("SGX-Enclave-Identity-Issuer-Chain", c.QEIdentityChain)
		signed("enclaveIdentity", c.QEIdentity, c.QEIdentitySignature)
	case "/sgx/certification/v4/pckcrl?ca=platform&encoding=der":
		chain("SGX-PCK-CRL-Issuer-Chain", c.PCKCRLChain)
		_, _ = w.Write(c.PCKCRL)
	case "/sgx/certification/v4/rootcacrl":
		_, _ = io.WriteString(w, hex.EncodeToString(c.RootCACRL))
	default:
		http.NotFound(w, r)
	}
}

func (s *intelService) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.paths)
}

func (s *intelService) failWith(fail func(http.ResponseWriter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func newTDXVM(t *testing.T) *tdxVM {
	t.Helper()
	m := &tdxVM{vm: newVM(t), tdx: at.NewTDX(at.NewIntel(t)), now: at.Epoch()}
	claims := at.Claims(m.ak(t))
	report := m.tdx.Report(at.ReportData(claims))
	m.sim.SetHCLReport(func([]byte) ([]byte, error) { return at.Wrap(4, report, claims), nil })
	m.host = &quoteHost{t: t, tdx: m.tdx}
	host := httptest.NewServer(m.host)
	t.Cleanup(host.Close)
	m.intel = startIntel(t, m.tdx.Collateral(t))
	m.config.IMDSEndpoint = host.URL
	m.config.TDXConfig = collect.TDXConfig{Collateral: m.intel.URL, CollateralHTTP: m.intel.Client()}
	m.config.Anchors.Intel = append(m.config.Anchors.Intel, m.tdx.Intel.Root())
	m.config.Now = func() time.Time { return m.now }
	return m
}

func TestCollectedTDXEvidenceConvincesAVerifier(t *testing.T) {
	m := newTDXVM(t)
	c := collect.New(m.config)
	for range 2 {
		e, err := c.Collect(t.Context(), challenge())
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		received, err := attest.Parse(bundle)
		if err != nil {
			t.Fatal(err)
		}
		r := attest.VerifyForKey(received, challenge(), m.key.PublicKey(), m.config.Anchors, attest.DefaultPolicy(), at.Epoch())
		if err := r.Err(); err != nil || r.TCB == nil || r.TCB.Status != tee.UpToDate {
			t.Fatalf("%v; TCB %+v", err, r.TCB)
		}
	}
	if m.host.asked() != 1 || len(m.intel.asked()) != 4 {
		t.Errorf("the host was asked %d times, Intel for %q", m.host.asked(), m.intel.asked())
	}
}

func TestCollateralFromADirectory(t *testing.T) {
	m := newTDXVM(t)
	dir := t.TempDir()
	c := m.tdx.Collateral(t)
	for name, content := range map[string]string{
		"tcb-info.json": string(c.TCBInfo), "tcb-info.sig.hex": hex.EncodeToString(c.TCBInfoSignature) + "\n", "tcb-info-issuer-chain.pem": string(c.TCBInfoChain),
		"qe-identity.json": string(c.QEIdentity), "qe-identity.sig.hex": hex.EncodeToString(c.QEIdentitySignature), "qe-identity-issuer-chain.pem": string(c.QEIdentityChain),
		"root-ca-crl.der": string(c.RootCACRL), "pck-crl.der": string(c.PCKCRL), "pck-crl-issuer-chain.pem": string(c.PCKCRLChain),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.config.Collateral = dir
	if _, err := collect.New(m.config).Collect(t.Context(), challenge()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "pck-crl.der")); err != nil {
		t.Fatal(err)
	}
	if _, err := collect.New(m.config).Collect(t.Context(), challenge()); err == nil || !strings.Contains(err.Error(), "pck-crl.der") {
		t.Errorf("error %v, want one that names the file", err)
	}
	if len(m.intel.asked()) != 0 {
		t.Error("Intel was asked all the same")
	}
}

func TestWithoutCollateralOnlyAPolicyThatWaivesItIsSatisfied(t *testing.T) {
	m := newTDXVM(t)
	m.config.Collateral = collect.NoCollateral
	_, err := collect.New(m.config).Collect(t.Context(), challenge())
	var ce *attest.CheckError
	if !errors.As(err, &ce) || ce.Check != attest.CheckTDXCollateral {
		t.Errorf("error %v, want a CheckError of %s", err, attest.CheckTDXCollateral)
	}
	m.config.Policy.CollateralNotRequired = true
	e, err := collect.New(m.config).Collect(t.Context(), challenge())
	if err != nil || e.TDXCollateral != nil {
		t.Errorf("collateral %v, %v", e.TDXCollateral, err)
	}
}

// TestAQuoteAboutAnotherGuestIsNotedHere, and Intel is not even asked.
func TestAQuoteAboutAnotherGuestIsNotedHere(t *testing.T) {
	m := newTDXVM(t)
	m.host.answer = func(w http.ResponseWriter, _ []byte) {
		other := m.tdx.Quote(t, m.tdx.Report(at.ReportData([]byte("other claims"))))
		_ = json.NewEncoder(w).Encode(map[string]string{"quote": base64.RawURLEncoding.EncodeToString(other)})
	}
	_, err := collect.New(m.config).Collect(t.Context(), challenge())
	if err == nil || !strings.Contains(err.Error(), "differ in report_data") || len(m.intel.asked()) != 0 {
		t.Errorf("error %v, want one that says what differs", err)
	}
}

func TestQuotesInEachSpellingOfBase64(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"quote":"-_8"}`: "\xfb\xff", `{"quote":"-_8="}`: "\xfb\xff", `{"quote":"+/8"}`: "\xfb\xff", `{"quote":"+/8="}`: "\xfb\xff",
	} {
		if quote, err := collect.ParseQuoteAnswer([]byte(text)); err != nil || string(quote) != want {
			t.Errorf("%s: %x, %v", text, quote, err)
		}
	}
	for _, text := range []string{`{"quote":"-_9"}`, `{"quote":"AA\nEC"}`, `{"quote":""}`, `{"quote":"="}`} {
		if quote, err := collect.ParseQuoteAnswer([]byte(text)); err == nil {
			t.Errorf("%s is read as %x", text, quote)
		}
	}
}

func TestAHostThatHasNoQuoteSaysWhetherToTryAgain(t *testing.T) {
	m := newTDXVM(t)
	c := collect.New(m.config)
	for name, tt := range map[string]struct {
		answer    func(w http.ResponseWriter, quote []byte)
		temporary bool
	}{
		"busy":      {func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusServiceUnavailable) }, true},
		"unknown":   {func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusNotFound) }, false},
		"no quote":  {func(w http.ResponseWriter, _ []byte) { _, _ = io.WriteString(w, `{}`) }, false},
		"not JSON":  {func(w http.ResponseWriter, _ []byte) { _, _ = io.WriteString(w, `quote`) }, false},
		"no base64": {func(w http.ResponseWriter, _ []byte) { _, _ = io.WriteString(w, `{"quote":"A\nA!"}`) }, false},
	} {
		m.host.answer = tt.answer
		_, err := c.Collect(t.Context(), challenge())
		var he *collect.HostError
		if !errors.As(err, &he) || he.Temporary() != tt.temporary || !strings.Contains(err.Error(), "a TD quote") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCollateralIsRefreshedDailyAndKeptWhileItIsValid(t *testing.T) {
	m := newTDXVM(t)
	c := collect.New(m.config)
	collected := func() error {
		_, err := c.Collect(t.Context(), challenge())
		return err
	}
	if err := collected(); err != nil {
		t.Fatal(err)
	}
	m.now = m.now.Add(25 * time.Hour)
	if err := collected(); err != nil || len(m.intel.asked()) != 8 || m.host.asked() != 2 {
		t.Errorf("after a day: %v; Intel was asked %d times, the host %d times", err, len(m.intel.asked()), m.host.asked())
	}
	m.intel.failWith(func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) })
	m.now = m.now.Add(25 * time.Hour)
	if err := collected(); err != nil {
		t.Errorf("Intel does not answer, and the last is still valid: %v", err)
	}
	m.now = at.Epoch().AddDate(0, 0, 20) // past the next update
	err := collected()
	var he *collect.HostError
	if !errors.As(err, &he) || !he.Temporary() || !strings.Contains(err.Error(), "Intel's collateral") {
		t.Errorf("nothing valid is left: %v", err)
	}
}

func TestCollateralThatDoesNotVerifyIsNotKept(t *testing.T) {
	m := newTDXVM(t)
	good := m.intel.collateral
	bad := *good
	bad.PCKCRL = m.tdx.Intel.CRL(t, true, nil, big.NewInt(4))
	m.intel.collateral = &bad
	c := collect.New(m.config)
	_, err := c.Collect(t.Context(), challenge())
	var ce *attest.CheckError
	if !errors.As(err, &ce) || ce.Check != attest.CheckTDXCollateral {
		t.Fatalf("error %v, want a CheckError of %s", err, attest.CheckTDXCollateral)
	}
	m.intel.collateral = good
	if _, err := c.Collect(t.Context(), challenge()); err != nil {
		t.Errorf("the bad collateral was kept: %v", err)
	}
}

func TestIntelsAnswersThatCannotBeUsed(t *testing.T) {
	m := newTDXVM(t)
	c := collect.New(m.config)
	for name, fail := range map[string]func(http.ResponseWriter){
		"an unknown platform": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		"no chain":            func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"tcbInfo":{},"signature":"00"}`) },
		"no statement": func(w http.ResponseWriter) {
			w.Header().Set("TCB-Info-Issuer-Chain", "x")
			_, _ = io.WriteString(w, `{}`)
		},
		"no signature": func(w http.ResponseWriter) {
			w.Header().Set("TCB-Info-Issuer-Chain", "x")
			_, _ = io.WriteString(w, `{"tcbInfo":{},"signature":"xx"}`)
		},
		"another page": func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://login.example/")
			w.WriteHeader(http.StatusFound)
		},
	} {
		m.intel.failWith(fail)
		_, err := c.Collect(t.Context(), challenge())
		var he *collect.HostError
		if !errors.As(err, &he) || he.Temporary() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzQuoteAnswer: what the host answers is base64 of one spelling or another, or refused.
func FuzzQuoteAnswer(f *testing.F) {
	for _, text := range []string{`{"quote":"AAEC"}`, `{"quote":"AA=="}`, `{"quote":"+/8="}`, `{"quote":"-_8"}`, `{"quote":1}`, `{}`, `x`, `{"quote":"AA\nEC"}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		quote, err := collect.ParseQuoteAnswer(answer)
		if err != nil {
			return
		}
		again, err := collect.ParseQuoteAnswer([]byte(`{"quote":"` + base64.RawURLEncoding.EncodeToString(quote) + `"}`))
		if err != nil || string(again) != string(quote) {
			t.Errorf("%q is read as %x, which is read as %x, %v", answer, quote, again, err)
		}
	})
}
