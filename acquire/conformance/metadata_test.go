package conformance_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
	simentra "github.com/keyagent/keyagent/simulator/entra"
)

// metadataDemands are those of section 1.
func metadataDemands() []demand {
	return slices.Concat(metadataRequests(), metadataAnswers(), metadataRetries(), []demand{
		{"1.5", "each acquisition that misses the token cache asks for the metadata, though a certificate is there", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.mustGet(vault, acquire.TypeBearer)
			a.mustGet(management, acquire.TypeBearer)
			a.wantTraffic("metadata 2, attest 1, credential 1, mtls 2")
		}},
		{"1.5", "another tenant than the certificate's: the certificate is discarded", func(t *testing.T) { discards(t, "tenantId", uuid.NewString()) }},
		{"1.5", "another client id than the certificate's: the certificate is discarded", func(t *testing.T) { discards(t, "clientId", uuid.NewString()) }},
		{"1.5", "another compute unit than the certificate's: the certificate is discarded", func(t *testing.T) {
			discards(t, "cuId", map[string]any{"vmId": uuid.NewString()})
		}},
		{"1.5", "an identity that was taken from the VM gets no more tokens, though its certificate is there", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			a.metadata.alwaysAnswers("getplatformmetadata", says(400, identityNotFound))
			_, err := a.get(management, acquire.TypeBearer)
			wantKind(t, err, acquire.KindUnknownIdentity)
			a.wantTraffic("metadata 2, attest 1, credential 1, mtls 1")
		}},
		{"1.6", "the probe is the same URL without the Metadata header, version 2 before version 1", func(t *testing.T) {
			a := newAzure(t)
			got, err := a.client.Probe(t.Context())
			if err != nil || got != (imds.Support{V2: imds.Present, V1: imds.Present}) {
				t.Errorf("got %+v, %v", got, err)
			}
			seen := a.metadata.all()
			if len(seen) != 2 || seen[0].target != "/metadata/identity/getplatformmetadata?cred-api-version=2.0" || seen[1].endpoint != "token" {
				t.Fatalf("probed %+v", seen)
			}
			if _, has := seen[0].header["Metadata"]; has {
				t.Error("the probe has the Metadata header")
			}
		}},
		{"1.6", "404 means absent and is not retried", func(t *testing.T) {
			a := newAzure(t)
			a.metadata.alwaysAnswers("getplatformmetadata", says(404, ""))
			if got, err := a.client.Probe(t.Context()); err != nil || got != (imds.Support{V2: imds.Absent, V1: imds.Present}) {
				t.Errorf("got %+v, %v", got, err)
			}
			a.wantTraffic("metadata 1, v1 1")
		}},
		{"1.6", "any answer but 400 and 404 leaves it unknown", func(t *testing.T) {
			a := newAzure(t)
			a.metadata.alwaysAnswers("getplatformmetadata", says(403, ""))
			if got, err := a.client.Probe(t.Context()); err == nil || got != (imds.Support{V2: imds.Unknown, V1: imds.Present}) {
				t.Errorf("got %+v, %v", got, err)
			}
		}},
		{"1.6", "acquisition never probes: a bound identity goes straight to version 2", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypePoP)
			for _, m := range a.metadata.all() {
				if m.header.Get("Metadata") != "true" || m.endpoint == "token" {
					t.Errorf("probed: %+v", m)
				}
			}
		}},
		{"1.6", "acquisition never probes: an unbound identity goes straight to version 1", func(t *testing.T) {
			a := newAzure(t, v1Identity())
			a.mustGet(vault, acquire.TypeBearer)
			a.wantTraffic("v1 1")
		}},
		{"1.6", "the kill switch is true in any case, or 1, and nothing else", func(t *testing.T) {
			for value, want := range map[string]bool{"true": true, "TRUE": true, "True": true, "1": true, "": false, "0": false, "yes": false, "false": false, " true": false} {
				if imds.DisabledByEnvironment(value) != want {
					t.Errorf("%q: want %v", value, want)
				}
			}
		}},
		{"1.6", "with the kill switch no endpoint of version 2 is asked, nor probed", func(t *testing.T) {
			a := newAzureWith(t, func(a *azure) { a.disableV2 = true }, vmIdentity())
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused) // and not "try again": the operator has decided
			if !errors.Is(err, imds.ErrNotSupported) {
				t.Errorf("got %v", err)
			}
			if got, err := a.client.Probe(t.Context()); err != nil || got.V2 != imds.Absent {
				t.Errorf("got %+v, %v", got, err)
			}
			a.wantTraffic("v1 1")
		}},
		{"1.6", "with the kill switch an identity that prefers to be bound gets an unbound token by version 1", func(t *testing.T) {
			a := newAzureWith(t, func(a *azure) { a.disableV2 = true }, managedIdentity(acquire.BoundPrefer, imds.Selector{}))
			if token := a.mustGet(vault, acquire.TypeBearer); token.Bound || !token.Fallback {
				t.Errorf("got %+v", token)
			}
			a.wantTraffic("v1 1")
		}},
	})
}

// discards changes what the metadata say of an identity, and wants the certificate not to be used
// any more. The issuer knows nothing of the change, so the next certificate does not fit: Entra
// must not see the old one again.
func discards(t *testing.T, member string, value any) {
	a := newAzure(t, vmIdentity())
	a.mustGet(vault, acquire.TypeBearer)
	a.metadata.edits("getplatformmetadata", func(fields map[string]any) { fields[member] = value })
	if _, err := a.get(management, acquire.TypeBearer); err == nil {
		t.Error("got a token with a certificate of another identity")
	}
	a.wantTraffic("metadata 2, attest 2, credential 3, mtls 1") // the refusal of what was attested before is not believed at once
}

func metadataRequests() []demand {
	list := []demand{
		{"1.1", "GET with Metadata: true, a GUID as request id and no body", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			m := a.metadata.requestsTo("getplatformmetadata")[0]
			if m.method != http.MethodGet || m.target != "/metadata/identity/getplatformmetadata?cred-api-version=2.0" || m.body != "" {
				t.Errorf("got %s %s with %q", m.method, m.target, m.body)
			}
			if id := m.header.Get("x-ms-client-request-id"); uuid.Validate(id) != nil || m.header.Get("Metadata") != "true" {
				t.Errorf("headers are %v", m.header)
			}
			if m.header.Get("X-Forwarded-For") != "" {
				t.Error("the request looks forwarded")
			}
		}},
		{"1.1", "each attempt has a request id of its own", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.answers("getplatformmetadata", says(500, ""))
			a.mustGet(vault, acquire.TypeBearer)
			m := a.metadata.requestsTo("getplatformmetadata")
			if len(m) != 2 || m[0].header.Get("x-ms-client-request-id") == m[1].header.Get("x-ms-client-request-id") {
				t.Errorf("got %d attempts, or one id", len(m))
			}
		}},
		{"1.1", "AZURE_POD_IDENTITY_AUTHORITY_HOST is not honoured", func(t *testing.T) {
			rogue := newRecorder(t, http.NotFoundHandler(), nil)
			t.Setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", rogue.url)
			a := newAzure(t, vmIdentity())
			a.mustGet(vault, acquire.TypeBearer)
			if len(rogue.all()) != 0 {
				t.Error("the host that the environment names is asked")
			}
		}},
	}
	for name, row := range map[string]struct {
		selector func(user simentra.Principal) imds.Selector
		query    func(user simentra.Principal) string
	}{
		"client id": {
			func(u simentra.Principal) imds.Selector { return imds.Selector{ClientID: u.ClientID} },
			func(u simentra.Principal) string { return "client_id=" + u.ClientID + "&cred-api-version=2.0" },
		},
		"object id": {
			func(u simentra.Principal) imds.Selector { return imds.Selector{ObjectID: u.ObjectID} },
			func(u simentra.Principal) string { return "cred-api-version=2.0&object_id=" + u.ObjectID },
		},
		"resource id": {
			func(u simentra.Principal) imds.Selector { return imds.Selector{ResourceID: u.ResourceID} },
			func(u simentra.Principal) string {
				return "cred-api-version=2.0&mi_res_id=" + strings.ReplaceAll(u.ResourceID, "/", "%2F")
			},
		},
	} {
		list = append(list, demand{"1.1", "selected by " + name + ", on both requests", func(t *testing.T) {
			user := mustServices(t).user
			a := newAzure(t, managedIdentity(acquire.BoundRequire, row.selector(user)))
			if token := a.mustGet(vault, acquire.TypeBearer); token.ClientID != user.ClientID {
				t.Errorf("got a token of %s", token.ClientID)
			}
			for _, endpoint := range []string{"getplatformmetadata", "issuecredential"} {
				if got := a.metadata.requestsTo(endpoint)[0].target; got != "/metadata/identity/"+endpoint+"?"+row.query(user) {
					t.Errorf("asked %s", got)
				}
			}
		}})
	}
	return list
}

// metadataAnswers are answers to endpoint 1 that must not be believed.
func metadataAnswers() []demand {
	var list []demand
	refused := func(section, sentence string, edit func(map[string]any)) {
		list = append(list, demand{section, sentence + " is refused", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.edits("getplatformmetadata", edit)
			_, err := a.bearer()
			wantKind(t, err, acquire.KindRefused)
			if !errors.Is(err, imds.ErrBadAnswer) {
				t.Errorf("got %v", err)
			}
			a.wantTraffic("metadata 1")
		}})
	}
	for _, member := range []string{"clientId", "tenantId", "cuId", "attestationEndpoint"} {
		refused("1.2", "an answer without "+member, func(m map[string]any) { delete(m, member) })
		refused("1.2", "an answer whose "+member+" is null", func(m map[string]any) { m[member] = nil })
	}
	refused("1.2", "cuId with neither vmId nor vmssId", func(m map[string]any) { m["cuId"] = map[string]any{} })
	refused("1.2", "cuId whose vmId is empty", func(m map[string]any) { m["cuId"] = map[string]any{"vmId": ""} })
	refused("1.2", "cuId that is a string", func(m map[string]any) { m["cuId"] = "5a6b7c8d" })
	for _, member := range []string{"clientId", "tenantId"} {
		refused("1.7", member+" that is no GUID", func(m map[string]any) { m[member] = "8b0c3d0e" })
		refused("1.7", member+" that is a GUID in braces", func(m map[string]any) { m[member] = "{" + uuid.NewString() + "}" })
	}
	for sentence, endpoint := range map[string]string{
		"an attestation endpoint over http":                "http://sharedweu.weu.attest.azure.net",
		"an attestation endpoint with user information":    "https://u:p@sharedweu.weu.attest.azure.net",
		"an attestation endpoint with a backslash":         `https://sharedweu.weu.attest.azure.net\@evil.example`,
		"an attestation endpoint off the list of hosts":    "https://attest.example",
		"an attestation endpoint that looks like the list": "https://attest.azure.net.example",
	} {
		refused("1.7", sentence, func(m map[string]any) { m["attestationEndpoint"] = endpoint })
	}
	refused("1.7", "an answer of JSON null", func(m map[string]any) { clear(m) })
	for sentence, server := range map[string]string{"no Server header": "", "a Server header of another program": "nginx/1.27"} {
		for _, endpoint := range []string{"getplatformmetadata", "issuecredential"} {
			list = append(list, demand{"1.3", sentence + " on " + endpoint + " is refused", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.answers(endpoint, says(200, `{"clientId":"x"}`, "Server", server))
				_, err := a.bearer()
				wantError(t, err, "Server header")
				if !errors.Is(err, imds.ErrBadAnswer) {
					t.Errorf("got %v", err)
				}
			}})
		}
	}
	for _, server := range []string{"IMDS/150.870.65.1854", "imds", "Microsoft-IMDS/2"} {
		list = append(list, demand{"1.3", "Server: " + server + " is that of IMDS", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.answers("getplatformmetadata", says(200, "{}", "Server", server))
			if _, err := a.bearer(); err == nil || strings.Contains(err.Error(), "Server header") {
				t.Errorf("got %v, want the answer to be read", err)
			}
		}})
	}
	return list
}

const identityNotFound = `{"error":"identity_not_found","error_description":"Identity not found","correlationId":"c-1"}`

func metadataRetries() []demand {
	var list []demand
	exponential := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	for _, endpoint := range []string{"getplatformmetadata", "issuecredential"} {
		for _, status := range []int{404, 408, 429, 500, 502, 503, 504, 599} {
			list = append(list, demand{"1.4", strconv.Itoa(status) + " on " + endpoint + ": three more attempts after 1, 2 and 4 s", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.alwaysAnswers(endpoint, says(status, ""))
				if _, err := a.bearer(); err == nil {
					t.Error("no error")
				}
				if got := len(a.metadata.requestsTo(endpoint)); got != 4 {
					t.Errorf("%d attempts", got)
				}
				a.wantSlept(exponential...)
			}})
		}
		for _, status := range []int{300, 400, 401, 403, 405, 409} {
			list = append(list, demand{"1.4", strconv.Itoa(status) + " on " + endpoint + ": no other attempt", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.alwaysAnswers(endpoint, says(status, ""))
				if _, err := a.bearer(); err == nil {
					t.Error("no error")
				}
				if got := len(a.metadata.requestsTo(endpoint)); got != 1 {
					t.Errorf("%d attempts", got)
				}
				a.wantSlept()
			}})
		}
		list = append(list,
			demand{"1.4", "410 first on " + endpoint + ": seven more attempts, 10 s apart, then success after 70 s", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.answers(endpoint, slices.Repeat([]http.HandlerFunc{says(410, "")}, 7)...)
				a.mustGet(vault, acquire.TypeBearer)
				a.wantSlept(slices.Repeat([]time.Duration{10 * time.Second}, 7)...)
			}},
			demand{"1.4", "410 first on " + endpoint + ": eight are too many", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.alwaysAnswers(endpoint, says(410, ""))
				_, err := a.bearer()
				wantKind(t, err, acquire.KindUnavailable)
				if got := len(a.metadata.requestsTo(endpoint)); got != 8 {
					t.Errorf("%d attempts", got)
				}
			}},
			demand{"1.4", "410 after 500 on " + endpoint + ": the count of the first failure holds", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.answers(endpoint, says(500, ""))
				a.metadata.alwaysAnswers(endpoint, says(410, ""))
				if _, err := a.bearer(); err == nil {
					t.Error("no error")
				}
				a.wantSlept(exponential...)
			}},
			demand{"1.4", "500 after 410 on " + endpoint + ": the count of the first failure holds", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.answers(endpoint, says(410, ""), says(500, ""), says(429, ""), says(404, ""))
				a.mustGet(vault, acquire.TypeBearer)
				a.wantSlept(slices.Repeat([]time.Duration{10 * time.Second}, 4)...)
			}},
			demand{"1.4", "Retry-After on " + endpoint + " is ignored", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.answers(endpoint, says(429, "", "Retry-After", "77"))
				a.mustGet(vault, acquire.TypeBearer)
				a.wantSlept(time.Second)
			}},
			demand{"1.4", "a redirect on " + endpoint + " is not followed", func(t *testing.T) {
				rogue := newRecorder(t, http.NotFoundHandler(), nil)
				a := newAzure(t, vmIdentity())
				a.metadata.alwaysAnswers(endpoint, says(307, "", "Location", rogue.url+"/x"))
				if _, err := a.bearer(); err == nil || len(rogue.all()) != 0 {
					t.Errorf("got %v, and %d requests were led elsewhere", err, len(rogue.all()))
				}
			}},
			demand{"1.4", "an answer of more than 1 MiB on " + endpoint + " is refused", func(t *testing.T) {
				a := newAzure(t, vmIdentity())
				a.metadata.answers(endpoint, says(200, `{"clientId":"`+strings.Repeat("x", 1<<20)+`"}`))
				_, err := a.bearer()
				wantError(t, err, "too large")
			}},
		)
	}
	return append(list,
		demand{"1.4", "404 on the metadata after all attempts: version 2 is not offered", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.alwaysAnswers("getplatformmetadata", says(404, ""))
			_, err := a.bearer()
			if !errors.Is(err, imds.ErrNotSupported) {
				t.Errorf("got %v", err)
			}
			a.wantTraffic("metadata 4")
		}},
		demand{"1.4", "a caller waits no longer than its own deadline, and the attempts end with the agent", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			asked, gone := make(chan struct{}), make(chan struct{})
			a.metadata.answers("getplatformmetadata", func(_ http.ResponseWriter, r *http.Request) {
				close(asked)
				<-r.Context().Done()
				close(gone)
			})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-asked; cancel() }()
			_, err := a.acquirer.Token(ctx, acquire.Request{Identity: "id", Resource: vault, Type: acquire.TypeBearer})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if err := a.acquirer.Close(); err != nil {
				t.Error(err)
			}
			<-gone
		}},
		demand{"1.4", "IMDS is never asked through a proxy", func(t *testing.T) {
			client := imds.NewHTTPClient()
			if transport, ok := client.Transport.(*http.Transport); !ok || transport.Proxy != nil {
				t.Error("there may be a proxy")
			}
		}},
		demand{"1.4", "an error's members are all kept", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.answers("getplatformmetadata", says(400, identityNotFound))
			_, err := a.bearer()
			wantKind(t, err, acquire.KindUnknownIdentity)
			e, ok := errors.AsType[*imds.Error](err)
			if !ok || e.Status != 400 || e.Code != "identity_not_found" || e.Description != "Identity not found" || e.CorrelationID != "c-1" {
				t.Errorf("got %+v", e)
			}
		}},
		demand{"1.4", "an error may have its text in message alone", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.answers("getplatformmetadata", says(400, `{"message":"no luck"}`))
			_, err := a.bearer()
			wantError(t, err, "no luck")
		}},
		demand{"1.4", "an error that is not JSON is an error by its status", func(t *testing.T) {
			a := newAzure(t, vmIdentity())
			a.metadata.answers("getplatformmetadata", says(400, "<html>"))
			_, err := a.bearer()
			wantError(t, err, "status 400")
		}},
	)
}
