package binding

import (
	"time"

	"github.com/keyagent/keyagent/acquire/imds"
)

// The certificate request is an inside that must match the issuer byte for byte; the schedule is
// one that only time shows.
var (
	NewCertificateRequest = newCertificateRequest
	RequestInfo           = requestInfo
	ParseTokenNotAfter    = parseTokenNotAfter
	RenewalTime           = renewalTime
	Tenth                 = tenth
	Backoff               = backoff
	Remaining             = remaining
)

// HardStop is how long before its effective expiry a certificate is no longer used.
const HardStop = hardStop

// DecodeRecord reads a state file.
func DecodeRecord(data []byte, selector string) error {
	_, err := decodeRecord(data, selector)
	return err
}

// FileOf is the name of a selector's state file.
func FileOf(sel imds.Selector) (string, error) {
	n, err := newName(sel)
	if err != nil {
		return "", err
	}
	return n.file(), nil
}

// Breaker keeps the pauses between replacements.
type Breaker struct{ b breaker }

// Wait is how long the next replacement has to wait.
func (b *Breaker) Wait(now time.Time) time.Duration { return b.b.wait(now) }

// Spend records a replacement.
func (b *Breaker) Spend(began, ended time.Time) { b.b = b.b.spend(began, ended) }
