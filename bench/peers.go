package main

import "github.com/keyagent/keyagent/bench/peers"

// besidePeers compares with other projects' signers, each in its own benchmark: one that no longer
// builds or runs must not take the others along.
func besidePeers() []comparison {
	var all []comparison
	for _, p := range []struct {
		name      string
		benchmark string
		near      bool // so near that a verification alone may decide who is ahead
	}{
		{"go-tpm-tools", "BenchmarkGoTPMTools", true},
		{"go-attestation", "BenchmarkGoAttestation", true},
		{"go.step.sm/crypto/tpm", "BenchmarkStep", true},
		{"go-tpm-keyfiles, key file", "BenchmarkKeyfilesKeySigner", false},
		{"go-tpm-keyfiles, loaded key", "BenchmarkKeyfilesHandleSigner", true},
	} {
		of := benchmark{module: "bench", pkg: "./peers", name: p.benchmark, time: "100x", runs: 3}
		for _, f := range peers.Forms() {
			all = append(all, besidePeer(p.name, of, f)...)
		}
		if p.near {
			all = append(all, least(p.name, of)...)
		}
	}
	return all
}

// besidePeer compares a form of ours with a peer. We verify each signature, and no peer does: what
// ours is held against is the peer and one verification by its caller. The peer alone is shown
// (docs/adr/0012).
func besidePeer(peer string, of benchmark, f peers.Form) []comparison {
	var all []comparison
	ours := "signature, " + f.Name + " session, "
	for _, scheme := range []struct{ name, sub string }{{"PKCS#1 v1.5", "PKCS1"}, {"PSS", "PSS"}, {"ECDSA P-256", "ECDSA"}} {
		what, sub := ours+scheme.name+", beside "+peer, f.Name+"/"+scheme.sub
		all = append(all,
			shown(what, of, sub, "ns"),
			atMost(barOf(f), what+" + one verification", of, sub, "verified-ns"))
	}
	return all
}

// barOf is the cost that a session may have: a plain one none, and a protected one has HMACs to
// compute.
func barOf(f peers.Form) limit {
	if f.Config.PlainSessions {
		return 1
	}
	return 1.03
}

// least shows where a bar cannot be met: where a bare TPM2_Sign and one verification already take
// longer than the peer, no signer that verifies what the TPM made can be ahead of it
// (docs/adr/0012).
func least(peer string, of benchmark) []comparison {
	anyone := "the least for who verifies (bare TPM2_Sign + one verification), "
	return []comparison{
		shown(anyone+"PKCS#1 v1.5, beside "+peer, of, "least/PKCS1", "ns"),
		shown(anyone+"PSS, beside "+peer, of, "least/PSS", "ns"),
		shown(anyone+"ECDSA P-256, beside "+peer, of, "least/ECDSA", "ns"),
	}
}
