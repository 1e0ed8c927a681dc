module github.com/keyagent/keyagent/test/clients/msalgo

go 1.26.0

toolchain go1.26.8

require github.com/AzureAD/microsoft-authentication-library-for-go v1.9.0

require (
	github.com/golang-jwt/jwt/v5 v5.2.2 // indirect
	github.com/google/uuid v1.3.0 // indirect
	github.com/kylelemons/godebug v1.1.0 // indirect
	golang.org/x/sync v0.10.0 // indirect
)
