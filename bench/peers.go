package main

import "github.com/keyagent/keyagent/bench/peers"

// besidePeers compares with other projects' signers, each in its own benchmark: one that no longer
// builds or runs must not take the others along.
func besidePeers() []comparison {
	var all []comparison
	for _, p := range []struct {
		name      string
		benchmark string
		near      bool // so near that a verification decides who is ahead
	}{
		{"go-tpm-tools", "BenchmarkGoTPMTools", true},
		{"go-attestation", "BenchmarkGoAttestation", true},
		{"go.step.sm/crypto/tpm", "BenchmarkStep", true},
		{"go-tpm-keyfiles, key file", "BenchmarkKeyfilesKeySigner", false},
		{"go-tpm-keyfiles, loaded key", "BenchmarkKeyfilesHandleSigner", true},
	} {
		of := benchmark{module: "bench", pkg: "./peers", name: p.benchmark, time: "100x", runs: 3}
		for _, f := range peers.Forms() {
			ours := "signature, " + f.Name + " session, "
			all = append(all,
				ahead(ours+"PKCS#1 v1.5, beside "+p.name, of, f.Name+"/PKCS1", "ns"),
				ahead(ours+"PSS, beside "+p.name, of, f.Name+"/PSS", "ns"),
				ahead(ours+"ECDSA P-256, beside "+p.name, of, f.Name+"/ECDSA", "ns"))
			if p.near && f.Config.PlainSessions {
				// We verify, and these peers do not. Where nothing else sets us apart it can be
				// seen.
				all = append(all,
					ahead(ours+"PKCS#1 v1.5, beside "+p.name+" + one verification", of, f.Name+"/PKCS1", "verified-ns"),
					ahead(ours+"PSS, beside "+p.name+" + one verification", of, f.Name+"/PSS", "verified-ns"),
					ahead(ours+"ECDSA P-256, beside "+p.name+" + one verification", of, f.Name+"/ECDSA", "verified-ns"))
			}
		}
		if p.near {
			all = append(all, least(p.name, of)...)
		}
	}
	return all
}

// least tells where a miss is nobody's fault: where a bare TPM2_Sign and one verification already
// take longer than the peer, no signer who verifies what the TPM made can be ahead of it
// (docs/adr/0012).
func least(peer string, of benchmark) []comparison {
	anyone := "the least for who verifies (bare TPM2_Sign + one verification), "
	return []comparison{
		ahead(anyone+"PKCS#1 v1.5, beside "+peer, of, "least/PKCS1", "ns"),
		ahead(anyone+"PSS, beside "+peer, of, "least/PSS", "ns"),
		ahead(anyone+"ECDSA P-256, beside "+peer, of, "least/ECDSA", "ns"),
	}
}
