package maa

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/eventlog"
)

// The names under which the binding key travels in ClientPayload.
const (
	payloadNonce            = "nonce"
	payloadKeyPublic        = "key-public"
	payloadCertify          = "key-certify"
	payloadCertifySignature = "key-certify-signature"
)

// requestJSON is the body of the request. AttestationInfo is base64url of attestationInfo as JSON.
type requestJSON struct {
	AttestationInfo string `json:"AttestationInfo"`
}

// attestationInfo is protocol version 2.0; []byte members are standard base64, as encoding/json
// writes them.
type attestationInfo struct {
	ProtocolVersion string            `json:"AttestationProtocolVersion"`
	OSType          []byte            `json:"OSType"`
	OSDistro        []byte            `json:"OSDistro"`
	OSVersionMajor  int               `json:"OSVersionMajor"`
	OSVersionMinor  int               `json:"OSVersionMinor"`
	OSBuild         []byte            `json:"OSBuild"`
	TCGLogs         []byte            `json:"TcgLogs"`
	ClientPayload   map[string][]byte `json:"ClientPayload"`
	TPM             tpmInfo           `json:"TpmInfo"`
	Isolation       isolationInfo     `json:"IsolationInfo"`
}

type tpmInfo struct {
	AKCertificate          []byte     `json:"AikCert"`
	AKPublic               []byte     `json:"AikPub"` // TPM2B_PUBLIC
	Quote                  []byte     `json:"PcrQuote"`
	QuoteSignature         []byte     `json:"PcrSignature"` // bare
	PCRSet                 []int      `json:"PcrSet"`
	PCRs                   []pcrValue `json:"PCRs"`
	TransportPublic        []byte     `json:"EncKeyPub"` // TPM2B_PUBLIC
	TransportCertify       []byte     `json:"EncKeyCertifyInfo"`
	TransportCertSignature []byte     `json:"EncKeyCertifyInfoSignature"` // bare
}

type pcrValue struct {
	Index  int    `json:"Index"`
	Digest []byte `json:"Digest"`
}

type isolationInfo struct {
	Type     string   `json:"Type"`
	Evidence isolated `json:"Evidence"`
}

type isolated struct {
	Proof       []byte `json:"Proof"` // as the platform has it
	RunTimeData []byte `json:"RunTimeData"`
}

// firmwareLog is what the service is given of an event log, empty for none: it gets logs wrong that
// have other digests than SHA-256, or events of other registers than it is shown.
func firmwareLog(log []byte) []byte {
	if short, err := eventlog.Firmware(log); err == nil {
		return short
	}
	return []byte{}
}

// encodeRequest puts evidence and transport key into the service's shape. Without an event log,
// which is then empty, the service makes no claims about the boot beyond the PCRs.
func encodeRequest(os OS, r Request) ([]byte, error) {
	tpm, err := encodeTPM(r)
	if err != nil {
		return nil, err
	}
	isolation, err := encodeIsolation(r.Evidence)
	if err != nil {
		return nil, err
	}
	info, err := json.Marshal(attestationInfo{
		ProtocolVersion: "2.0",
		OSType:          []byte("Linux"),
		OSDistro:        []byte(os.Distro),
		OSVersionMajor:  os.Major,
		OSVersionMinor:  os.Minor,
		OSBuild:         []byte("NotApplication"),
		TCGLogs:         firmwareLog(r.Evidence.EventLog),
		ClientPayload: map[string][]byte{
			payloadNonce:            r.Challenge.Nonce,
			payloadKeyPublic:        r.Evidence.KeyPublic,
			payloadCertify:          r.Evidence.Certify,
			payloadCertifySignature: r.Evidence.CertifySignature,
		},
		TPM:       tpm,
		Isolation: isolation,
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(requestJSON{AttestationInfo: base64.RawURLEncoding.EncodeToString(info)})
}

func encodeTPM(r Request) (tpmInfo, error) {
	key := r.Key.Certified()
	quoteSignature, err := bareSignature(r.Evidence.QuoteSignature)
	if err != nil {
		return tpmInfo{}, fmt.Errorf("quote: %w", err)
	}
	keySignature, err := bareSignature(key.Signature)
	if err != nil {
		return tpmInfo{}, fmt.Errorf("transport key: %w", err)
	}
	info := tpmInfo{
		AKCertificate:          r.Evidence.AKCertificate,
		AKPublic:               sized(r.Evidence.AKPublic),
		Quote:                  r.Evidence.Quote,
		QuoteSignature:         quoteSignature,
		PCRSet:                 slices.Sorted(maps.Keys(r.Evidence.PCRs)),
		TransportPublic:        sized(key.Public),
		TransportCertify:       key.Attest,
		TransportCertSignature: keySignature,
	}
	for _, index := range info.PCRSet {
		info.PCRs = append(info.PCRs, pcrValue{Index: index, Digest: r.Evidence.PCRs[index]})
	}
	return info, nil
}

func encodeIsolation(e *attest.Evidence) (isolationInfo, error) {
	report, err := e.HardwareReport()
	if err != nil {
		return isolationInfo{}, err
	}
	if report == nil || report.Claims == nil {
		return isolationInfo{}, errors.New("evidence has no hardware report")
	}
	p, err := platformOf(report.Type)
	if err != nil {
		return isolationInfo{}, err
	}
	proof, err := p.proof(report.Hardware, e)
	if err != nil {
		return isolationInfo{}, err
	}
	return isolationInfo{Type: p.name, Evidence: isolated{Proof: proof, RunTimeData: report.Claims}}, nil
}

// sized makes a TPM2B of a structure: its length in two bytes, big-endian, before it.
func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) //nolint:gosec // public areas have a few hundred bytes
}

// bareSignature takes the RSASSA signature out of a TPMT_SIGNATURE: algorithm, hash and size stand
// before it, two bytes each.
func bareSignature(sig []byte) ([]byte, error) {
	const bare, header = 256, 6
	switch len(sig) {
	case bare:
		return sig, nil
	case header + bare:
		return sig[header:], nil
	}
	return nil, fmt.Errorf("signature of %d bytes, want %d", len(sig), header+bare)
}
