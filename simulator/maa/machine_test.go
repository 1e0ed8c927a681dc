package maa_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// machine is the VM as the agent on it sees it: a TPM with a binding key, a collector, and the attestation service.
type machine struct {
	platform  *simulator.Platform
	tpm       *tpm.TPM
	key       *tpm.Key
	collector *collect.Collector
	transport *collect.TransportKey
	http      *http.Client
	url       string // of the attestation service

	// Another key of this TPM, with the AK's statement about it for the same challenge as that of the evidence under attack. It is gone
	// from the TPM again: with binding and transport key loaded there is no room for it.
	contested    attest.Challenge
	otherKey     []byte // TPMT_PUBLIC
	otherCertify tpm.Attestation
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "maa") // short: it holds a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p, err := simulator.Start(t.Context(), simulator.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &machine{platform: p, tpm: tpmtest.Connect(t, p.Info().TPM), url: p.Info().MAA}
	m.key = tpmtest.CreateKey(t, m.tpm)
	m.http = httpClient(t, p.Info().CAFile)
	m.collector = collect.New(collect.Config{
		TPM: m.tpm, Key: m.key, IMDSEndpoint: p.Info().IMDS, Anchors: anchors(t, p.Info()), Policy: policy(t, p.Info()),
	})
	m.certifyOther(t)
	if m.transport, err = m.collector.NewTransportKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.transport.Close() })
	return m
}

func httpClient(t *testing.T, caFile string) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	data, err := os.ReadFile(caFile)
	if err != nil || !roots.AppendCertsFromPEM(data) {
		t.Fatalf("CA file: %v", err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func anchors(t *testing.T, info simulator.Info) attest.TrustAnchors {
	t.Helper()
	amd, err := os.ReadFile(info.AMDRootsFile)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := attest.ParseAMDRoots(amd)
	if err != nil {
		t.Fatal(err)
	}
	vtpm, err := os.ReadFile(info.VTPMRootsFile)
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := attest.ParseCertificates(vtpm)
	if err != nil {
		t.Fatal(err)
	}
	return attest.TrustAnchors{AMD: roots, VTPM: certificates[:1], VTPMIntermediates: certificates[1:]}
}

func policy(t *testing.T, info simulator.Info) attest.Policy {
	t.Helper()
	digest, err := hex.DecodeString(info.IDKeyDigest)
	if err != nil {
		t.Fatal(err)
	}
	p := attest.DefaultPolicy()
	p.Launch.IDKeyDigests = [][]byte{digest}
	return p
}

// challenge returns a fresh one.
func (m *machine) challenge(t *testing.T) attest.Challenge {
	t.Helper()
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		t.Fatal(err)
	}
	return attest.Challenge{Nonce: nonce, Audience: m.url}
}

func (m *machine) evidence(t *testing.T, c attest.Challenge) *attest.Evidence {
	t.Helper()
	e, err := m.collector.Collect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (m *machine) certifyOther(t *testing.T) {
	t.Helper()
	m.contested = m.challenge(t)
	other := tpmtest.CreateKey(t, m.tpm)
	m.otherKey = other.PublicArea()
	var err error
	if m.otherCertify, err = m.tpm.Certify(t.Context(), other, collect.HandleAK, m.contested.CertifyData()); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}

// quoteByOtherAK quotes with a key of the AK's template that is not the platform's, in the same TPM.
func (m *machine) quoteByOtherAK(t *testing.T, qualifyingData []byte) tpm.Quote {
	t.Helper()
	var handle tpm2.TPMHandle
	err := m.tpm.Do(t.Context(), func(tr transport.TPM) error {
		area, err := tpm2.ReadPublic{ObjectHandle: collect.HandleAK}.Execute(tr)
		if err != nil {
			return err
		}
		template, err := area.OutPublic.Contents()
		if err != nil {
			return err
		}
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: []byte("another key")})
		created, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(*template)}.Execute(tr)
		if err == nil {
			handle = created.ObjectHandle
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	quote, err := m.tpm.Quote(t.Context(), handle, []int{0, 1, 2, 3, 4, 5, 6, 7}, qualifyingData)
	flushErr := m.tpm.Do(t.Context(), func(tr transport.TPM) error {
		_, err := tpm2.FlushContext{FlushHandle: handle}.Execute(tr)
		return err
	})
	if err := errors.Join(err, flushErr); err != nil {
		t.Fatal(err)
	}
	return quote
}

// object is a JSON object in the making.
type object = map[string]any

// info writes the inner request from evidence, in this test's own words.
func (m *machine) info(t *testing.T, e *attest.Evidence) object {
	t.Helper()
	report, claims, err := e.Hardware()
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range e.VCEKChain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	proof, err := json.Marshal(object{
		"SnpReport": base64.RawURLEncoding.EncodeToString(report), "VcekCertChain": base64.StdEncoding.EncodeToString(chain),
	})
	if err != nil {
		t.Fatal(err)
	}
	indices := slices.Sorted(maps.Keys(e.PCRs))
	pcrs := []any{}
	for _, i := range indices {
		pcrs = append(pcrs, object{"Index": i, "Digest": e.PCRs[i]})
	}
	enc := m.transport.Certified()
	return object{
		"AttestationProtocolVersion": "2.0",
		"OSType":                     []byte("Linux"), "OSDistro": []byte("Debian"), "OSBuild": []byte("NotApplication"),
		"OSVersionMajor": 12, "OSVersionMinor": 0, "TcgLogs": "",
		"ClientPayload": object{
			"nonce": e.Nonce, "key-public": e.KeyPublic, "key-certify": e.Certify, "key-certify-signature": e.CertifySignature,
		},
		"TpmInfo": object{
			"AikCert": e.AKCertificate, "AikPub": sized(e.AKPublic),
			"PcrQuote": e.Quote, "PcrSignature": bare(e.QuoteSignature), "PcrSet": indices, "PCRs": pcrs,
			"EncKeyPub": sized(enc.Public), "EncKeyCertifyInfo": enc.Attest, "EncKeyCertifyInfoSignature": bare(enc.Signature),
		},
		"IsolationInfo": object{"Type": "SevSnp", "Evidence": object{"Proof": proof, "RunTimeData": claims}},
	}
}

func sized(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }

func bare(signature []byte) []byte { return signature[len(signature)-256:] }

func wrap(t *testing.T, info object) []byte {
	t.Helper()
	inner, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(object{"AttestationInfo": base64.RawURLEncoding.EncodeToString(inner)})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// answer is what came back; details lists the failing checks.
type answer struct {
	status  int
	token   string
	code    string
	message string
	failed  []string
}

const attestPath = "/attest/AzureGuest?api-version=2020-10-01"

func (m *machine) send(t *testing.T, method, path, contentType string, body []byte) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, m.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := m.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var wire struct {
		Token string `json:"token"`
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Inner   struct {
				Details []attest.Check `json:"details"`
			} `json:"innererror"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		t.Fatalf("answer %.200q: %v", data, err)
	}
	a := answer{status: resp.StatusCode, token: wire.Token, code: wire.Error.Code, message: wire.Error.Message}
	for _, c := range wire.Error.Inner.Details {
		a.failed = append(a.failed, c.Name)
	}
	return a
}

func (m *machine) attest(t *testing.T, info object) answer {
	t.Helper()
	return m.send(t, http.MethodPost, attestPath, "application/json", wrap(t, info))
}

func (a answer) mentions(text string) bool { return strings.Contains(a.message, text) }
