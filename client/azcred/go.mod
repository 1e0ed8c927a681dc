// The Azure SDK's types are a module of their own, so that they never become dependencies of the agent, nor of an app that
// uses the client without them.
module github.com/keyagent/keyagent/client/azcred

go 1.26.0

toolchain go1.26.8

// In this tree, the client beside this folder; whoever requires this module gets a release.
replace github.com/keyagent/keyagent => ../../

require (
	github.com/Azure/azure-sdk-for-go/sdk/azcore v1.23.3
	github.com/keyagent/keyagent v0.0.0-00010101000000-000000000000
)

require (
	github.com/Azure/azure-sdk-for-go/sdk/internal v1.13.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
