// Package verifiers compares the verification of hardware evidence with that of the libraries of
// its field, on the evidence of a real machine. It holds benchmarks only.
//
// Ours judges what the library does, report, chain, identity and signature, and on top of that
// policy, TCB, launch identity, revocation and the binding of the claims, and what else of the
// procedure finds nothing to look at.
package verifiers
