package main

// starts asks how long a start takes until a program has its first token: in commands to the TPM,
// which are to stay few, and in time on a slow TPM, beside the build of the commit that is named.
func starts() []comparison {
	commands := benchmark{module: "bench", pkg: "./starts", name: "BenchmarkStartCommands", time: "1x", runs: 3}
	beside := benchmark{module: "bench", pkg: "./starts", name: "BenchmarkStartBesideFormer", time: "7x", runs: 1}
	bare := benchmark{module: "bench", pkg: "./starts", name: "BenchmarkStartBesideCommands", time: "9x", runs: 1}
	const allowed = ", beside 1.3 x the time of its TPM commands + 30 ms"
	const slow = ", TPM + 20 ms a command + 100 ms a signature, beside commit 2176621"
	return []comparison{
		ahead("first start ever to the first token: TPM commands, beside 32", commands, "", "first-commands"),
		ahead("first start ever to the first token: TPM signatures, beside 4", commands, "", "first-signatures"),
		ahead("warm start until ready: TPM commands, beside 7", commands, "", "ready-commands"),
		ahead("warm start until ready: TPM signatures, beside 1", commands, "", "ready-signatures"),
		ahead("warm start to the first token: TPM commands, beside 8", commands, "", "warm-commands"),
		ahead("warm start to the first token: TPM signatures, beside 2", commands, "", "warm-signatures"),
		ahead("warm start until ready"+allowed, bare, "fast", "ms"),
		ahead("warm start until ready, TPM + 20 ms a command + 100 ms a signature"+allowed, bare, "slow", "ms"),
		atMost(0.35, "warm start to the first token"+slow, beside, "warm", "ms"),
		atMost(0.6, "first start ever to the first token"+slow, beside, "first", "ms"),
		shown("first start ever to the first token, the attestation key as slow"+slow, beside, "first-evidence", "ms"),
	}
}
