// Package tpmtest gives tests a real TPM: Microsoft's reference TPM in this process ([Simulator]),
// or libtpms in another ([Swtpm]). Both are reached over a Unix socket, as production reaches a
// TPM, and both go away with the test.
//
// [Conform] is the list of things that a TPM must do for package tpm, whichever it is.
package tpmtest
