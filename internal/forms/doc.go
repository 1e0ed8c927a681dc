// Package forms says which forms of credentials work on this machine and in its tenants: a
// certificate over mutual TLS, an assertion signed in the TPM, a managed identity's binding
// certificate and the others in the table of README.md, which [All] is.
//
// A [Survey] is filled by the daemon, with the results of its attempts ([Survey.Observe]) and what
// IMDS offers, or by the doctor with the configuration alone ([Survey.Expect]). A token that was
// obtained proves that a form works. Only an answer that cannot be expected to change proves that
// it does not; everything else is "not known yet".
//
// What always holds:
//   - Reasons are fixed sentences: any local user may read them, so they name no identity and
//     repeat no error.
//   - What Entra says about one caller's request is not taken for a fact about the machine.
package forms
