// The comparisons are a module of their own, so that the peers that we are compared with
// never become dependencies of the agent.
module github.com/keyagent/keyagent/bench

go 1.26.0

toolchain go1.26.8

// What is compared is the tree around this folder, not a release.
replace github.com/keyagent/keyagent => ../
