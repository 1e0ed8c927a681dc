// Package archtest holds the rules of the house as tests: which package may import which, what the
// production binary must not contain, and a few habits that no linter knows. It has no
// code of its own.
//
// Data flows one way, tpm → signer → tlsbridge → acquire → agentapi → app, with attest fed by tpm
// and feeding acquire, and imports run against that arrow only. The table in imports_test.go is the
// whole of it: a package that is not in the table fails the tests, so a new one is put in its place
// before it is used. A rule always says why it is there; a change of the rule has to answer that
// reason.
//
// The tests read the source tree themselves, besides asking the go command about it:
// files that a test opens are part of the key under which go test caches its result,
// files that a child process opens are not.
package archtest
