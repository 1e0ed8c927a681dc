// Package policyfile reads what a verifier asks of evidence from a file: rules for [attest.Verify]
// and the trust anchors to verify it with.
//
// The file is YAML, of which JSON is a part. Each member states one rule; a rule that is left out
// is as in [attest.DefaultPolicy], so that an empty file is the default policy. A file can add
// rules, replace lists of values and replace anchors. It cannot take away a check of [attest.Floor]
// or allow debugging: there is no member for it.
//
// What always holds:
//
//   - A file is used as a whole or not at all. Unknown members, members that occur twice, values of
//     another kind, aliases, further documents, and files that it names and that cannot be read are
//     refused. Each refusal is a [Problem] with its line and what to write there.
//   - Numbers and digests are taken as they are written, not as YAML understands them: a digest
//     that happens to consist of digits is no number.
//   - Files are read by [Load] alone. [Parse] gets them by a function.
//
// The members are described in docs/attestation.md and in the commented example
// testdata/example.yaml, which is the default policy with each rule spelled out.
package policyfile
