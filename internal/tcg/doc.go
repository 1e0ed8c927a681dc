// Package tcg has the names that the Trusted Computing Group gives to the numbers of a TPM:
// algorithms, banks of PCRs, curves, structure tags, commands, handles, attributes and
// capabilities. Errors and reports name them in this way, so that an operator need not look a
// number up.
//
// Each function returns the name with the number in brackets, or the number with the word
// "unknown". The functions are pure and safe for concurrent use. The tables are for people: nothing
// is decided by them.
//
// # Sources
//
// TCG Algorithm Registry: TPM_ALG_ID and TPM_ECC_CURVE. TPM 2.0 Library, Part 2: TPM_CC, TPM_ST,
// TPM_CAP, TPM_HT, TPM_RH and TPMA_OBJECT.
package tcg
