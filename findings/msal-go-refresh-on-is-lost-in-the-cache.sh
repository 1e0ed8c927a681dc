#!/usr/bin/env bash
# MSAL for Go 1.10.1, apps/managedidentity: the time at which a token is to be refreshed is lost in the cache.
#
# AcquireToken for a managed identity sets Metadata.RefreshOn of its result to half of the token's life
# if the token lives for two hours or more. That is done after the token was written to the cache. So
# the first result has a RefreshOn, each later one, which comes from the cache, has none; and since it
# is what makes MSAL ask ahead of time, MSAL asks again only when five minutes are left.
#
# Expected: results from the cache have the RefreshOn of the first one, as they have when the answer
# says refresh_in, and as @azure/identity's have its refreshAfterTimestamp.
#
# What it means: a program whose token lives for a day does not ask for the next one until the last five
# minutes, and an outage of the endpoint in those minutes is an outage of the program. An endpoint can
# help: with "refresh_in" in its answer, RefreshOn is kept (the second part of the output).
#
# Seen with Go 1.26 on Linux:
#
#   without refresh_in: from the identity provider: RefreshOn is set; from the cache: RefreshOn is zero
#   with refresh_in:    from the identity provider: RefreshOn is set; from the cache: RefreshOn is set
#
# Needs Go and its module proxy. Exit status 0 if it is still so, 1 if not.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

cat >go.mod <<'MOD'
module finding

go 1.24

require github.com/AzureAD/microsoft-authentication-library-for-go v1.10.1
MOD
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
)

func main() {
	extra := ""
	// Stands for App Service, as the environment says.
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		expires := time.Now().Add(24 * time.Hour).Unix()
		fmt.Fprintf(w, `{"access_token":"a","token_type":"Bearer","resource":%q,"client_id":"c","expires_on":"%d"%s}`,
			r.URL.Query().Get("resource"), expires, extra)
	}))
	defer service.Close()
	os.Setenv("IDENTITY_ENDPOINT", service.URL+"/msi/token")
	os.Setenv("IDENTITY_HEADER", "secret")

	show("without refresh_in", "https://one.example")
	extra = `,"refresh_in":"3600"`
	show("with refresh_in", "https://two.example")
}

func show(name, resource string) {
	client, err := managedidentity.New(managedidentity.SystemAssigned())
	if err != nil {
		panic(err)
	}
	fmt.Printf("%-19s", name+":")
	for i, from := range []string{" from the identity provider", "; from the cache"} {
		result, err := client.AcquireToken(context.Background(), resource)
		if err != nil {
			panic(err)
		}
		if i == 1 && result.Metadata.TokenSource != managedidentity.TokenSourceCache {
			panic("the second result is not from the cache")
		}
		state := "set"
		if result.Metadata.RefreshOn.IsZero() {
			state = "zero"
		}
		fmt.Print(from, ": RefreshOn is ", state)
	}
	fmt.Println()
}
GO

export GOFLAGS=-mod=mod GOWORK=off
go mod tidy >/dev/null 2>&1
go run . >got
cat got

cat >want <<'WANT'
without refresh_in: from the identity provider: RefreshOn is set; from the cache: RefreshOn is zero
with refresh_in:    from the identity provider: RefreshOn is set; from the cache: RefreshOn is set
WANT
diff want got
