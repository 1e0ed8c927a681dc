#!/usr/bin/env bash
# hashicorp/go-azure-sdk v0.20260811 (what Terraform's azurerm provider gets tokens with): an answer for a managed
# identity that says expires_on, and not expires_in, is a token that never expires.
#
# The authorizer decodes both members, but reads expires_in only. App Service (api-version 2019-08-01)
# documents expires_on alone. The authorizer keeps the token for the life of the process then, also
# after the moment that the answer names; the service that is called refuses it, and nothing asks for
# another.
#
# Expected: expires_on is read where expires_in is not there, or an answer without an expiry is an error.
#
# What it means: whoever doubles these endpoints must send both. A Terraform run that is longer than
# its token, against an endpoint that sends expires_on only, ends with 401.
#
# Seen with Go 1.26 on Linux; by expires_on, the token had expired an hour before the answer was sent:
#
#   expires_on only: expiry is zero, valid: true; requests for two calls: 1
#   expires_in too: expiry is set, valid: false; requests for two calls: 2
#
# Needs Go and its module proxy. Exit status 0 if it is still so, 1 if not.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

cat >go.mod <<'MOD'
module finding

go 1.24

require github.com/hashicorp/go-azure-sdk/sdk v0.20260811.1225050
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/hashicorp/go-azure-sdk/sdk/auth"
	"github.com/hashicorp/go-azure-sdk/sdk/environments"
)

func main() {
	// By expires_on it has expired; expires_in is for a library that looks at nothing else.
	expired := time.Now().Add(-time.Hour).Unix()
	show("expires_on only", fmt.Sprintf(`"expires_on":"%d"`, expired))
	show("expires_in too", fmt.Sprintf(`"expires_on":"%d","expires_in":"1"`, expired))
}

func show(name, expiry string) {
	requests := 0
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		fmt.Fprintf(w, `{"access_token":"a","token_type":"Bearer","resource":"https://vault.azure.net","client_id":"c",%s}`, expiry)
	}))
	defer service.Close()

	ctx := context.Background()
	authorizer, err := auth.NewManagedIdentityAuthorizer(ctx, auth.ManagedIdentityAuthorizerOptions{
		Api:                             environments.NewApiEndpoint("vault", "https://vault.azure.net", nil).WithResourceIdentifier("https://vault.azure.net"),
		CustomManagedIdentityEndpoint:   service.URL + "/msi/token",
		CustomManagedIdentityAPIVersion: "2019-08-01",
		CustomManagedIdentityHeaders:    map[string][]string{"X-IDENTITY-HEADER": {"secret"}},
	})
	if err != nil {
		panic(err)
	}
	var state string
	for range 2 {
		token, err := authorizer.Token(ctx, nil)
		if err != nil {
			panic(err)
		}
		state = "set"
		if token.Expiry.IsZero() {
			state = "zero"
		}
		state = fmt.Sprintf("expiry is %s, valid: %t", state, token.Valid())
	}
	fmt.Printf("%s: %s; requests for two calls: %d\n", name, state, requests)
}
GO

export GOFLAGS=-mod=mod GOWORK=off
go mod tidy >/dev/null 2>&1
go run . 2>log >got || { cat log; exit 1; } # it logs its requests
cat got
cat >want <<'WANT'
expires_on only: expiry is zero, valid: true; requests for two calls: 1
expires_in too: expiry is set, valid: false; requests for two calls: 2
WANT
diff want got
