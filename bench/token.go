package main

// tokenCosts measures the cost of a token on its way from Entra to its caller: requests,
// signatures, time and memory.
func tokenCosts() []comparison {
	first := benchmark{pkg: "./internal/daemon", name: "BenchmarkFirstToken", time: "1x", runs: 1}
	many := benchmark{pkg: "./internal/daemon", name: "BenchmarkManyResources", time: "1x", runs: 1}
	waiters := benchmark{pkg: "./acquire", name: "BenchmarkManyWaiters", time: "5x", runs: 1}
	cached := benchmark{pkg: "./acquire", name: "BenchmarkCachedToken"}
	miss := benchmark{pkg: "./acquire", name: "BenchmarkTokenMiss"}
	memory := benchmark{pkg: "./acquire", name: "BenchmarkTokenMemory", time: "1x", runs: 3}
	return []comparison{
		ahead("first token ever, 20 callers: requests for metadata, beside 1", first, "cold", "metadata-requests"),
		ahead("first token ever, 20 callers: attestations, beside 1", first, "cold", "attestations"),
		ahead("first token ever, 20 callers: certificates issued, beside 1", first, "cold", "certificates"),
		ahead("first token ever, 20 callers: TLS connections, beside 1", first, "cold", "connections"),
		ahead("first token ever, 20 callers: TPM signatures, beside 2 (request and handshake)", first, "cold", "signatures"),
		ahead("first token after a restart, 20 callers: requests for metadata, beside 1", first, "warm", "metadata-requests"),
		ahead("first token after a restart, 20 callers: TLS connections, beside 1", first, "warm", "connections"),
		ahead("first token after a restart, 20 callers: TPM signatures, beside 1", first, "warm", "signatures"),
		ahead("100 resources at once: TLS connections, beside 1", many, "at-once", "connections"),
		ahead("100 resources at once: TPM signatures, beside 1", many, "at-once", "signatures"),
		ahead("100 resources at once and 100 in turn: TLS connections, beside 1", many, "both", "connections"),
		ahead("100 resources at once and 100 in turn: TPM signatures, beside 1", many, "both", "signatures"),
		ahead("10,000 callers wait for one token: requests, beside 1", waiters, "", "requests"),
		ahead("cached token in process, beside 1 microsecond", cached, "", "ns"),
		ahead("cached token in process: allocations, beside 2", cached, "", "allocs"),
		atMost(1.3, "token that is not cached, warm connection, beside a bare POST to the same endpoint", miss, "", "ns"),
		ahead("resident memory with 10,000 tokens, beside 64 MiB", memory, "", "kB"),
		ahead("resident memory with 10,000 tokens and what obtaining them left behind, beside 64 MiB", memory, "", "full-kB"),
	}
}

// callers compares programs that use the agent with programs without it.
func callers() []comparison {
	herd := benchmark{module: "bench", pkg: "./callers", name: "BenchmarkHerd", time: "1x", runs: 3}
	outage := benchmark{module: "bench", pkg: "./callers", name: "BenchmarkOutage", time: "1x", runs: 1}
	theft := benchmark{module: "bench", pkg: "./callers", name: "BenchmarkTheft", time: "1x", runs: 1}
	memory := benchmark{module: "bench", pkg: "./callers", name: "BenchmarkAgentMemory", time: "1x", runs: 1} // a minute and more
	notFewer := func(name string, of benchmark, sub, pair string) comparison { return atLeast(1, name, of, sub, pair) }
	return []comparison{
		ahead("herd of 60 processes: requests to Entra, beside 1", herd, "", "entra-requests"),
		ahead("herd of 60 processes: requests to IMDS (whose the certificate is), beside 1", herd, "", "imds-requests"),
		notFewer("herd of 60 processes: served, beside all", herd, "", "all-processes"),
		notFewer("herd of 60 processes: served, beside azidentity asking IMDS", herd, "", "served-processes"),
		ahead("herd of 60 processes: requests upstream, beside azidentity asking IMDS", herd, "", "requests"),
		notFewer("herd of 60 processes: requests that were not answered 429, beside azidentity asking IMDS", herd, "", "unthrottled-percent"),
		ahead("herd of 60 processes: until all have their token, beside azidentity asking IMDS", herd, "", "ms"),
		notFewer("herd of 60 unmodified programs (azidentity): served by the agent, beside by IMDS", herd, "", "unmodified-served-processes"),
		atMost(0.05, "herd of 60 unmodified programs (azidentity): until all have their token, beside asking IMDS", herd, "", "unmodified-ms"),
		notFewer("ten minutes' outage at half-life: requests answered, beside all", outage, "half-life", "all-requests"),
		notFewer("ten minutes' outage at half-life: requests answered, beside azidentity", outage, "half-life", "requests"),
		notFewer("outage in the last ten minutes of a token: requests answered, beside all", outage, "last-minutes", "all-requests"),
		notFewer("outage in the last ten minutes of a token: requests answered, beside azidentity", outage, "last-minutes", "requests"),
		ahead("resident memory of the agent that nobody asks, beside 18 MiB", memory, "", "idle-kB"),
		ahead("resident memory of the agent after a minute of 64 clients, beside 1.3 x 18 MiB", memory, "", "steady-kB"),
		none("theft of all files and memory: kinds of replay that give a new token, beside a PEM key", theft, "kinds"),
		none("theft of all files and memory: kinds of replay that give a new token after the stolen one has expired, beside a PEM key", theft, "expired-kinds"),
	}
}

// none is a comparison in which ours has to be nothing at all: the bar is below one of as many as
// anybody counts.
func none(name string, of benchmark, pair string) comparison {
	return atMost(0.01, name, of, "", pair)
}
