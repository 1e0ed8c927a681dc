package attest

import (
	"crypto/sha256"
	"crypto/sha512"
)

// PCRBank names a bank of PCRs by its hash, as tpm2-tools do. The zero value is [BankSHA256].
type PCRBank string

// The banks that can be quoted. A bank of SHA-1 proves nothing any more.
const (
	BankSHA256 PCRBank = "sha256"
	BankSHA384 PCRBank = "sha384"
)

// PCRBanks lists the banks that can be quoted.
func PCRBanks() []PCRBank { return []PCRBank{BankSHA256, BankSHA384} }

// Name is the bank's name, also of the zero value.
func (b PCRBank) Name() string {
	if b == "" {
		return string(BankSHA256)
	}
	return string(b)
}

// Size is that of a value of the bank, in bytes; 0 if the bank is not known.
func (b PCRBank) Size() int {
	switch b {
	case "", BankSHA256:
		return sha256.Size
	case BankSHA384:
		return sha512.Size384
	}
	return 0
}

// alg is the TPM_ALG_ID of the bank's hash; 0, which no quote has, if the bank is not known.
func (b PCRBank) alg() uint16 {
	switch b {
	case "", BankSHA256:
		return algSHA256
	case BankSHA384:
		return algSHA384
	}
	return 0
}
