package tpm

import (
	"crypto"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
)

// Description is what a key file says of its key, without a TPM that vouches for it.
type Description struct {
	Algorithm Algorithm // one of [Algorithms], or empty: another kind
	PublicKey crypto.PublicKey
	PCRs      PCRSelection // that it is bound to; none as a rule
	PCRBank   string       // name of their bank, also where it is none that PCRs.Bank can say: "sha256", "sm3_256"
	// AuthValue is what the file says of an authorization value, which is a hint: see
	// [KeyFile.EmptyAuth].
	AuthValue bool
	// CountsGuesses says that the TPM counts wrong authorization values of this key, and after a
	// few locks all keys for which it counts.
	CountsGuesses bool
}

// Describe reads the public area and the policy of a key file.
func (f *KeyFile) Describe() (Description, error) {
	area, _, err := f.areas()
	if err != nil {
		return Description{}, fmt.Errorf("TPM key file: %w", err)
	}
	public, err := area.Contents()
	if err != nil {
		return Description{}, fmt.Errorf("TPM key file: public area: %w", err)
	}
	key, err := publicKey(public)
	if err != nil {
		return Description{}, fmt.Errorf("TPM key file: %w", err)
	}
	p, err := parsePolicy(f.Policy)
	if err != nil {
		return Description{}, fmt.Errorf("TPM key file: %w", err)
	}
	d := Description{Algorithm: algorithmOf(public), PublicKey: key, PCRs: p.selection(), AuthValue: !f.EmptyAuth, CountsGuesses: !public.ObjectAttributes.NoDA && (p.empty() || p.authValue)}
	if p.bank != 0 {
		d.PCRBank = tcg.Bank(uint16(p.bank))
	}
	return d, nil
}

// algorithmOf finds the algorithm whose template has the same kind and size.
func algorithmOf(public *tpm2.TPMTPublic) Algorithm {
	i := slices.IndexFunc(Algorithms(), func(a Algorithm) bool {
		template, err := keyTemplate(a)
		return err == nil && sameKind(&template, public)
	})
	if i < 0 {
		return ""
	}
	return Algorithms()[i]
}

func sameKind(a, b *tpm2.TPMTPublic) bool {
	if a.Type != b.Type {
		return false
	}
	if x, err := a.Parameters.RSADetail(); err == nil {
		y, err := b.Parameters.RSADetail()
		return err == nil && x.KeyBits == y.KeyBits
	}
	x, err := a.Parameters.ECCDetail()
	y, otherErr := b.Parameters.ECCDetail()
	return err == nil && otherErr == nil && x.CurveID == y.CurveID
}

// selection is what the policy is bound to.
func (p policy) selection() PCRSelection {
	if p.bank == 0 {
		return PCRSelection{}
	}
	bank, _ := p.bank.Hash() // an unknown bank is nobody's: 0
	return PCRSelection{Bank: bank, PCRs: slices.Clone(p.pcrs)}
}
