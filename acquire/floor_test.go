package acquire_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/acquire/imds"
)

// Of the unbound forms, only an assertion that a key in the TPM signs reaches a floor, and only its
// own: it is refused wherever it was refused before it had a name.
func TestNoUnboundFormReachesAFloor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "assertion")
	if err := os.WriteFile(file, []byte("aa.bb.cc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]acquire.Identity{
		"managed identity": {Name: "app", ManagedIdentity: &acquire.ManagedIdentity{Bound: acquire.BoundPrefer}},
		"certificate":      application("app", certificateEntry(acquire.BoundNever)),
		"federated":        application("app", managedEntry(acquire.BoundNever)),
		"file":             application("app", acquire.Credential{Name: "file", Source: acquire.SourceAssertionFile, Bound: acquire.BoundNever, Path: file}),
	} {
		for _, floor := range []acquire.Strength{acquire.StrengthTPMSigned, acquire.StrengthSoftware, acquire.StrengthTPM, acquire.StrengthAttested} {
			t.Run(name+", "+string(floor), func(t *testing.T) {
				id := id
				id.MinStrength = floor
				w := newWorldWith(t, acquire.StrengthTPM, id)
				w.addKey("app")
				w.unbound, w.bindingErr = v1Token, &imds.Error{Operation: "getplatformmetadata", Status: 404}
				seen := w.plays(always)
				got, err := w.get(acquire.Request{Identity: "app"})
				if name == "certificate" && floor == acquire.StrengthTPMSigned {
					if err != nil || got.Bound || got.Strength != floor {
						t.Errorf("got %+v, %v", got, err)
					}
					return
				}
				if !isKind(err, acquire.KindRefused) || len(*seen) != 0 {
					t.Errorf("got %v after %d requests, want a refusal before anybody is asked", err, len(*seen))
				}
			})
		}
	}
}

// Whatever form an assertion of another identity has, it can be copied on the way: how it was
// obtained makes it no stronger.
func TestAnAssertionThatIsPassedOnIsNotTPMSigned(t *testing.T) {
	w := newWorldWith(t, acquire.StrengthTPM, application("middle", certificateEntry(acquire.BoundNever)),
		application("app", acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundNever, Identity: "middle"}))
	w.addKey("app")
	w.plays(always)
	if got := w.mustGet(acquire.Request{Identity: "app"}); got.Bound || got.Strength != acquire.StrengthNone {
		t.Errorf("got bound %v, strength %q", got.Bound, got.Strength)
	}
}

// An assertion that the TPM signs is the weaker form of its entry: it needs the same licence as
// before it had a strength, and says that it is a fallback, also where the floor takes it.
func TestAnAssertionThatTheTPMSignsIsAFallbackFromTheBoundForm(t *testing.T) {
	for _, tt := range []struct {
		name  string
		floor acquire.Strength
		play  reply
		want  string // what Entra saw of it; "" is nothing
	}{
		{"mutual TLS is not enabled", acquire.StrengthTPMSigned, refusal(412, "invalid_request", 51000), "login jwt-bearer for " + scope},
		{"the certificate is merely uploaded", acquire.StrengthTPMSigned, refusal(400, "invalid_request", 392189), "login jwt-bearer for " + scope},
		{"no floor", "", refusal(412, "invalid_request", 51000), "login jwt-bearer for " + scope},
		{"the floor is software", acquire.StrengthSoftware, refusal(412, "invalid_request", 51000), ""},
		{"the floor is tpm", acquire.StrengthTPM, refusal(412, "invalid_request", 51000), ""},
		{"an outage", acquire.StrengthTPMSigned, reply{503, ""}, ""},
		{"throttling that says 51000", acquire.StrengthTPMSigned, refusal(429, "invalid_request", 51000), ""},
		{"a wrong time", acquire.StrengthTPMSigned, refusal(401, "invalid_client", 1000502), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := application("app", certificateEntry(acquire.BoundPrefer))
			id.MinStrength = tt.floor
			w := newWorldWith(t, acquire.StrengthTPM, id)
			w.addKey("app")
			seen := w.plays(func(_ int, r seenRequest) reply {
				if r.face == "mtls" {
					return tt.play
				}
				return reply{}
			})
			got, err := w.get(acquire.Request{Identity: "app"})
			asked := slices.Contains(described(*seen), "login jwt-bearer for "+scope)
			switch {
			case tt.want == "" && (err == nil || asked):
				t.Errorf("got %+v, %v; Entra saw %v", got, err, described(*seen))
			case tt.want != "" && (err != nil || got.Bound || !got.Fallback || got.Strength != acquire.StrengthTPMSigned || !asked):
				t.Errorf("got %+v, %v; Entra saw %v", got, err, described(*seen))
			}
		})
	}
}

// An assertion of a key in software is what it was: whoever reads the key makes as many as they
// like.
func TestAnAssertionThatSoftwareSignsHasNoStrength(t *testing.T) {
	for _, floor := range []acquire.Strength{"", acquire.StrengthTPMSigned, acquire.StrengthSoftware} {
		id := application("app", certificateEntry(acquire.BoundNever))
		id.MinStrength = floor
		w := newWorldWith(t, acquire.StrengthSoftware, id)
		w.addKey("app")
		w.appKeys["app"].Strength = acquire.StrengthSoftware
		seen := w.plays(always)
		got, err := w.get(acquire.Request{Identity: "app"})
		if floor == "" && (err != nil || got.Bound || got.Strength != acquire.StrengthNone) {
			t.Errorf("got %+v, %v", got, err)
		}
		if floor != "" && (!isKind(err, acquire.KindRefused) || len(*seen) != 0) {
			t.Errorf("floor %s: got %v after %d requests", floor, err, len(*seen))
		}
	}
}

// Two floors of which none is the higher one both hold: what reaches one of them alone is refused.
func TestFloorsOfWhichNoneIsHigherBothHold(t *testing.T) {
	for _, tt := range []struct {
		name              string
		key               acquire.Strength
		outer, inner      acquire.Strength
		refused, attested bool
	}{
		{"software does not reach tpm-signed", acquire.StrengthSoftware, acquire.StrengthTPMSigned, acquire.StrengthSoftware, true, false},
		{"nor the other way round", acquire.StrengthSoftware, acquire.StrengthSoftware, acquire.StrengthTPMSigned, true, false},
		{"tpm reaches both", acquire.StrengthTPM, acquire.StrengthTPMSigned, acquire.StrengthSoftware, false, false},
		{"attested reaches both", acquire.StrengthTPM, acquire.StrengthSoftware, acquire.StrengthTPMSigned, false, true},
		{"a floor that is not known is reached by nothing", acquire.StrengthTPM, "titanium", acquire.StrengthTPM, true, true},
		{"of the inner identity, too", acquire.StrengthTPM, acquire.StrengthTPM, "titanium", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			middle, app := application("middle", managedEntry(acquire.BoundRequire)), application("app",
				acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "middle"})
			middle.MinStrength, app.MinStrength = tt.inner, tt.outer
			w := newWorldWith(t, tt.key, middle, app)
			w.rotate("", "subject", tt.attested)
			seen := w.plays(always)
			_, err := w.get(acquire.Request{Identity: "app"})
			if refused := isKind(err, acquire.KindRefused) && len(*seen) == 0; refused != tt.refused || !tt.refused && err != nil {
				t.Errorf("got %v after %d requests", err, len(*seen))
			}
		})
	}
}

// The floor of an identity holds for the assertions that it gives to others, too.
func TestTheFloorOfTheIssuingIdentityHolds(t *testing.T) {
	middle := application("middle", managedEntry(acquire.BoundRequire))
	middle.MinStrength = acquire.StrengthAttested
	w := newWorldWith(t, acquire.StrengthTPM, middle,
		application("app", acquire.Credential{Name: "via", Source: acquire.SourceOIDC, Bound: acquire.BoundRequire, Identity: "middle"}))
	w.rotate("", "unattested", false)
	seen := w.plays(always)
	if _, err := w.get(acquire.Request{Identity: "app"}); !isKind(err, acquire.KindRefused) || len(*seen) != 0 {
		t.Errorf("got %v after %d requests", err, len(*seen))
	}
}
