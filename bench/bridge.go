package main

// bridge compares calls that the agent makes for programs with those that a program makes itself.
func bridge() []comparison {
	download := benchmark{pkg: "./agentapi", name: "BenchmarkBridgeDownload", time: "4x", runs: 3}
	return []comparison{
		atLeast(0.85, "download of 1 GiB through the agent, beside Go's client over mutual TLS with a software key: rate", download, "", "MB/s"),
		ahead("download of 1 GiB through the agent: growth of resident memory, client and server included, beside 8 MiB", download, "", "growth-kB"),
	}
}
