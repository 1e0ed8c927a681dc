// The libraries that programs get their tokens with are a module of their own, so that they never become dependencies of
// the agent. What each is there for: docs/dependencies.md.
module github.com/keyagent/keyagent/test/clients

go 1.26.0

toolchain go1.26.8

// What is tested is the tree around this folder, not a release.
replace (
	github.com/keyagent/keyagent => ../../
	github.com/keyagent/keyagent/client/azcred => ../../client/azcred
)

// Only tests of go-tpm-tools use the commit that it asks for, and module proxies do not
// have it.
replace github.com/google/go-eventlog => github.com/google/go-eventlog v0.0.2

require (
	github.com/Azure/azure-sdk-for-go/sdk/azcore v1.23.3
	github.com/Azure/azure-sdk-for-go/sdk/azidentity v1.15.0
	github.com/AzureAD/microsoft-authentication-library-for-go v1.10.1
	github.com/go-jose/go-jose/v4 v4.1.9
	github.com/google/uuid v1.6.0
	github.com/keyagent/keyagent v0.0.0-00010101000000-000000000000
	github.com/keyagent/keyagent/client/azcred v0.0.0-00010101000000-000000000000
)

require (
	github.com/Azure/azure-sdk-for-go/sdk/internal v1.13.0 // indirect
	github.com/coreos/go-systemd/v22 v22.7.0 // indirect
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	github.com/google/go-sev-guest v0.15.0 // indirect
	github.com/google/go-tpm v0.9.8 // indirect
	github.com/google/go-tpm-tools v0.4.11 // indirect
	github.com/google/logger v1.1.1 // indirect
	github.com/google/renameio/v2 v2.0.2 // indirect
	github.com/kylelemons/godebug v1.1.0 // indirect
	github.com/pkg/browser v0.0.0-20240102092130-5ac0b6a4141c // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
