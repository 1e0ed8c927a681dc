package collect_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	gattest "github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/simulator/vtpm"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// vm is a Confidential VM with a real TPM behind a socket, a simulated processor, and its host.
type vm struct {
	sim    *vtpm.TPM
	tpm    *tpm.TPM
	key    *tpm.Key
	amd    *at.AMD
	ca     *at.CA
	host   *host
	config collect.Config
}

// host is the metadata service's THIM. Its answer is the processor's chain unless status or chain
// say otherwise.
type host struct {
	status   atomic.Int32
	chain    atomic.Pointer[[][]byte]
	requests atomic.Int32
	url      string
}

func startHost(t testing.TB, amd *at.AMD) *host {
	t.Helper()
	h := &host{}
	h.status.Store(http.StatusOK)
	chain := amd.VCEKChain()
	h.chain.Store(&chain)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests.Add(1)
	if r.Method != http.MethodGet || r.URL.Path != "/metadata/THIM/amd/certification" || r.Header.Get("Metadata") != "true" {
		http.Error(w, "not a THIM request", http.StatusBadRequest)
		return
	}
	if status := int(h.status.Load()); status != http.StatusOK {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		return
	}
	var text []string
	for _, der := range *h.chain.Load() {
		text = append(text, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	_ = json.NewEncoder(w).Encode(map[string]string{
		"vcekCert": text[0], "certificateChain": strings.Join(text[1:], ""), "tcbm": "DB18000000000004", "cacheControl": "86400",
	})
}

func newVM(t testing.TB) *vm {
	t.Helper()
	m := &vm{sim: tpmtest.Simulator(t), amd: at.NewAMD(t), ca: at.NewCA(t)}
	m.host = startHost(t, m.amd)
	m.reportClaims(t, m.ak(t))
	m.certifyAK(t, nil)
	m.tpm = tpmtest.Connect(t, m.sim.Device())
	m.key = tpmtest.CreateKey(t, m.tpm)
	m.config = collect.Config{
		TPM: m.tpm, Key: m.key, IMDSEndpoint: m.host.url,
		Anchors: attest.TrustAnchors{AMD: []attest.AMDRoot{m.amd.Root()}, VTPM: []*x509.Certificate{m.ca.Root}},
		Policy:  attest.DefaultPolicy(), Now: at.Epoch,
	}
	return m
}

func (m *vm) ak(t testing.TB) *rsa.PublicKey {
	t.Helper()
	ak, err := attest.ParseAK(m.sim.AKPublic())
	if err != nil {
		t.Fatal(err)
	}
	return ak.Public
}

// reportClaims has the processor vouch for the given attestation key.
func (m *vm) reportClaims(t testing.TB, ak *rsa.PublicKey) {
	t.Helper()
	claims := at.Claims(ak)
	report := m.amd.Report(t, at.ReportData(claims), attest.AzureIDKeyDigests()[1], nil)
	m.sim.SetHCLReport(func([]byte) ([]byte, error) { return at.Wrap(2, report, claims), nil })
}

func (m *vm) certifyAK(t testing.TB, change func(*x509.Certificate)) {
	t.Helper()
	if err := m.sim.SetAKCertificate(t.Context(), m.ca.Issue(t, m.ak(t), change)); err != nil {
		t.Fatal(err)
	}
}

func challenge() attest.Challenge {
	return attest.Challenge{Nonce: []byte("a nonce of thirty-two bytes here"), Audience: "https://verifier.example"}
}

func TestCollectedEvidenceConvincesAVerifier(t *testing.T) {
	m := newVM(t)
	e, err := collect.New(m.config).Collect(t.Context(), challenge())
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
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	withoutLog := []attest.Claim{{Claim: "the event log describes the boot", Reason: attest.CheckEventLogReplay}}
	if r.Status(attest.CheckAKCertificate) != attest.Pass || !slices.Equal(r.NotProven, withoutLog) {
		t.Errorf("not proven: %+v", r.NotProven)
	}
	other := challenge()
	other.Nonce = []byte("another nonce of 32 bytes, really")[:32]
	if attest.Verify(received, other, m.config.Anchors, attest.DefaultPolicy(), at.Epoch()).Verified() {
		t.Error("verified for another nonce")
	}
}

// TestGoAttestationAcceptsTheCertifyStatement asks an independent implementation.
func TestGoAttestationAcceptsTheCertifyStatement(t *testing.T) {
	m := newVM(t)
	e, err := collect.New(m.config).Collect(t.Context(), challenge())
	if err != nil {
		t.Fatal(err)
	}
	params := gattest.CertificationParameters{Public: e.KeyPublic, CreateAttestation: e.Certify, CreateSignature: e.CertifySignature}
	if err := params.Verify(gattest.VerifyOpts{Public: m.ak(t), Hash: crypto.SHA256}); err != nil {
		t.Error(err)
	}
}

func TestTheHostIsAskedOncePerChip(t *testing.T) {
	m := newVM(t)
	c := collect.New(m.config)
	for range 2 {
		if _, err := c.Collect(t.Context(), challenge()); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.host.requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestHostFailureSaysWhetherToTryAgain(t *testing.T) {
	m := newVM(t)
	c := collect.New(m.config)
	for status, temporary := range map[int]bool{http.StatusServiceUnavailable: true, http.StatusTooManyRequests: true, http.StatusNotFound: false} {
		m.host.status.Store(int32(status))
		_, err := c.Collect(t.Context(), challenge())
		var he *collect.HostError
		if !errors.As(err, &he) {
			t.Fatalf("status %d: error %v is no HostError", status, err)
		}
		if he.Status != status || he.Temporary() != temporary || he.RetryAfter.Seconds() != 7 {
			t.Errorf("status %d: got %d, temporary %v, retry after %v", status, he.Status, he.Temporary(), he.RetryAfter)
		}
	}
	m.host.status.Store(http.StatusOK)
	if _, err := c.Collect(t.Context(), challenge()); err != nil {
		t.Errorf("after recovery: %v", err)
	}
}

func TestEvidenceThatWouldBeRefusedIsNotSent(t *testing.T) {
	m := newVM(t)
	c := collect.New(m.config)
	good := *m.host.chain.Load()
	swapped := [][]byte{good[1], good[1], good[2]}
	m.host.chain.Store(&swapped)
	_, err := c.Collect(t.Context(), challenge())
	var ce *attest.CheckError
	if !errors.As(err, &ce) || !strings.HasPrefix(ce.Check, "snp.") {
		t.Fatalf("error %v, want a CheckError of snp.*", err)
	}
	m.host.chain.Store(&good)
	if _, err := c.Collect(t.Context(), challenge()); err != nil {
		t.Errorf("the bad chain was kept: %v", err)
	}
}

func TestAReplacedAttestationKeyIsNoticed(t *testing.T) {
	m := newVM(t)
	replaceAK(t, m.tpm)
	_, err := collect.New(m.config).Collect(t.Context(), challenge())
	if err == nil || !strings.Contains(err.Error(), "replaced after boot") {
		t.Fatalf("error %v, want one that says what happened", err)
	}
}

// replaceAK does what root in the guest can do: evict the platform's key and put one of the same
// kind there.
func replaceAK(t *testing.T, on *tpm.TPM) {
	t.Helper()
	err := on.Do(t.Context(), func(dev transport.TPM) error {
		old, err := tpm2.ReadPublic{ObjectHandle: collect.HandleAK}.Execute(dev)
		if err != nil {
			return err
		}
		template, err := old.OutPublic.Contents()
		if err != nil {
			return err
		}
		unique := make([]byte, 256)
		unique[0] = 1
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: unique})
		made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(*template)}.Execute(dev)
		if err != nil {
			return err
		}
		defer func() { _, _ = tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(dev) }()
		for _, evict := range []tpm2.EvictControl{
			{ObjectHandle: tpm2.NamedHandle{Handle: collect.HandleAK, Name: old.Name}},
			{ObjectHandle: tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}},
		} {
			evict.Auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
			evict.PersistentHandle = collect.HandleAK
			if _, err := evict.Execute(dev); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWithoutAReportThereIsNoEvidence(t *testing.T) {
	m := newVM(t)
	m.sim.SetHCLReport(nil)
	if _, err := collect.New(m.config).Collect(t.Context(), challenge()); !errors.Is(err, collect.ErrNoReport) {
		t.Errorf("error %v, want ErrNoReport", err)
	}
}

func TestAnUnprovisionedAKCertificateIsLeftOut(t *testing.T) {
	m := newVM(t)
	m.certifyAK(t, nil)
	other := at.NewNamedCA(t, "MICROSOFT AZURE TRUSTED VM RSA 01")
	if err := m.sim.SetAKCertificate(t.Context(), other.Issue(t, m.ak(t), nil)); err != nil {
		t.Fatal(err)
	}
	e, err := collect.New(m.config).Collect(t.Context(), challenge())
	if err != nil {
		t.Fatal(err)
	}
	if e.AKCertificate != nil {
		t.Error("the certificate was sent")
	}
}

func TestAForeignAKCertificateIsNotSent(t *testing.T) {
	m := newVM(t)
	if err := m.sim.SetAKCertificate(t.Context(), at.NewCA(t).Issue(t, m.ak(t), nil)); err != nil {
		t.Fatal(err)
	}
	_, err := collect.New(m.config).Collect(t.Context(), challenge())
	var ce *attest.CheckError
	if !errors.As(err, &ce) || ce.Check != attest.CheckAKCertificate {
		t.Errorf("error %v, want %s", err, attest.CheckAKCertificate)
	}
}

func TestAShortNonceIsRefusedBeforeTheTPMWorks(t *testing.T) {
	m := newVM(t)
	if _, err := collect.New(m.config).Collect(t.Context(), attest.Challenge{Nonce: make([]byte, 15), Audience: "a"}); err == nil {
		t.Error("no error")
	}
}
