package attest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keyagent/keyagent/internal/tcg"
)

func (v *verifier) quoteStructure() error {
	if v.e.Quote == nil {
		return absent("no quote")
	}
	st, err := parseStatement(v.e.Quote, typeQuote)
	if err != nil {
		return err
	}
	v.quote = st
	v.result.Clock = st.clock
	return nil
}

func (v *verifier) quoteSignature() error {
	if v.e.Quote == nil {
		return absent("no quote")
	}
	if v.ak == nil {
		return absent("no attestation key")
	}
	return verifySignature(v.ak.Public, v.e.Quote, v.e.QuoteSignature)
}

// needQuote is the condition of checks that read the quote.
func (v *verifier) needQuote() error {
	if v.quote == nil {
		return absent("no readable quote")
	}
	return nil
}

func (v *verifier) quoteSigner() error {
	if err := v.needQuote(); err != nil {
		return err
	}
	return v.checkSigner(v.quote)
}

func (v *verifier) quoteNonce() error {
	if err := v.needQuote(); err != nil {
		return err
	}
	return v.checkNonce(v.quote, v.expected.Quote)
}

// quoteSelection requires one selection from the policy's bank that covers its registers. A quote
// of no registers, or of those that the guest can reset (16, 23), is signed like any other
// and says nothing about the boot.
func (v *verifier) quoteSelection() error {
	if err := v.needQuote(); err != nil {
		return err
	}
	if n := len(v.quote.selections); n != 1 {
		return fmt.Errorf("%d PCR selections, want 1", n)
	}
	sel := v.quote.selections[0]
	if want := v.policy.PCRBank; sel.bank != want.alg() || len(sel.bitmap) != selectSize {
		return fmt.Errorf("PCR bank %s with a bitmap of %d bytes, want %s and %d", tcg.Bank(sel.bank), len(sel.bitmap), want.Name(), selectSize)
	}
	quoted := sel.pcrs()
	if len(quoted) == 0 {
		return errors.New("no PCR is quoted")
	}
	for _, index := range v.policy.PCRs {
		if !slices.Contains(quoted, index) {
			return fmt.Errorf("PCR %d is not quoted; quoted are %v", index, quoted)
		}
	}
	return nil
}

func (v *verifier) quoteDigest() error {
	if err := v.needQuote(); err != nil {
		return err
	}
	if len(v.quote.selections) != 1 {
		return absent("no single PCR selection")
	}
	if len(v.e.PCRs) == 0 {
		return absent("no PCR values")
	}
	quoted := v.quote.selections[0].pcrs()
	listed := slices.Sorted(maps.Keys(v.e.PCRs))
	if !slices.Equal(quoted, listed) {
		return fmt.Errorf("values of PCRs %v are listed, but %v are quoted", listed, quoted)
	}
	h := sha256.New()
	for _, index := range quoted {
		h.Write(v.e.PCRs[index])
	}
	if !bytes.Equal(h.Sum(nil), v.quote.pcrDigest) {
		return errors.New("the listed PCR values do not give the quoted digest")
	}
	v.result.PCRs, v.result.PCRBank = maps.Clone(v.e.PCRs), PCRBank(tcg.Bank(v.quote.selections[0].bank))
	return nil
}

// quoteCoherence checks that both statements were made in one boot of one TPM.
func (v *verifier) quoteCoherence() error {
	if v.quote == nil || v.certify == nil {
		return absent("no quote and certify statement to compare")
	}
	q, c := v.quote.clock, v.certify.clock
	if q.ResetCount != c.ResetCount || q.RestartCount != c.RestartCount || q.FirmwareVersion != c.FirmwareVersion {
		return fmt.Errorf("quote and certify are from different boots: reset counts %d and %d, restart counts %d and %d",
			q.ResetCount, c.ResetCount, q.RestartCount, c.RestartCount)
	}
	apart := max(q.Milliseconds, c.Milliseconds) - min(q.Milliseconds, c.Milliseconds)
	if window := v.policy.ClockWindow; window > 0 && apart > uint64(window/time.Millisecond) {
		return fmt.Errorf("quote and certify were made %d ms apart, want at most %v", apart, window)
	}
	return nil
}
