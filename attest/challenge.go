package attest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Nonce and audience limits, in bytes.
const (
	MinNonceSize    = 16
	MaxNonceSize    = 64
	MaxAudienceSize = 1024
)

// DefaultAudience is the audience of evidence that is asked for and verified by hand, without
// naming one. All who use it share it: a verifier that is a service names itself, so that nobody
// can pass its nonce on as one of their own.
const DefaultAudience = "urn:keyagent:by-hand"

// Labels that keep the two statements, and other protocols' nonces, apart. Any process in the guest
// that can use the TPM may have the attestation key sign 50 bytes of its choice.
const (
	certifyLabel = "keyagent/attest/1 certify"
	quoteLabel   = "keyagent/attest/1 quote"
	reportLabel  = "keyagent/attest/1 hcl"
)

// Challenge is what a verifier asks evidence for. Evidence made for one audience is worthless to
// another, even with the same nonce.
type Challenge struct {
	Nonce    []byte // 16 to 64 bytes, never used before
	Audience string // the URL of the party that will verify the evidence

	// Issued is when the verifier gave out the nonce. It is needed for [Policy.MaxAge] alone, and
	// known to the verifier alone.
	Issued time.Time
}

// Validate checks the limits of nonce and audience.
func (c Challenge) Validate() error {
	if n := len(c.Nonce); n < MinNonceSize || n > MaxNonceSize {
		return fmt.Errorf("nonce of %d bytes, want %d to %d", n, MinNonceSize, MaxNonceSize)
	}
	if c.Audience == "" {
		return errors.New("no audience")
	}
	if n := len(c.Audience); n > MaxAudienceSize {
		return fmt.Errorf("audience of %d bytes, want at most %d", n, MaxAudienceSize)
	}
	return nil
}

// CertifyData is the qualifyingData of the TPM2_Certify statement:
//
//	SHA-256("keyagent/attest/1 certify" ‖ 0x00 ‖ len16(A) ‖ A ‖ len16(N) ‖ N)
//
// with A the audience, N the nonce and len16 a length in two bytes, big-endian. 32 bytes fit every
// TPM's limit (50 on Azure).
func (c Challenge) CertifyData() []byte {
	return derive(certifyLabel, []byte(c.Audience), c.Nonce)
}

// QuoteData is the qualifyingData of the TPM2_Quote statement. It is derived as CertifyData is,
// under the label "keyagent/attest/1 quote" and followed by len16(Name) ‖ Name of the certified
// key, so that a quote cannot be paired with the certify of another key. keyName is empty if the
// evidence is about no key.
func (c Challenge) QuoteData(keyName []byte) []byte {
	return derive(quoteLabel, []byte(c.Audience), c.Nonce, keyName)
}

// UserData is the guest's own input to the hardware report, where the verifier asks for one that
// was made for its nonce ([Policy.HardwareFresh]): derived as QuoteData is, under the label
// "keyagent/attest/1 hcl" and with SHA-512, since the input has 64 bytes.
func (c Challenge) UserData(keyName []byte) []byte {
	sum := sha512.Sum512(join(reportLabel, []byte(c.Audience), c.Nonce, keyName))
	return sum[:]
}

func derive(label string, fields ...[]byte) []byte {
	sum := sha256.Sum256(join(label, fields...))
	return sum[:]
}

// join gives other bytes for each label and list of fields.
func join(label string, fields ...[]byte) []byte {
	buf := append([]byte(label), 0)
	for _, f := range fields {
		buf = binary.BigEndian.AppendUint16(buf, uint16(len(f))) //nolint:gosec // Validate keeps every field below 64 KiB
		buf = append(buf, f...)
	}
	return buf
}
