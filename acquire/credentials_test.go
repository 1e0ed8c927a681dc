package acquire_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
)

// Each credential sends its forms, and the description of its token fits the form.
func TestEachCredentialObtainsAToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion")
	if err := os.WriteFile(file, []byte("aa.bb.cc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate := func(bound acquire.Bound, send acquire.SendAssertion) acquire.Identity {
		c := certificateEntry(bound)
		c.SendAssertion = send
		return application("app", c)
	}
	oidc := func(bound acquire.Bound) []acquire.Identity {
		return []acquire.Identity{
			application("app", acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: bound, Identity: "middle"}),
			application("middle", managedEntry(bound)),
		}
	}
	managedIdentity := func(bound acquire.Bound) acquire.Identity {
		return acquire.Identity{Name: "app", ManagedIdentity: &acquire.ManagedIdentity{Bound: bound}}
	}
	for _, tt := range []struct {
		name       string
		identities []acquire.Identity
		tokenType  acquire.TokenType
		want       []string // as Entra sees them
		bound      bool
		strength   acquire.Strength
	}{
		{"managed identity, bound", []acquire.Identity{managedIdentity(acquire.BoundRequire)}, "",
			[]string{"tenant-id as first bearer for " + scope}, true, acquire.StrengthAttested},
		{"managed identity, bound, of type mtls_pop", []acquire.Identity{managedIdentity(acquire.BoundPrefer)}, acquire.TypePoP,
			[]string{"tenant-id as first mtls_pop for " + scope}, true, acquire.StrengthAttested},
		{"managed identity, unbound: IMDS asks Entra", []acquire.Identity{managedIdentity(acquire.BoundNever)}, "", nil, false, acquire.StrengthNone},
		{"certificate over mutual TLS with an assertion (B)", []acquire.Identity{certificate(acquire.BoundRequire, acquire.AssertionAlways)}, "",
			[]string{"mtls as app jwt-bearer for " + scope}, true, acquire.StrengthTPM},
		{"certificate over mutual TLS alone (B')", []acquire.Identity{certificate(acquire.BoundRequire, acquire.AssertionNever)}, "",
			[]string{"mtls as app for " + scope}, true, acquire.StrengthTPM},
		{"certificate, of type mtls_pop (C)", []acquire.Identity{certificate(acquire.BoundRequire, acquire.AssertionAlways)}, acquire.TypePoP,
			[]string{"mtls as app mtls_pop for " + scope}, true, acquire.StrengthTPM},
		{"certificate by assertion alone (A)", []acquire.Identity{certificate(acquire.BoundNever, acquire.AssertionAlways)}, "",
			[]string{"login jwt-bearer for " + scope}, false, acquire.StrengthTPMSigned},
		{"federated, bound: two requests over one certificate", []acquire.Identity{application("app", managedEntry(acquire.BoundRequire))}, "",
			[]string{"tenant-id as first mtls_pop for " + exchange, "mtls as first jwt-pop for " + scope}, true, acquire.StrengthAttested},
		{"federated, bound, of type mtls_pop", []acquire.Identity{application("app", managedEntry(acquire.BoundRequire))}, acquire.TypePoP,
			[]string{"tenant-id as first mtls_pop for " + exchange, "mtls as first jwt-pop mtls_pop for " + scope}, true, acquire.StrengthAttested},
		{"federated, unbound", []acquire.Identity{application("app", managedEntry(acquire.BoundNever))}, "",
			[]string{"login jwt-bearer for " + scope}, false, acquire.StrengthNone},
		{"through another application, bound: three requests over one certificate", oidc(acquire.BoundRequire), "",
			[]string{"tenant-id as first mtls_pop for " + exchange, "mtls as first jwt-pop mtls_pop for " + exchange, "mtls as first jwt-pop for " + scope}, true, acquire.StrengthAttested},
		{"through another application, unbound", oidc(acquire.BoundNever), "",
			[]string{"login jwt-bearer for " + exchange, "login jwt-bearer for " + scope}, false, acquire.StrengthNone},
		{"an assertion that somebody keeps in a file", []acquire.Identity{application("app", acquire.Credential{
			Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: file,
		})}, "", []string{"login jwt-bearer for " + scope}, false, acquire.StrengthNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorldWith(t, acquire.StrengthTPM, tt.identities...)
			w.addKey("app")
			w.unbound = v1Token
			seen := w.plays(always)
			got := w.mustGet(acquire.Request{Identity: "app", Type: tt.tokenType})
			if requests := described(*seen); !slices.Equal(requests, tt.want) {
				t.Errorf("Entra saw\n%s\nwant\n%s", strings.Join(requests, "\n"), strings.Join(tt.want, "\n"))
			}
			if got.Bound != tt.bound || got.Strength != tt.strength || got.Fallback {
				t.Errorf("got bound %v, strength %q, fallback %v", got.Bound, got.Strength, got.Fallback)
			}
			if (got.Binding.Thumbprint != "") != tt.bound {
				t.Errorf("got binding %+v for bound %v", got.Binding, tt.bound)
			}
		})
	}
}

// The assertion that the first request obtains is what the exchange sends, over the connection of
// the same certificate.
func TestAnAssertionAndItsCertificateStayTogether(t *testing.T) {
	w := newAppWorld(t, managedEntry(acquire.BoundRequire))
	seen := w.plays(func(n int, _ seenRequest) reply {
		if n == 2 { // between the requests, the certificate is renewed
			w.rotate("", "second", true)
			return refusal(400, "invalid_request", 500181)
		}
		return reply{}
	})
	w.mustGet(acquire.Request{Identity: "app"})
	want := []string{
		"tenant-id as first mtls_pop for " + exchange, "mtls as first jwt-pop for " + scope,
		"tenant-id as second mtls_pop for " + exchange, "mtls as second jwt-pop for " + scope,
	}
	if got := described(*seen); !slices.Equal(got, want) {
		t.Errorf("Entra saw\n%s\nwant both requests again, with the new certificate", strings.Join(got, "\n"))
	}
	if (*seen)[1].assertion == (*seen)[3].assertion {
		t.Error("the rejected assertion was sent again")
	}
}

func TestAnAssertionIsKeptForOtherResourcesUntilItsCertificateGoes(t *testing.T) {
	w := newAppWorld(t, managedEntry(acquire.BoundRequire))
	seen := w.plays(always)
	for i := range 3 {
		w.mustGet(acquire.Request{Identity: "app", Resource: fmt.Sprintf("https://r%d", i)})
	}
	if n := len(*seen); n != 4 {
		t.Errorf("got %d requests for three resources, want one assertion request and three exchanges", n)
	}
	w.rotate("", "second", true)
	w.mustGet(acquire.Request{Identity: "app", Resource: "https://r3"})
	if last := described(*seen)[4:]; !slices.Equal(last, []string{"tenant-id as second mtls_pop for " + exchange, "mtls as second jwt-pop for https://r3/.default"}) {
		t.Errorf("after a rotation Entra saw %v", last)
	}
	w.advance(56 * time.Minute)
	w.mustGet(acquire.Request{Identity: "app", Resource: "https://r4"})
	if n := len(*seen); n != 8 {
		t.Errorf("got %d requests, want 8: an assertion that is about to expire is not sent", n)
	}
}

// Which rejection has a certificate replaced: at most once for a request.
func TestARejectedBindingCertificateIsReplacedOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		said reply
		why  []binding.Reason // none: it is not replaced
	}{
		{"the attestation is outside its time", refusal(401, "invalid_client", 1000610), []binding.Reason{binding.ReasonAttestation}},
		{"the attestation's issuer", refusal(401, "invalid_client", 1000611), []binding.Reason{binding.ReasonAttestation}},
		{"a claim of the attestation", refusal(401, "invalid_client", 1000612), []binding.Reason{binding.ReasonAttestation}},
		{"the attestation's jku", refusal(401, "invalid_client", 1000613), []binding.Reason{binding.ReasonAttestation}},
		{"the attestation's signature", refusal(401, "invalid_client", 1000614), []binding.Reason{binding.ReasonAttestation}},
		{"no reason is given", reply{401, `{"error":"invalid_client"}`}, []binding.Reason{binding.ReasonCertificate}},
		{"token_not_after has passed", refusal(400, "invalid_request", 1000901), []binding.Reason{binding.ReasonCertificate}},
		{"outside its validity", refusal(401, "invalid_client", 1000502), []binding.Reason{binding.ReasonCertificate}},
		{"revoked", refusal(401, "invalid_client", 7000214), []binding.Reason{binding.ReasonCertificate}},
		{"not enabled", refusal(400, "invalid_request", 51000), nil},
		{"the resource takes no bound tokens", refusal(400, "invalid_request", 392196), nil},
		{"the tenant takes no bound tokens", refusal(400, "invalid_request", 3921996), nil},
		{"no federated credential matches", refusal(401, "invalid_client", 70022204), nil},
		{"neither assertion nor secret", refusal(401, "invalid_client", 7000218), nil},
		{"a wrong secret", refusal(401, "invalid_client", 7000215), nil},
		{"unknown application", refusal(400, "unauthorized_client", 700016), nil},
		{"temporarily down", reply{503, ""}, nil},
		{"throttled", reply{429, ""}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			seen := w.plays(func(int, seenRequest) reply { return tt.said })
			if _, err := w.get(acquire.Request{}); err == nil {
				t.Error("got a token")
			}
			if !slices.Equal(w.replaced, tt.why) {
				t.Errorf("replaced for %v, want %v", w.replaced, tt.why)
			}
			if len(tt.why) > 0 && len(*seen) != 2 {
				t.Errorf("got %d requests, want one with each certificate", len(*seen))
			}

			w = newWorld(t)
			w.plays(func(n int, _ seenRequest) reply {
				if n == 1 {
					return tt.said
				}
				return reply{}
			})
			if got, err := w.get(acquire.Request{}); len(tt.why) > 0 && (err != nil || got.Binding.Thumbprint != w.current.Thumbprint()) {
				t.Errorf("got %+v, %v; want a token with the new certificate", got, err)
			}
		})
	}
}

// What the exchange for an application says of the certificate is believed when the managed
// identity's own request says it, too: many share the certificate, and one application must not
// take it away from them.
func TestACertificateRejectedInTheExchangeIsTriedInTheAssertionRequest(t *testing.T) {
	for _, tt := range []struct {
		name     string
		codes    []int
		revoked  bool // for the assertion request as well
		token    bool
		replaced int
		requests int
	}{
		{"it is revoked", []int{7000214}, true, true, 1, 5},
		{"only this application does not take it", []int{7000214}, false, false, 0, 4},
		{"this application is refused without a reason", nil, false, false, 0, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newAppWorld(t, managedEntry(acquire.BoundRequire))
			seen := w.plays(func(n int, r seenRequest) reply {
				first := r.face == "tenant-id"
				if r.subject == "first" && (first && tt.revoked && n > 1 || !first) {
					return refusal(401, "invalid_client", tt.codes...)
				}
				return reply{}
			})
			_, err := w.get(acquire.Request{Identity: "app"})
			if (err == nil) != tt.token || len(w.replaced) != tt.replaced || len(*seen) != tt.requests {
				t.Errorf("got %v after %d replacements and\n%s", err, len(w.replaced), strings.Join(described(*seen), "\n"))
			}
		})
	}
	// Once per request, whichever request it was.
	w := newAppWorld(t, managedEntry(acquire.BoundRequire))
	w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 7000214) })
	if _, err := w.get(acquire.Request{Identity: "app"}); err == nil || len(w.replaced) != 1 {
		t.Errorf("got %v after %d replacements, want an error after one", err, len(w.replaced))
	}
}

func TestABreakerThatIsOpenIsATemporaryFailure(t *testing.T) {
	w := newWorld(t)
	w.replaceErr = &binding.PausedError{RetryAfter: 20 * time.Second}
	w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 7000214) })
	_, err := w.get(acquire.Request{})
	if e, ok := errors.AsType[*acquire.Error](err); !ok || e.Kind != acquire.KindUnavailable || e.RetryAfter != 20*time.Second {
		t.Errorf("got %+v, want KindUnavailable with the breaker's pause", err)
	}
}

func TestEachManagedIdentitysCertificateIsReplacedOnce(t *testing.T) {
	second := managedEntry(acquire.BoundRequire)
	second.Name, second.Selector = "second", imds.Selector{ClientID: "other"}
	w := newAppWorld(t, managedEntry(acquire.BoundRequire), second)
	w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 1000612) })
	if _, err := w.get(acquire.Request{Identity: "app"}); err == nil || len(w.replaced) != 2 {
		t.Errorf("got %v after %d replacements, want an error after one for each", err, len(w.replaced))
	}
}

func TestAssertionsOverMutualTLSOnlyWhereEntraAsksForThem(t *testing.T) {
	c := certificateEntry(acquire.BoundRequire)
	c.SendAssertion = acquire.AssertionAuto
	w := newAppWorld(t, c)
	w.addKey("app")
	seen := w.plays(func(_ int, r seenRequest) reply {
		if r.kind == "" {
			return refusal(401, "invalid_client", 7000218)
		}
		return reply{}
	})
	w.mustGet(acquire.Request{Identity: "app"})
	w.mustGet(acquire.Request{Identity: "app", Resource: "https://other"})
	want := []string{"mtls as app for " + scope, "mtls as app jwt-bearer for " + scope, "mtls as app jwt-bearer for https://other/.default"}
	if got := described(*seen); !slices.Equal(got, want) {
		t.Errorf("Entra saw %v, want %v", got, want)
	}
}

func TestAnAssertionThatTheKeySignsIsSentOnce(t *testing.T) {
	for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundNever} {
		w := newAppWorld(t, certificateEntry(bound))
		w.addKey("app")
		seen := w.plays(func(n int, _ seenRequest) reply {
			switch n {
			case 1:
				return reply{503, ""}
			case 2:
				return refusal(401, "invalid_client", 700024)
			}
			return reply{}
		})
		w.mustGet(acquire.Request{Identity: "app"})
		sent := map[string]bool{}
		for _, s := range *seen {
			sent[s.assertion] = true
		}
		if len(*seen) != 3 || len(sent) != 3 || sent[""] {
			t.Errorf("%s: got %d assertions in %d requests, want a new one in each", bound, len(sent), len(*seen))
		}
	}
}

func TestAnAssertionFileIsReadAgainAndNeverTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion")
	w := newAppWorld(t, acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: file})
	seen := w.plays(always)
	for _, tt := range []struct {
		content string
		good    bool
	}{{"", false}, {"one.two.three", true}, {"four.five.six\n", true}, {"no jwt but a password", false}, {strings.Repeat("a", 1<<17) + ".b.c", false}} {
		if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := w.get(acquire.Request{Identity: "app", Resource: fmt.Sprintf("https://r%d", len(tt.content))})
		if (err == nil) != tt.good {
			t.Errorf("%.20q: got %v", tt.content, err)
		}
		if err != nil && strings.Contains(err.Error(), "password") {
			t.Errorf("the error tells what is in the file: %v", err)
		}
	}
	if len(*seen) != 2 || (*seen)[0].assertion != "one.two.three" || (*seen)[1].assertion != "four.five.six" {
		t.Errorf("Entra saw %d requests", len(*seen))
	}
}
