// Package tcg has the names that the Trusted Computing Group gives to the numbers of a TPM: algorithms, banks of PCRs, curves,
// structure tags, commands, handles, attributes and capabilities. Errors and reports name them in this way, so that an operator need not
// look a number up.
//
// Each function returns the name with the number in brackets, or the number with the word "unknown". The functions are pure and
// safe for concurrent use. The tables are for people: nothing is decided by them.
//
// # Sources
//
// TCG Algorithm Registry 1.34, table 3 (TPM_ALG_ID) and table 4 (TPM_ECC_CURVE). TPM 2.0 Library, Part 2, revision 1.59: 6.5.2 (TPM_CC),
// 6.9 (TPM_ST), 6.12 (TPM_CAP), 7.2 and 7.4 (TPM_HT, TPM_RH), 8.3.2 (TPMA_OBJECT).
package tcg
