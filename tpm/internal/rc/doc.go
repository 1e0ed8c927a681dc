// Package rc says what a TPM's response codes are about: the command, or the state that the TPM is
// in. It sends no commands.
//
// Source: TPM 2.0 Library, Part 2, revision 1.59, section 6.6.
package rc
