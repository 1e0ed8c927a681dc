package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

const (
	pcrCount = 24 // of a PC Client TPM: PCR 0 to 23
	// quoteAttempts bounds how often quote and PCR values are taken again because a PCR was
	// extended in between.
	quoteAttempts = 3
)

// Quote is a signed statement about PCRs, and the values that it is about.
type Quote struct {
	Attestation
	PCRs map[int][]byte // index to value, of the quoted bank; their digest is in the statement
}

// pcrSet are PCRs of one bank, in rising order.
type pcrSet struct {
	bank tpm2.TPMAlgID
	pcrs []int
}

// Quote is [TPM.QuoteBank] for PCRs of the SHA-256 bank.
func (t *TPM) Quote(ctx context.Context, ak tpm2.TPMHandle, pcrs []int, qualifyingData []byte) (Quote, error) {
	return t.QuoteBank(ctx, ak, PCRSelection{PCRs: pcrs}, qualifyingData)
}

// QuoteBank lets the attestation key ak sign the values of the selected PCRs, with the
// qualifyingData, at most 50 bytes (TPM 2.0 Part 3, 18.4). The values returned are those that the
// statement is about: a PCR that is extended between quote and reading makes it start over, at most
// 3 times in all. The signature is the verifier's to check.
func (t *TPM) QuoteBank(ctx context.Context, ak tpm2.TPMHandle, asked PCRSelection, qualifyingData []byte) (Quote, error) {
	pcrs := asked.PCRs
	selection, err := selectBank(asked)
	if err == nil {
		err = checkQualifyingData(qualifyingData)
	}
	if err != nil {
		return Quote{}, fmt.Errorf("quoting PCRs %v: %w", pcrs, err)
	}
	var q Quote
	err = t.again(ctx, func(turn *turn) error {
		q, err = quoteSettled(turn, ak, selection, qualifyingData)
		return err
	})
	if err != nil {
		return Quote{}, fmt.Errorf("quoting PCRs %v with the attestation key at 0x%08x: %w", pcrs, uint32(ak), err)
	}
	return q, nil
}

// errPCRsMoved says that PCR values and quote are of different moments.
var errPCRsMoved = errors.New("PCRs were extended while they were quoted")

func quoteSettled(t *turn, ak tpm2.TPMHandle, selection pcrSet, qualifyingData []byte) (Quote, error) {
	var q Quote
	err := t.withAttestationKey(ak, func(signer object) (err error) {
		for range quoteAttempts {
			q, err = quoteOnce(t, signer, selection, qualifyingData)
			if !errors.Is(err, errPCRsMoved) {
				return err
			}
		}
		return err
	})
	return q, err
}

func quoteOnce(t *turn, signer object, selection pcrSet, qualifyingData []byte) (Quote, error) {
	var rsp *tpm2.QuoteResponse
	err := t.protected(nil, attrDecrypt|attrEncrypt, func(session tpm2.Session) (err error) {
		rsp, err = tpm2.Quote{
			SignHandle:     signer.auth(session),
			QualifyingData: tpm2.TPM2BData{Buffer: qualifyingData},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      pcrBank(selection.bank, selection.pcrs),
		}.Execute(t)
		return err
	})
	if err != nil {
		return Quote{}, err
	}
	values, err := readPCRs(t, selection.bank, selection.pcrs)
	if err != nil {
		return Quote{}, err
	}
	q := Quote{Attestation{Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}, values}
	return q, checkQuoted(q, selection, qualifyingData)
}

// checkQuoted compares a statement with the request and with the values that were read after it.
func checkQuoted(q Quote, selection pcrSet, qualifyingData []byte) error {
	a, err := parseAttest(q.Attest, tpm2.TPMSTAttestQuote, qualifyingData)
	if err != nil {
		return err
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return err
	}
	if !bytes.Equal(tpm2.Marshal(info.PCRSelect), tpm2.Marshal(pcrBank(selection.bank, selection.pcrs))) {
		return errors.New("the TPM quoted other PCRs than those that were asked for")
	}
	digest := sha256.New()
	for _, i := range selection.pcrs {
		digest.Write(q.PCRs[i])
	}
	if !bytes.Equal(digest.Sum(nil), info.PCRDigest.Buffer) {
		return errPCRsMoved
	}
	return nil
}

func selectBank(asked PCRSelection) (set pcrSet, err error) {
	if asked.Bank == 0 {
		asked.Bank = crypto.SHA256
	}
	if set.bank, err = pcrBankAlg(asked.Bank); err != nil {
		return set, err
	}
	set.pcrs, err = selectPCRs(asked.PCRs)
	return set, err
}

// selectPCRs sorts indices, as the TPM digests them in that order.
func selectPCRs(pcrs []int) ([]int, error) {
	if len(pcrs) == 0 {
		return nil, errors.New("no PCR selected")
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(pcrs)))
	if sorted[0] < 0 || sorted[len(sorted)-1] >= pcrCount {
		return nil, fmt.Errorf("a TPM has PCRs 0 to %d", pcrCount-1)
	}
	return sorted, nil
}

// pcrBank selects PCRs of one bank.
func pcrBank(bank tpm2.TPMAlgID, pcrs []int) tpm2.TPMLPCRSelection {
	indices := make([]uint, len(pcrs))
	for i, pcr := range pcrs {
		indices[i] = uint(pcr) // #nosec G115 -- selectPCRs
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      bank,
		PCRSelect: tpm2.PCClientCompatible.PCRs(indices...),
	}}}
}

// readPCRs reads values of one bank. A TPM answers with as many as fit, eight as a rule (TPM 2.0
// Part 3, 22.4).
func readPCRs(t *turn, bank tpm2.TPMAlgID, selection []int) (map[int][]byte, error) {
	values := make(map[int][]byte, len(selection))
	for rest := selection; len(rest) > 0; {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: pcrBank(bank, rest)}.Execute(t)
		if rc.Of(err, tpm2.TPMRCHash) {
			return nil, missingPCRs(t, bank, rest, err)
		}
		if err != nil {
			return nil, fmt.Errorf("reading PCRs: %w", err)
		}
		got := selected(bank, rsp.PCRSelectionOut)
		digests := rsp.PCRValues.Digests
		if len(got) == 0 && len(digests) == 0 {
			return nil, missingPCRs(t, bank, rest, nil)
		}
		if len(got) != len(digests) {
			return nil, fmt.Errorf("reading PCRs %v of bank %s: the TPM gave %d values for %d of them", rest, tcg.Bank(uint16(bank)), len(digests), len(got))
		}
		for i, pcr := range got {
			values[pcr] = digests[i].Buffer
		}
		before := len(rest)
		rest = slices.DeleteFunc(slices.Clone(rest), func(pcr int) bool { _, have := values[pcr]; return have })
		if len(rest) == before {
			return nil, fmt.Errorf("reading PCRs %v: the TPM gave others", rest)
		}
	}
	return values, nil
}

// selected lists the PCRs of a bank in a selection, in rising order.
func selected(bank tpm2.TPMAlgID, list tpm2.TPMLPCRSelection) []int {
	var pcrs []int
	for _, s := range list.PCRSelections {
		if s.Hash != bank {
			continue
		}
		for i := range min(pcrCount, 8*len(s.PCRSelect)) {
			if s.PCRSelect[i/8]&(1<<(i%8)) != 0 {
				pcrs = append(pcrs, i)
			}
		}
	}
	return pcrs
}
