// Package cases reads and judges files of evidence, each with the conclusions that a verifier must
// come to, of the format "azure-cvm-vectors/1" that testdata/azure-cvm/README.md describes.
//
// The verifier is package attest's and no other: this package puts the parts of a case together as
// [attest.Evidence], its policy as [attest.Policy], and compares the results. Nothing in a part is
// repaired or left out on the way. A part that cannot be put into Evidence at all makes its case
// fail, with a reason, whatever the case expects: only the verifier may refuse.
//
// What always holds:
//   - A part, a policy or an expectation that this package does not know makes its case fail: it
//     asks for something that was not checked. A member or a fact that it does not know is noted.
//   - A case that cannot be read is one failed case, and the others are judged all the same.
//   - An outcome is as expected only if the verdict, every check named and every fact agree.
//
// A case is "verified" if [attest.Result.Verdict] says so under the format's default policy. That
// policy names no kind of evidence without a TEE, except for cases that are called "tpm-only". Of a
// case that is called "td-quote-only" it is said if the quote shows all that it can by itself.
// "parsed" is for evidence of which no signature can be checked.
package cases
