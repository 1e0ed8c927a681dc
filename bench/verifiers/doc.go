// Package verifiers compares the verification of hardware evidence with that of the libraries of
// its field, on the evidence of a real machine. It holds benchmarks only.
//
// Ours checks the same as the library, report, chain, identity and signature, and on top of that
// policy, TCB, launch identity, revocation and the binding of the claims; the other checks of the
// procedure have nothing to look at.
package verifiers
