// Command mutate shows that the tests of the verifier notice when a check is taken out of it. It
// builds the tests once with every check and every refusal of packages attest, attest/hcl and
// attest/tee made removable, and runs them once for each that is removed. The tests must fail each
// time.
//
//	go run ./attest/internal/mutate [-conditions] [-out FILE]
//
// A removed check is made, so that later checks find what it read, and its outcome is "pass". With
// -conditions, each "if" and each "case" that refuses something is removed, too: its condition
// counts as false.
//
// The exit status is 0 if no mutant survived, 1 if one did, 2 if the tests could not be run or fail
// without any. The list has no times in it, so that it changes only if the verifier does.
package main
