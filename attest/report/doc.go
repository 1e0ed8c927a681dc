// Package report tells what a verification of evidence found: to people as a tree and as a page, to
// programs as JSON. It decides nothing. Whether evidence is verified is attest.Result's answer, and
// a report repeats it.
//
// [Verify] parses a bundle, verifies it and reports. A bundle that cannot be parsed gets a report
// as well, with the one check that says why.
//
// What always holds:
//
//   - Facts that were read from evidence (key, PCR values, identity of the VM) are in a report only
//     if the evidence is verified.
//   - All that came with the evidence, and every reason that may quote it, is made harmless for
//     where it is shown: control characters are escaped on a terminal, html/template escapes on the
//     page, and the page has no script, loads nothing, and forbids both to itself by a content
//     security policy.
//   - Every check of the result is shown, also one that this package has no words for.
//   - Without a challenge a report never says verified.
//
// The JSON form is described in docs/attestation.md. Members are added, and none is renamed or
// taken out within one format version.
package report
