package formats

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// EATProfile names our use of the claims of RFC 9711.
const EATProfile = "tag:github.com,2026:keyagent/keyagent/eat#1"

// eat is a claims set: RFC 9711, 4; cnf is of RFC 7800, aud of RFC 7519.
type eat struct {
	Profile  string         `json:"eat_profile"`
	Nonce    string         `json:"eat_nonce,omitempty"`
	Audience string         `json:"aud,omitempty"`
	UEID     string         `json:"ueid,omitempty"`
	Confirm  *confirmation  `json:"cnf,omitempty"`
	Submods  map[string]any `json:"submods,omitempty"`
}

type confirmation struct {
	JWK jwk `json:"jwk"`
}

type jwk struct {
	Type     string `json:"kty"`
	Modulus  string `json:"n"`
	Exponent string `json:"e"`
}

type eatTPM struct {
	Boots        uint32        `json:"bootcount"`
	Measurements []measurement `json:"measurements,omitempty"`
}

type eatTEE struct {
	Model        string        `json:"hwmodel,omitempty"` // bytes, base64url
	Debug        string        `json:"dbgstat,omitempty"`
	Measurements []measurement `json:"measurements,omitempty"`
}

// measurement is a pair of a CoAP content format and content in that format, in base64url (RFC
// 9711, 4.2.16).
type measurement [2]any

// jsonContent is application/json in the registry of CoAP content formats.
const jsonContent = 50

func newMeasurement(v any) (measurement, error) {
	data, err := json.Marshal(v)
	return measurement{jsonContent, b64(data)}, err
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// eatClaims says what evidence says, verified or not.
func eatClaims(e *attest.Evidence) (*eat, error) {
	// Without anchors and challenge nothing is verified; the result has the facts that can be read.
	said := attest.VerifyExpected(e, attest.Expected{}, attest.TrustAnchors{}, attest.Policy{}, time.Unix(1, 0))
	claims := &eat{
		Profile: EATProfile, Nonce: b64(e.Nonce), Audience: e.Audience, UEID: ueid(said.VMID), Submods: map[string]any{},
	}
	if e.KeyPublic != nil {
		key, err := attest.ParseKey(e.KeyPublic)
		if err != nil {
			return nil, err
		}
		exponent := big.NewInt(int64(key.E)).Bytes()
		claims.Confirm = &confirmation{jwk{Type: "RSA", Modulus: b64(key.N.Bytes()), Exponent: b64(exponent)}}
	}
	if err := addTPM(claims, said); err != nil {
		return nil, err
	}
	return claims, addTEE(claims, said)
}

// ueid is a UEID of type RAND: the random number is the VM's id, a UUID (RFC 9711, 4.2.1.1).
func ueid(vmID string) string {
	const random = 0x01
	id, err := hex.DecodeString(strings.ReplaceAll(vmID, "-", ""))
	if err != nil || len(id) != 16 {
		return ""
	}
	return b64(append([]byte{random}, id...))
}

func addTPM(claims *eat, said *attest.Result) error {
	if said.Clock == (attest.Clock{}) {
		return nil // no quote that can be read
	}
	tpm := eatTPM{Boots: said.Clock.ResetCount}
	if said.PCRs != nil {
		m, err := newMeasurement(map[string]any{"pcrs": map[string]any{said.PCRBank.Name(): hexValues(said.PCRs)}})
		if err != nil {
			return err
		}
		tpm.Measurements = append(tpm.Measurements, m)
	}
	if said.EventLog != nil {
		m, err := newMeasurement(map[string]any{"event_log": said.EventLog})
		if err != nil {
			return err
		}
		tpm.Measurements = append(tpm.Measurements, m)
	}
	claims.Submods["tpm"] = tpm
	return nil
}

func hexValues(pcrs map[int][]byte) map[string]string {
	values := map[string]string{}
	for index, value := range pcrs {
		values[strconv.Itoa(index)] = hex.EncodeToString(value)
	}
	return values
}

// addTEE fills in what the processor's report says. Whether the host may look into the guest is
// fixed when the guest is launched.
func addTEE(claims *eat, said *attest.Result) error {
	var claim eatTEE
	var launch map[string]string
	var debug bool
	switch {
	case said.SNP != nil:
		claim.Model = b64([]byte("AMD SEV-SNP"))
		launch = map[string]string{"measurement": hex.EncodeToString(said.SNP.Measurement), "id_key_digest": hex.EncodeToString(said.SNP.IDKeyDigest)}
		debug = said.SNP.DebugAllowed()
	case said.TDX != nil:
		claim.Model = b64([]byte("Intel TDX"))
		launch = map[string]string{"mrtd": hex.EncodeToString(said.TDX.MRTD)}
		debug = said.TDX.Attributes&tee.TDAttributesUnderDebug != 0
	default:
		return nil
	}
	claim.Debug = "disabled-since-boot"
	if debug {
		claim.Debug = "enabled"
	}
	m, err := newMeasurement(launch)
	claim.Measurements = []measurement{m}
	claims.Submods["tee"] = claim
	return err
}
