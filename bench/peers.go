package main

import "github.com/keyagent/keyagent/bench/peers"

// besidePeers compares with other projects' signers, each in its own benchmark: one that no longer builds or runs must not
// take the others along.
func besidePeers() []comparison {
	var all []comparison
	for _, p := range []struct {
		name      string
		benchmark string
		keepsKey  bool // one command per signature, as we
	}{
		{"go-tpm-tools", "BenchmarkGoTPMTools", true},
		{"go-attestation", "BenchmarkGoAttestation", true},
		{"go.step.sm/crypto/tpm", "BenchmarkStep", false},
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
			if p.keepsKey && f.Config.PlainSessions {
				// We verify, and these peers do not. Where nothing else sets us apart it can be seen.
				all = append(all,
					ahead(ours+"PKCS#1 v1.5, beside "+p.name+" + one verification", of, f.Name+"/PKCS1", "verified-ns"),
					ahead(ours+"PSS, beside "+p.name+" + one verification", of, f.Name+"/PSS", "verified-ns"),
					ahead(ours+"ECDSA P-256, beside "+p.name+" + one verification", of, f.Name+"/ECDSA", "verified-ns"))
			}
		}
	}
	return all
}

// ahead is a comparison that is met by whoever is not slower.
func ahead(name string, of benchmark, sub, pair string) comparison {
	return comparison{name: name, of: of, sub: sub, pair: pair, better: lower, bar: 1}
}
