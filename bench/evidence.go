package main

// evidence asks what it costs to make and to verify evidence, beside what nobody can do without.
func evidence() []comparison {
	made := benchmark{pkg: "./attest/collect", name: "BenchmarkCollect", time: "20x"}
	verified := benchmark{pkg: "./attest", name: "BenchmarkVerifySNP"}
	verifiedTDX := benchmark{pkg: "./attest", name: "BenchmarkVerifyTDX"}
	beside := benchmark{module: "bench", pkg: "./verifiers", name: "BenchmarkSNP"}
	besideTDX := benchmark{module: "bench", pkg: "./verifiers", name: "BenchmarkTDX"}
	return []comparison{
		atMost(1.15, "evidence made, verified and encoded, TPM + 20 ms a command, beside its bare TPM commands", made, "slow", "ns"),
		shown("evidence made, verified and encoded, simulated TPM, beside its bare TPM commands", made, "simulated", "ns"),
		atMost(1.5, "SEV-SNP bundle verified from its bytes on, beside its bare signatures and hashes", verified, "", "ns"),
		atMost(1.5, "TDX bundle of a real machine verified from its bytes on, beside its bare signatures and hashes", verifiedTDX, "", "ns"),
		ahead("SEV-SNP evidence of a real machine, hardware part, beside go-sev-guest", beside, "", "ns"),
		shown("SEV-SNP evidence of a real machine, claims, policy, TCB and launch identity too, beside go-sev-guest", beside, "", "whole-ns"),
		ahead("TD quote and collateral of a real machine, hardware part, beside go-tdx-guest", besideTDX, "", "ns"),
		shown("TD quote and collateral of a real machine, claims, policy and launch identity too, beside go-tdx-guest", besideTDX, "", "whole-ns"),
	}
}
