package acquire_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
)

// The chain: what gives way, what is final, and what is said about it.
func TestTheListIsTriedInItsOrder(t *testing.T) {
	missing := certificateEntry(acquire.BoundRequire)
	missing.Name, missing.Key = "missing", "not-there"
	unboundMissing := missing
	unboundMissing.Bound = acquire.BoundNever
	for _, tt := range []struct {
		name        string
		credentials []acquire.Credential
		play        func(n int, r seenRequest) reply
		imdsDown    bool
		noV1        bool
		want        string // name of the entry, "" if there is no token
		bound       bool
		kind        acquire.Kind
		requests    int
	}{
		{name: "the first that works", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: always, want: "cert", bound: true, requests: 1},
		{name: "a key that is not there gives way", credentials: []acquire.Credential{missing, certificateEntry(acquire.BoundRequire)},
			play: always, want: "cert", bound: true, requests: 1},
		{name: "a managed identity that cannot be reached gives way", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundRequire)},
			imdsDown: true, play: always, want: "cert", bound: true, requests: 1},
		{name: "a certificate that is not registered gives way", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(401, "invalid_client", 700027)), want: "mi", bound: true, requests: 3},
		{name: "a revoked certificate of an application gives way", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(401, "invalid_client", 7000214)), want: "mi", bound: true, requests: 3},
		{name: "a certificate that Entra finds outside its validity gives way to a bound entry", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(401, "invalid_client", 1000502)), want: "mi", bound: true, requests: 3},
		{name: "and to no other", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundNever)},
			play: rejects("cert", refusal(401, "invalid_client", 1000502)), kind: acquire.KindRefused, requests: 1},
		{name: "an assertion that Entra finds outside its time is made anew, and gives way to a bound entry", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(401, "invalid_client", 700024)), want: "mi", bound: true, requests: 4},
		{name: "and to no unbound one", credentials: []acquire.Credential{certificateEntry(acquire.BoundPrefer), managedEntry(acquire.BoundNever)},
			play: rejects("cert", refusal(401, "invalid_client", 700024)), kind: acquire.KindRefused, requests: 2},
		{name: "an unknown application is final", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(400, "unauthorized_client", 700016)), kind: acquire.KindRefused, requests: 1},
		{name: "an unknown resource is final", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(400, "invalid_resource", 500011)), kind: acquire.KindInvalidResource, requests: 1},
		{name: "a feature that is not enabled is final where the bound form is required", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", refusal(400, "invalid_request", 51000)), kind: acquire.KindRefused, requests: 1},
		{name: "throttling is final", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", reply{429, ""}), kind: acquire.KindThrottled, requests: 1},
		{name: "an outage is final", credentials: []acquire.Credential{certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire)},
			play: rejects("cert", reply{503, ""}), kind: acquire.KindUnavailable, requests: 2},
		{name: "an entry that prefers to be bound is unbound where the feature is not enabled", credentials: []acquire.Credential{certificateEntry(acquire.BoundPrefer)},
			play: rejects("mtls", refusal(400, "invalid_request", 51000)), want: "cert", bound: false, requests: 2},
		{name: "an outage of the bound form does not make it unbound", credentials: []acquire.Credential{certificateEntry(acquire.BoundPrefer)},
			play: rejects("mtls", reply{503, ""}), kind: acquire.KindUnavailable, requests: 2},
		{name: "an unreachable metadata service does not make a managed identity unbound", credentials: []acquire.Credential{managedEntry(acquire.BoundPrefer)},
			imdsDown: true, play: always, kind: acquire.KindUnavailable},
		{name: "an outage of Entra in the first of two requests is final", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundNever)},
			play: rejects("tenant-id", reply{503, ""}), kind: acquire.KindUnavailable, requests: 2},
		{name: "throttling in the first of two requests is final", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundRequire)},
			play: rejects("tenant-id", reply{429, ""}), kind: acquire.KindThrottled, requests: 1},
		{name: "a managed identity that Entra does not know gives way", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundNever)},
			play: rejects("tenant-id", refusal(400, "unauthorized_client", 700016)), kind: acquire.KindRefused, requests: 1},
		{name: "all were tried in vain", credentials: []acquire.Credential{missing, managedEntry(acquire.BoundNever)},
			noV1: true, play: always, kind: acquire.KindRefused},
		{name: "a key that is not there does not make it unbound", credentials: []acquire.Credential{missing, managedEntry(acquire.BoundNever)},
			play: always, kind: acquire.KindRefused},
		{name: "an unbound entry that is not there gives way to any other", credentials: []acquire.Credential{unboundMissing, managedEntry(acquire.BoundNever)},
			play: always, want: "mi", requests: 1},
		{name: "a metadata service that is not there does not make it unbound", credentials: []acquire.Credential{managedEntry(acquire.BoundRequire), certificateEntry(acquire.BoundNever)},
			imdsDown: true, play: always, kind: acquire.KindUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newAppWorld(t, tt.credentials...)
			w.addKey("app")
			if tt.imdsDown {
				w.bindingErr = imds.ErrUnreachable
			}
			if !tt.noV1 {
				w.unbound = v1Token
			}
			seen := w.plays(tt.play)
			got, err := w.get(acquire.Request{Identity: "app"})
			if n := len(*seen); n != tt.requests {
				t.Errorf("got %d requests, want %d: %v", n, tt.requests, described(*seen))
			}
			if tt.want == "" {
				if !isKind(err, tt.kind) {
					t.Errorf("got %v, want kind %q", err, tt.kind)
				}
				return
			}
			if err != nil || got.Credential != tt.want || got.Bound != tt.bound {
				t.Errorf("got credential %q, bound %v, %v; want %q", got.Credential, got.Bound, err, tt.want)
			}
			if first := tt.credentials[0].Name == got.Credential && got.Bound; got.Fallback == first {
				t.Errorf("got fallback %v for %q", got.Fallback, got.Credential)
			}
		})
	}
}

func TestARequestIsRetriedWithTheNextEntryOnce(t *testing.T) {
	second, third := certificateEntry(acquire.BoundRequire), certificateEntry(acquire.BoundRequire)
	second.Name, third.Name = "second", "third"
	w := newAppWorld(t, certificateEntry(acquire.BoundRequire), second, third)
	w.addKey("app")
	seen := w.plays(func(int, seenRequest) reply { return refusal(401, "invalid_client", 700027) })
	_, err := w.get(acquire.Request{Identity: "app"})
	chain, ok := errors.AsType[*acquire.ChainError](err)
	if !ok || len(chain.Attempts) != 2 || len(*seen) != 2 {
		t.Errorf("got %v after %d requests, want two attempts", err, len(*seen))
	}
	for _, name := range []string{"cert (bound)", "second (bound)", "as the test wants"} {
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not say %q: %v", name, err)
		}
	}
}

func TestRequiredMeansBoundOrNothing(t *testing.T) {
	for name, said := range map[string]error{
		"the host has no binding certificates": &imds.Error{Operation: "getplatformmetadata", Status: 404},
		"the attestation service refuses":      fmt.Errorf("%w: %w", binding.ErrAttestation, noEvidence{}),
		"the issuer refuses":                   &imds.Error{Operation: "issuecredential", Status: 400, Code: "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundPrefer} {
				w := newWorldWith(t, acquire.StrengthTPM, acquire.Identity{Name: "vm", ManagedIdentity: &acquire.ManagedIdentity{Bound: bound}})
				w.unbound, w.bindingErr = v1Token, said
				got, err := w.get(acquire.Request{})
				if bound == acquire.BoundRequire && err == nil {
					t.Errorf("required: got an unbound token")
				}
				if bound == acquire.BoundPrefer && (err != nil || got.Bound || !got.Fallback || got.Strength != acquire.StrengthNone || got.AccessToken.Reveal() != "v1-"+resource) {
					t.Errorf("preferred: got %+v, %v; want the unbound token, marked", got, err)
				}
				if _, err := w.get(acquire.Request{Type: acquire.TypePoP}); err == nil {
					t.Errorf("%s: got a token of type mtls_pop from an unbound credential", bound)
				}
			}
		})
	}
}

// What one entry of an inner list was refused for good must not hide that another one was only
// disturbed.
func TestAListInAListCountsAsAWhole(t *testing.T) {
	inner := application("inner", certificateEntry(acquire.BoundRequire), managedEntry(acquire.BoundRequire))
	via := acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Identity: "inner"}
	for _, tt := range []struct {
		name     string
		disturb  reply // what the inner list's second entry gets
		unbound  bool
		wantKind acquire.Kind
	}{
		{"the second entry is down", reply{503, ""}, false, acquire.KindUnavailable},
		{"the second entry is throttled", reply{429, ""}, false, acquire.KindThrottled},
		{"the second entry is refused, too", refusal(401, "invalid_client", 700027), true, ""},
	} {
		for _, bound := range []acquire.Bound{acquire.BoundPrefer, acquire.BoundRequire} {
			t.Run(tt.name+", "+string(bound), func(t *testing.T) {
				via.Bound = bound
				outer := application("app", via, acquire.Credential{Name: "cert", Source: acquire.SourceCertificate, Bound: acquire.BoundNever, Key: "app"})
				w := newWorldWith(t, acquire.StrengthTPM, outer, inner)
				w.addKey("app")
				w.unbound = v1Token
				w.plays(func(_ int, r seenRequest) reply {
					switch {
					case r.face == "mtls" && r.subject == "app":
						return refusal(401, "invalid_client", 7000274)
					case r.subject != "":
						return tt.disturb
					}
					return reply{}
				})
				got, err := w.get(acquire.Request{Identity: "app"})
				if tt.unbound && (err != nil || got.Bound || !got.Fallback) || !tt.unbound && !isKind(err, tt.wantKind) {
					t.Errorf("got %q, bound %v, fallback %v, %v", got.Credential, got.Bound, got.Fallback, err)
				}
			})
		}
	}
}

// While another certificate may do, an identity that prefers to be bound is not unbound for want of
// it.
func TestARejectionMakesUnboundOnlyWhenNoOtherCertificateWillDo(t *testing.T) {
	for _, tt := range []struct {
		name    string
		failed  error // to obtain another certificate
		unbound bool
		kind    acquire.Kind // where the bound form is required, or where there is no token
	}{
		{"the metadata service is out of reach", imds.ErrUnreachable, false, acquire.KindUnavailable},
		{"the issuer is throttling", &imds.Error{Operation: "issuecredential", Status: 429}, false, acquire.KindThrottled},
		{"attestation is out of reach", fmt.Errorf("%w: %w", binding.ErrAttestation, errors.New("reset")), false, acquire.KindUnavailable},
		{"the issuer refuses", &imds.Error{Operation: "issuecredential", Status: 400}, true, acquire.KindRefused},
		{"the attestation service refuses", fmt.Errorf("%w: %w", binding.ErrAttestation, noEvidence{}), true, acquire.KindRefused},
		{"this machine has no evidence", fmt.Errorf("%w: %w", binding.ErrAttestation, final{}), false, acquire.KindRefused},
		{"the last attempt failed a moment ago", &binding.PausedError{RetryAfter: time.Minute}, false, acquire.KindUnavailable},
		{"what was rejected was a replacement", &binding.PausedError{RetryAfter: time.Minute, Replacement: true}, true, acquire.KindUnavailable},
	} {
		for _, bound := range []acquire.Bound{acquire.BoundRequire, acquire.BoundPrefer} {
			for name, id := range map[string]acquire.Identity{
				"managed identity": {Name: "app", ManagedIdentity: &acquire.ManagedIdentity{Bound: bound}},
				"federated":        application("app", managedEntry(bound)),
			} {
				t.Run(tt.name+", "+name+", "+string(bound), func(t *testing.T) {
					w := newWorldWith(t, acquire.StrengthTPM, id)
					w.unbound, w.replaceErr = v1Token, tt.failed
					w.plays(func(_ int, r seenRequest) reply {
						if r.subject == "" {
							return reply{}
						}
						return refusal(401, "invalid_client", 7000214)
					})
					got, err := w.get(acquire.Request{Identity: "app"})
					if tt.unbound && bound == acquire.BoundPrefer {
						if err != nil || got.Bound || !got.Fallback {
							t.Errorf("got bound %v, fallback %v, %v; want an unbound token, marked", got.Bound, got.Fallback, err)
						}
					} else if !isKind(err, tt.kind) {
						t.Errorf("got bound %v, %v; want kind %q", got.Bound, err, tt.kind)
					}
				})
			}
		}
	}
}

// An alert on the way to the attestation service says nothing about our certificate, which that
// never sees.
func TestAnAlertOfTheAttestationServiceMakesNothingUnbound(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, acquire.Identity{Name: "vm", ManagedIdentity: &acquire.ManagedIdentity{Bound: acquire.BoundPrefer}})
	w.unbound, w.bindingErr = v1Token, fmt.Errorf("%w: %w", binding.ErrAttestation, &net.OpError{Op: "remote error", Err: tls.AlertError(42)})
	if got, err := w.get(acquire.Request{}); !isKind(err, acquire.KindUnavailable) {
		t.Errorf("got bound %v, %v", got.Bound, err)
	}
}

func TestCredentialsThatDependOnEachOtherAreRefused(t *testing.T) {
	via := func(name, other string) acquire.Identity {
		return application(name, acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: other})
	}
	bad := certificateEntry("sometimes")
	for name, identities := range map[string][]acquire.Identity{
		"on itself":                 {via("a", "a")},
		"in a circle":               {via("a", "b"), via("b", "a")},
		"on nobody":                 {via("a", "b")},
		"bound in an unknown way":   {application("a", bad)},
		"no credentials":            {application("a")},
		"neither nor":               {{Name: "a"}},
		"a bound assertion file":    {application("a", acquire.Credential{Name: "f", Source: acquire.SourceAssertionFile, Bound: acquire.BoundRequire})},
		"two of the same name":      {application("a", certificateEntry(acquire.BoundNever), certificateEntry(acquire.BoundNever))},
		"of an unknown source":      {application("a", acquire.Credential{Name: "x", Source: "secret", Bound: acquire.BoundNever})},
		"managed in an unknown way": {{Name: "a", ManagedIdentity: &acquire.ManagedIdentity{}}},
	} {
		if _, err := acquire.New(acquire.Config{Identities: identities}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A source that is not known is refused where the entry is checked, and again where it is built: it
// must not be taken for another one.
func TestAnUnknownSourceIsRefusedWhereTheEntryIsBuilt(t *testing.T) {
	entry := acquire.Credential{Name: "x", Source: "assertion-file", Bound: acquire.BoundNever, Path: "/dev/null"}
	id := acquire.Identity{Name: "app", Application: &acquire.Application{Credentials: []acquire.Credential{entry}}}
	const want = `identity "app": credential "x": there is no source "assertion-file"`
	if _, err := acquire.New(acquire.Config{Identities: []acquire.Identity{id}}); err == nil || err.Error() != want {
		t.Errorf("checked: got %v, want %s", err, want)
	}
	if err := acquire.Build(id); err == nil || err.Error() != want {
		t.Errorf("built: got %v, want %s", err, want)
	}
}
